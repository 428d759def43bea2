"""The broker on RabbitMQ."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from kernel_lib_amqp import ChannelClosed, frames
from kernel_lib_amqp.faults import NOT_FOUND
from kernel_lib_amqp.findings import examine
from kernel_lib_amqp.settings import BROKER_SETTINGS, broker_server

from kernel import errors
from kernel.hooks import Finding
from kernel.interfaces import broker as api
from kernel.interfaces.setting import Setting
from kernel.message import Message, Publication
from kernel_broker_amqp import envelope, topics
from kernel_broker_amqp.consumer import AmqpConsumer
from kernel_broker_amqp.delays import release
from kernel_broker_amqp.heads import Heads
from kernel_broker_amqp.ladder import Ladder
from kernel_broker_amqp.publisher import Parcel, Publishers
from kernel_broker_amqp.shared import Shared
from kernel_broker_amqp.topics import AmqpSubscription

_MAX_BYTES: Final = 127 * 1024 * 1024
"""RabbitMQ takes messages of 128 MiB and closes the channel over a larger one."""
_TYPES: Final = ("classic", "quorum")


class AmqpBroker:
    """Messages in RabbitMQ, where Celery's producers and workers find them too. The options are in the README."""

    interface = api.INTERFACE
    capabilities = api.BrokerCapabilities(glances=False, max_bytes=_MAX_BYTES, exchanges=True)
    settings: tuple[Setting, ...] = (
        *BROKER_SETTINGS,
        Setting("task_default_queue_type", "str", "classic", "Type of the queues that are declared.", choices=_TYPES),
        Setting(
            "broker_native_delayed_delivery_queue_type",
            "str",
            "quorum",
            "Type of the queues in which delayed messages wait.",
            choices=_TYPES,
        ),
    )
    transaction_domain: str | None = None

    def __init__(self, config: api.BrokerConfig) -> None:
        options = config.options
        self.server = broker_server(config)
        self._shared = Shared(
            self.server,
            options,
            config.settings.get("task_default_queue_type", "classic"),
            config.settings.get("broker_native_delayed_delivery_queue_type", "quorum"),
        )
        self._ladder = Ladder(self._shared.admin, self._shared.delays)
        self._timeout = _seconds(options, "confirm_timeout", config.timeout)
        self._confirms = confirms = bool(options.get("confirm_publish", True))
        self._publishers = self._shared.publishers if confirms else Publishers(self.server, confirms=False)
        self._heads = Heads()
        self._lock = threading.Lock()
        self._holders: set[AmqpConsumer | AmqpSubscription] = set()

    def open(self) -> None:
        self._shared.admin.run(lambda channel: None)

    def close(self) -> None:
        with self._lock:
            holders = tuple(self._holders)
        for holder in holders:
            # With the server away, it has taken back what they held.
            with suppress(errors.OperationalError):
                holder.close()
        self._publishers.close()
        self._shared.close()

    # --- clients ------------------------------------------------------------------------------------------------

    def declare(self, specs: Sequence[api.QueueSpec]) -> None:
        for spec in specs:
            _check(spec.name)
        self._shared.declare(specs)

    def declare_exchanges(self, exchanges: Sequence[api.ExchangeSpec]) -> None:
        self._shared.declare_exchanges(exchanges)

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[api.PublishOutcome]:
        limit = self._timeout if timeout is None else timeout
        refused: dict[int, str] = {}
        if not batch:
            return []
        sent = iter(self._publishers.publish(self._parcels(batch, refused), limit))
        outcomes = [
            api.PublishOutcome(api.PublishState.REFUSED, refused[at]) if at in refused else next(sent)
            for at in range(len(batch))
        ]
        self._again(batch, outcomes, limit)
        return outcomes

    def _parcels(self, batch: Sequence[Publication], refused: dict[int, str]) -> Iterator[Parcel]:
        """What can be sent; why something cannot is filled into `refused`."""
        for at, item in enumerate(batch):
            try:
                parcel = self._parcel(item)
            except (errors.InvalidTaskError, ValueError) as exc:
                refused[at] = str(exc)
            else:
                yield parcel

    def _parcel(self, item: Publication) -> Parcel:
        message = item.message
        if len(message.body) > _MAX_BYTES:
            raise ValueError(f"the body has {len(message.body)} bytes; {_MAX_BYTES} are the most this broker takes")
        if item.exchange:
            # What is not due yet goes to its queues all the same: whoever claims it there puts it back for the rest.
            mandatory = not self._shared.is_fanout(item.exchange)
            where = frames.address(item.exchange, item.routing_key, mandatory=mandatory)
        elif item.due is not None:
            where = self._shared.address(item.queue, item.due)
        else:
            where = self._shared.address(item.queue, 0.0)
        return where, self._heads.head(message, priority=item.priority, persistent=item.persistent), message.body

    def _again(self, batch: Sequence[Publication], outcomes: list[api.PublishOutcome], limit: float) -> None:
        """What no queue took: the queue may have been deleted since it was declared. Once more, after declaring it."""
        lost = [at for at, outcome in enumerate(outcomes) if outcome.state is api.PublishState.REFUSED
                and not batch[at].exchange and outcome.reason.startswith("no queue")]  # fmt: skip
        for at, outcome in enumerate(outcomes):
            if batch[at].exchange and outcome.reason.startswith("no queue"):
                why = "no queue is bound to it with a key that fits"
                outcomes[at] = api.PublishOutcome(api.PublishState.REFUSED, why)
        missing = {batch[at].queue for at in lost}
        for queue in missing:
            self._shared.declare_again(queue)
        if lost:
            answers = self._publishers.publish([self._parcel(batch[at]) for at in lost], limit)
            for at, answer in zip(lost, answers, strict=True):
                outcomes[at] = answer

    def consume(self, queues: Sequence[str], options: api.ConsumeOptions) -> AmqpConsumer:
        if not queues:
            raise errors.ImproperlyConfigured("a consumer needs at least one queue; none was given")
        for queue in queues:
            _check(queue)
        consumer = AmqpConsumer(self._shared, queues, options, self._forget)
        with self._lock:
            self._holders.add(consumer)
        return consumer

    # --- operators ----------------------------------------------------------------------------------------------

    def stats(self, queues: Sequence[str] = ()) -> Sequence[api.QueueStats]:
        names = sorted({*queues} or self._shared.known())
        delayed = self._ladder.counts(names)
        paused = self._shared.pauses.paused(names)
        return [self._stats(name, delayed[name], name in paused) for name in names]

    def _stats(self, name: str, delayed: int, paused: bool) -> api.QueueStats:
        from kernel_broker_amqp.names import dead

        depth = self._shared.admin.depth(name) or (0, 0)
        letters = self._shared.admin.depth(dead(name)) or (0, 0)
        with self._lock:
            consumers = [holder for holder in self._holders if isinstance(holder, AmqpConsumer)]
        buffered = sum(consumer.buffered.get(name, 0) for consumer in consumers)
        return api.QueueStats(
            name,
            ready=depth[0] + buffered,
            delayed=delayed,
            claimed=sum(consumer.claimed.get(name, 0) for consumer in consumers),
            dead=letters[0],
            paused=paused,
            consumers=depth[1],
        )

    def findings(self) -> Sequence[Finding]:
        """For ``kernel doctor``."""
        shared = self._shared
        return examine(self.server, shared.as_declared(), consumer_timeout=shared.patience, confirms=self._confirms)

    def purge(self, queue: str) -> int:
        try:
            count = self._shared.admin.run(lambda channel: channel.purge_queue(queue))
        except ChannelClosed as exc:
            if exc.code != NOT_FOUND:
                raise
            return 0
        return count + self._ladder.purge(queue)

    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        if limit <= 0:
            return []
        try:
            with self._shared.admin.channel() as channel:
                found = channel.get_many(queue, limit)
                release(channel)
        except ChannelClosed as exc:
            if exc.code != NOT_FOUND:
                raise
            return []
        return [envelope.AmqpMessage(got.head, got.body) for got in found]

    def pause(self, queue: str) -> None:
        _check(queue)
        self._shared.pauses.mark(queue, paused=True)

    def resume(self, queue: str) -> None:
        _check(queue)
        self._shared.pauses.mark(queue, paused=False)

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[api.DeadLetter]:
        return self._shared.letters.newest(self._shared.known() if queue is None else [queue], limit)

    def retry_dead(self, ids: Iterable[str]) -> int:
        return self._shared.letters.retry(self._shared.known(), ids)

    def drop_dead(self, ids: Iterable[str]) -> int:
        return self._shared.letters.drop(self._shared.known(), ids)

    # --- broadcasts ---------------------------------------------------------------------------------------------

    def broadcast(self, topic: str, batch: Sequence[Message]) -> None:
        _check(topic)
        if not batch:
            return
        self._shared.admin.run(lambda channel: topics.declare(channel, topic))
        where = frames.address(topic, "", mandatory=False)
        parcels = [(where, envelope.head(message, persistent=False), message.body) for message in batch]
        self._shared.store(parcels)

    def subscribe(self, topic: str) -> AmqpSubscription:
        _check(topic)
        subscription = AmqpSubscription(self.server, topic, self._forget)
        with self._lock:
            self._holders.add(subscription)
        return subscription

    def _forget(self, holder: AmqpConsumer | AmqpSubscription) -> None:
        with self._lock:
            self._holders.discard(holder)


def _check(name: str) -> None:
    try:
        frames.short(name)
    except ValueError as exc:
        raise errors.ImproperlyConfigured(f"a name that RabbitMQ cannot hold: {exc}") from exc
    if not name:
        raise errors.ImproperlyConfigured("the name of a queue is empty")


def _seconds(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise errors.InvalidSetting(f"broker_transport_options[{name!r}] is {value!r}; seconds are needed")
    return float(value)
