"""The list of our queues, which AMQP cannot give: kept in a queue of its own, one message for each name."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import Final

from kernel_lib_amqp import ChannelClosed, frames
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.faults import NOT_FOUND

from kernel.interfaces.broker import PublishState
from kernel.message import Message
from kernel_broker_amqp import envelope, names
from kernel_broker_amqp.admin import Admin
from kernel_broker_amqp.delays import release
from kernel_broker_amqp.publisher import Publishers

_AT_ONCE: Final = 500


class Queues:
    """Which queues anybody of ours declared. Usable from any thread.

    A name is bound to a queue that keeps nothing, so that one message asks whether it is in the list already.
    """

    def __init__(self, admin: Admin, publishers: Publishers, timeout: float) -> None:
        self._admin = admin
        self._publishers = publishers
        self._timeout = timeout
        self._lock = threading.Lock()
        self._noted: set[str] = set()
        self._ready = False

    def forget(self) -> None:
        with self._lock:
            self._noted.clear()
            self._ready = False

    def note(self, queues: Iterable[str]) -> None:
        with self._lock:
            new = sorted({*queues} - self._noted)
            if not new:
                return
            if not self._ready:
                self._admin.run(_declare)
                self._ready = True
            head = envelope.head(Message({}, b"", content_type="text/plain"))
            asked = [(frames.address(names.QUEUES, name, mandatory=True), head, b"") for name in new]
            answers = self._publishers.publish(asked, self._timeout)
            missing = [
                name for name, answer in zip(new, answers, strict=True) if answer.state is not PublishState.STORED
            ]
            where = frames.address("", names.QUEUES, mandatory=True)
            self._publishers.publish_all([(where, head, name.encode()) for name in missing], self._timeout)
            for name in missing:
                self._admin.run(partial(_mark, name))
            self._noted.update(new)

    def all(self) -> set[str]:
        found: set[str] = set()
        try:
            with self._admin.channel() as channel:
                while part := channel.get_many(names.QUEUES, _AT_ONCE):
                    found.update(got.body.decode("utf-8", "replace") for got in part)
                    if len(part) < _AT_ONCE:
                        break
                release(channel)
        except ChannelClosed as exc:
            if exc.code != NOT_FOUND:
                raise
        return found


def _mark(name: str, channel: Channel) -> None:
    channel.bind_queue(names.MARKS, names.QUEUES, name)


def _declare(channel: Channel) -> None:
    channel.declare_exchange(names.QUEUES, "direct")
    channel.declare_queue(names.QUEUES)
    channel.declare_queue(names.MARKS, arguments={"x-message-ttl": 0, "x-max-length": 0})
