"""Broadcasts, on the channels that kombu uses for its fanout exchanges."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from kernel_lib_redis import Listener, RedisServer

from kernel.message import Message
from kernel_broker_redis import envelope

_MOST: Final = 10_000
"""Messages kept for a reader that reads slower than they come; the oldest go first."""


class RedisSubscription:
    """Made by `RedisBroker.subscribe`."""

    def __init__(self, server: RedisServer, channel: bytes, closed: Callable[[RedisSubscription], None]) -> None:
        self._closed = closed
        self._is_closed = False
        self._waiting: deque[Message] = deque(maxlen=_MOST)
        self._reading = threading.Lock()
        # Who sends to a fanout exchange with a routing key sends to a channel of its own.
        self._listener = Listener(server, [_escaped(channel) + b"/*"])
        try:
            self._listener.subscribe_now([channel], server.timeout)
        except BaseException:
            self._listener.close()
            raise

    def read(self, limit: int, timeout: float) -> Sequence[Message]:
        end = time.monotonic() + timeout
        with self._reading:
            while not self._is_closed and not self._waiting:
                left = end - time.monotonic()
                events = self._listener.read(max(0.0, left))
                self._waiting.extend(envelope.decode(event.data) for event in events if event.kind == "message")
                if left <= 0:
                    break
            if self._is_closed:
                return []
            return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._listener.close()
            self._closed(self)


def _escaped(channel: bytes) -> bytes:
    """The channel as a pattern that fits it alone."""
    return re.sub(rb"([\\*?\[\]])", rb"\\\1", channel)
