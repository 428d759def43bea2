"""`KombuSender`: publishes over a connection or producer of kombu's that a program holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import kombu
from kombu.exceptions import OperationalError

from kernel import errors
from kernel.interfaces.broker import STORED, ExchangeSpec, PublishOutcome, PublishState, QueueSpec
from kernel.message import Publication

_PATIENCE: Final = 4.0
# kombu loads its names when they are asked for, and has no annotations.
_KOMBU: Final[Any] = kombu


def sender_of(given: object) -> KombuSender | None:
    """None for what is neither a connection nor a producer of kombu's."""
    if isinstance(given, _KOMBU.Connection):
        return KombuSender(_KOMBU.Producer(given, auto_declare=False), given)
    if isinstance(given, _KOMBU.Producer):
        return KombuSender(given, None)
    return None


class KombuSender:
    """See `kernel.interfaces.sender.Sender`. What is promised of a message ends where kombu's transport says nothing:
    on RabbitMQ, confirms come with ``Connection(transport_options={"confirm_publish": True})``.

    Not for several threads at a time, as the object itself.
    """

    def __init__(self, producer: Any, connection: Any) -> None:
        self._producer = producer
        self._given = connection
        self._broken = False

    @property
    def _connection(self) -> Any:
        connection = self._given or self._producer.connection
        if connection is None:
            raise errors.OperationalError("the producer of kombu's has no connection: it was released or closed")
        return connection

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        """Make queues exist that do not, on channels of their own: an error of a server ends the channel."""
        connection = self._ready()
        # kombu forgets these with the connection to the server.
        declared = connection.declared_entities
        for spec in queues:
            if (mark := f"kernel:{spec.name}{':bound' if spec.bindings else ''}") in declared:
                continue
            queue = _KOMBU.Queue(spec.name, durable=spec.durable, queue_arguments=dict(spec.arguments) or None)
            if spec.max_priority is not None:
                queue.max_priority = spec.max_priority
            if not self._exists(connection, queue):
                with self._errors(connection), connection.channel() as channel:
                    queue(channel).declare()
            self.declare_exchanges([binding.exchange for binding in spec.bindings])
            for binding in spec.bindings:
                with self._errors(connection), connection.channel() as channel:
                    queue(channel).bind_to(binding.exchange.name, binding.routing_key, dict(binding.arguments))
            declared.add(mark)

    def declare_exchanges(self, exchanges: Sequence[ExchangeSpec]) -> None:
        """The same for exchanges; one that is there otherwise is left as it is."""
        connection = self._ready()
        for spec in exchanges:
            exchange = _KOMBU.Exchange(
                spec.name,
                spec.type,
                durable=spec.durable,
                auto_delete=spec.auto_delete,
                arguments=dict(spec.arguments) or None,
            )
            taken = contextlib.suppress(*connection.channel_errors)
            with self._errors(connection), taken, connection.channel() as channel:
                exchange(channel).declare()

    def _exists(self, connection: Any, queue: Any) -> bool:
        try:
            with connection.channel() as channel:
                queue(channel).queue_declare(passive=True)
        except connection.channel_errors:
            return False
        except connection.connection_errors as exc:
            raise errors.OperationalError(f"kombu's connection {connection.as_uri()} broke: {exc}") from exc
        return True

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        connection = self._ready()
        outcomes: list[PublishOutcome] = []
        for item in batch:
            try:
                self._publish(item, timeout)
            except (*connection.connection_errors, *connection.channel_errors) as exc:
                self._broken = True
                unknown = PublishOutcome(PublishState.UNKNOWN, f"kombu's connection {connection.as_uri()}: {exc}")
                return [*outcomes, *[unknown] * (len(batch) - len(outcomes))]
            outcomes.append(STORED)
        return outcomes

    def _publish(self, item: Publication, timeout: float | None) -> None:
        message = item.message
        # kombu makes `expiration` of seconds, and takes the two others from here.
        properties = {
            name: value
            for name, value in message.properties.items()
            if name not in ("expiration", "priority", "delivery_mode") and value is not None
        }
        expiration = message.properties.get("expiration")
        self._producer.publish(
            message.body,
            routing_key=item.routing_key,
            exchange=item.exchange,
            delivery_mode=2 if item.persistent else 1,
            priority=item.priority,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=dict(message.headers),
            expiration=None if expiration is None else int(expiration) / 1000,
            timeout=timeout,
            retry=False,
            **properties,
        )

    def _ready(self) -> Any:
        """The connection, connected: kombu itself would try for ever."""
        connection = self._connection
        with self._errors(connection):
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_PATIENCE)
            if self._broken:
                self._producer.revive(connection.default_channel)
                self._broken = False
        return connection

    @contextlib.contextmanager
    def _errors(self, connection: Any) -> Iterator[None]:
        try:
            yield
        except (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError) as exc:
            self._broken = True
            raise errors.OperationalError(f"kombu's connection {connection.as_uri()} failed: {exc}") from exc
