"""Broadcasts, on the fanout exchanges that kombu uses for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from kernel_lib_amqp import AmqpServer, frames
from kernel_lib_amqp.channel import Channel

from kernel import errors
from kernel.message import Message
from kernel_broker_amqp.envelope import AmqpMessage

_MOST: Final = 10_000
"""Messages that wait on the server for a reader that is slower than they come; the oldest go first."""


class AmqpSubscription:
    """Made by `AmqpBroker.subscribe`. A connection that breaks raises, and what was broadcast meanwhile is gone."""

    def __init__(self, server: AmqpServer, topic: str, closed: Callable[[AmqpSubscription], None]) -> None:
        self._closed = closed
        self._is_closed = False
        self._waiting: deque[Message] = deque()
        self._reading = threading.Lock()
        self._wire = server.connect(role="subscription")
        try:
            channel = Channel(self._wire)
            declare(channel, topic)
            name, _, _ = channel.declare_queue(
                "", durable=False, exclusive=True, auto_delete=True, arguments={"x-max-length": _MOST}
            )
            channel.bind_queue(name, topic)
            channel.consume(name, "topic", no_ack=True, exclusive=True)
        except BaseException:
            self._wire.close()
            raise

    def read(self, limit: int, timeout: float) -> Sequence[Message]:
        end = time.monotonic() + timeout
        with self._reading:
            while not self._is_closed and not self._waiting:
                left = end - time.monotonic()
                try:
                    found = self._wire.read(max(0.0, left))
                except errors.OperationalError:
                    if self._is_closed:
                        return []
                    raise
                self._waiting.extend(
                    AmqpMessage(head, body) for _, method, _, head, body in found if method == frames.BASIC_DELIVER
                )
                self._wire.check(1)
                if any(frame[1] == frames.BASIC_CANCEL for frame in found):
                    self._wire.sever("the queue of this subscription was deleted")
                if left <= 0:
                    break
            if self._is_closed:
                return []
            return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._wire.sever("the subscription was closed")
        with self._reading:
            self._wire.close()
        self._closed(self)


def declare(channel: Channel, topic: str) -> None:
    channel.declare_exchange(topic, "fanout", durable=False)
