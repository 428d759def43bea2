"""Paused queues: kept on the server as bindings, told to everyone by a fanout exchange."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

from kernel_lib_amqp import frames
from kernel_lib_amqp.channel import Channel

from kernel.interfaces.broker import PublishState
from kernel.message import Message
from kernel_broker_amqp import envelope, names
from kernel_broker_amqp.admin import Admin
from kernel_broker_amqp.publisher import Publishers


class Pauses:
    """Those of one virtual host. Usable from any thread."""

    def __init__(self, admin: Admin, publishers: Publishers, timeout: float) -> None:
        self._admin = admin
        self._publishers = publishers
        self._timeout = timeout
        self._lock = threading.Lock()
        self._ready = False

    def _declare(self) -> None:
        with self._lock:
            if not self._ready:
                self._admin.run(_declare)
                self._ready = True

    def forget(self) -> None:
        self._ready = False

    def mark(self, queue: str, *, paused: bool) -> None:
        self._declare()
        if paused:
            self._admin.run(lambda channel: channel.bind_queue(names.PAUSED, names.PAUSED, queue))
        else:
            self._admin.run(lambda channel: channel.unbind_queue(names.PAUSED, names.PAUSED, queue))
        notice = json.dumps({"queue": queue, "paused": paused}).encode()
        message = Message({}, notice, content_type="application/json", properties={"delivery_mode": 1})
        parcel = frames.address(names.PAUSES, "", mandatory=False), envelope.head(message, persistent=False), notice
        self._publishers.publish_all([parcel], self._timeout)

    def paused(self, queues: Sequence[str]) -> set[str]:
        """Which of these are. Asked by sending each a message that nothing keeps: it comes back where nothing is
        bound."""
        self._declare()
        head = envelope.head(Message({}, b"", content_type="text/plain"), persistent=False)
        parcels = [(frames.address(names.PAUSED, queue, mandatory=True), head, b"") for queue in queues]
        answers = self._publishers.publish(parcels, self._timeout)
        return {queue for queue, answer in zip(queues, answers, strict=True) if answer.state is PublishState.STORED}

    def listen(self, channel: Channel, queue: str) -> None:
        """Bind a queue to the notices."""
        self._declare()
        channel.bind_queue(queue, names.PAUSES)


def _declare(channel: Channel) -> None:
    channel.declare_exchange(names.PAUSES, "fanout")
    channel.declare_exchange(names.PAUSED, "direct")
    channel.declare_queue(names.PAUSED, arguments={"x-message-ttl": 0, "x-max-length": 0})
