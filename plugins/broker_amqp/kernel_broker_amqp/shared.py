"""What the broker, its consumers and its dead letters share: connections, declared queues, addresses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from kernel_lib_amqp import AmqpServer, ChannelClosed, frames
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.faults import PRECONDITION_FAILED

from kernel import errors
from kernel.interfaces.broker import ExchangeSpec, QueueSpec
from kernel_broker_amqp.admin import Admin
from kernel_broker_amqp.delays import Delays
from kernel_broker_amqp.letters import Letters
from kernel_broker_amqp.pauses import Pauses
from kernel_broker_amqp.publisher import Parcel, Publishers
from kernel_broker_amqp.queues import Queues

_log: Final = logging.getLogger("kernel.amqp")
_PATIENCE: Final = 1800.0
"""Seconds after which RabbitMQ ends a channel whose delivery is not settled, as it is shipped."""


class Shared:
    """One virtual host. Usable from any thread."""

    def __init__(self, server: AmqpServer, options: Mapping[str, Any], queue_type: str, delay_type: str) -> None:
        self.server = server
        self.timeout = server.timeout
        self.patience = _patience(options)
        self.hand_over_after = self.patience * 0.4
        self.admin = Admin(server)
        # What we move ourselves is confirmed, whatever the publishing of tasks does.
        self.publishers = Publishers(server, confirms=True)
        self.delays = Delays(self.admin, delay_type)
        self.letters = Letters(self.admin, self.publishers, self.timeout)
        self.pauses = Pauses(self.admin, self.publishers, self.timeout)
        self.queues = Queues(self.admin, self.publishers, self.timeout)
        self._queue_type = queue_type
        self._lock = threading.Lock()
        self._specs: dict[str, QueueSpec] = {}
        self._types: dict[str, str] = {}
        self._addresses: dict[str, bytes] = {}
        self._told: set[str] = set()

    def close(self) -> None:
        self.publishers.close()
        self.admin.close()
        for part in (self.delays, self.letters, self.pauses, self.queues):
            part.forget()

    def doubt(self, why: str) -> None:
        """A connection to the server was found dead though nobody had ended it: those that are used now and then are
        made again rather than waited for."""
        self.admin.doubt(why)
        self.publishers.doubt(why)

    # --- queues -------------------------------------------------------------------------------------------------

    def declare(self, specs: Sequence[QueueSpec]) -> None:
        for spec in specs:
            with self._lock:
                self._specs[spec.name] = spec
            self.admin.run(partial(self._declare, spec))
        self.queues.note(spec.name for spec in specs)

    def _arguments(self, spec: QueueSpec) -> dict[str, Any]:
        arguments = dict(spec.arguments)
        if self._queue_type == "quorum":
            arguments.setdefault("x-queue-type", "quorum")
        if arguments.get("x-queue-type") == "classic":
            # What a queue is that says nothing: who declared it so has to be met.
            del arguments["x-queue-type"]
        if spec.max_priority is not None and arguments.get("x-queue-type", "classic") == "classic":
            arguments.setdefault("x-max-priority", spec.max_priority)
        return arguments

    def as_declared(self) -> dict[str, dict[str, Any]]:
        """Our queues, with the arguments that they are declared with here."""
        with self._lock:
            specs = {**self._specs}
        return {name: self._arguments(specs.get(name) or QueueSpec(name)) for name in self.known()}

    def _declare(self, spec: QueueSpec, channel: Channel) -> None:
        try:
            channel.declare_queue(
                spec.name,
                durable=spec.durable,
                exclusive=spec.exclusive,
                auto_delete=spec.auto_delete,
                arguments=self._arguments(spec),
            )
        except ChannelClosed as exc:
            if exc.code != PRECONDITION_FAILED:
                raise
            # It exists with other arguments, and stays as it is.
            channel.reopen()
            self._tell_otherwise(spec.name, str(exc))
        for binding in spec.bindings:
            exchange = binding.exchange
            if exchange.name:
                self._declare_exchange(exchange, channel)
                channel.bind_queue(spec.name, exchange.name, binding.routing_key, arguments=dict(binding.arguments))

    def declare_exchanges(self, exchanges: Sequence[ExchangeSpec]) -> None:
        for exchange in exchanges:
            if exchange.name:
                self.admin.run(partial(self._declare_exchange, exchange))

    def _declare_exchange(self, exchange: ExchangeSpec, channel: Channel) -> None:
        with self._lock:
            self._types[exchange.name] = exchange.type
        try:
            channel.declare_exchange(
                exchange.name,
                exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                arguments=dict(exchange.arguments),
            )
        except ChannelClosed as exc:
            if exc.code != PRECONDITION_FAILED:
                raise
            # It exists, declared otherwise, and stays as it is.
            channel.reopen()

    def is_fanout(self, exchange: str) -> bool:
        """Whether it is known to be one: that nobody listens there is no error."""
        return self._types.get(exchange) == "fanout"

    def _tell_otherwise(self, queue: str, why: str) -> None:
        """Once for each queue: messages in one that is not durable are gone with the server."""
        with self._lock:
            if queue in self._told:
                return
            self._told.add(queue)
        _log.warning(
            "the queue %r is there already, declared otherwise, and is used as it is: %s; "
            "`kernel doctor` says what that means",
            queue,
            why,
        )

    def declare_again(self, queue: str) -> None:
        """After it was deleted; as it was declared before, where that is known."""
        with self._lock:
            spec = self._specs.get(queue) or QueueSpec(queue)
        self.delays.forget()
        self.letters.forget()
        self.queues.forget()
        self.declare([spec])

    def ensure(self, queues: Iterable[str]) -> None:
        """Make those exist that nobody declared."""
        for queue in queues:
            if self.admin.depth(queue) is None:
                self.declare_again(queue)

    def known(self) -> list[str]:
        with self._lock:
            own = set(self._specs)
        return sorted(own | self.queues.all())

    # --- messages -----------------------------------------------------------------------------------------------

    def address(self, queue: str, due: float) -> bytes:
        """What brings a message to a queue: at once, or by the ladder when `due` (Unix seconds) is ahead."""
        if due > time.time():
            return frames.address(*self.delays.address(queue, due), mandatory=True)
        found = self._addresses.get(queue)
        if found is None:
            if len(self._addresses) > 10_000:
                self._addresses.clear()
            found = self._addresses[queue] = frames.address("", queue, mandatory=True)
        return found

    def store(self, parcels: Sequence[Parcel]) -> None:
        """Confirmed, all of them. Raises `OperationalError` when one is not for certain."""
        if parcels:
            self.publishers.publish_all(parcels, self.timeout)


def _patience(options: Mapping[str, Any]) -> float:
    value = options.get("consumer_timeout")
    if value is None:
        return _PATIENCE
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise errors.InvalidSetting(
            f"broker_transport_options['consumer_timeout'] is {value!r}; seconds are needed, as the server allows "
            "them (its own consumer_timeout is in milliseconds)"
        )
    return float(value)
