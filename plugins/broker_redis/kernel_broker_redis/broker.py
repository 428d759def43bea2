"""The broker on Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from kernel_lib_redis import ConnectionLost, broker_server, examine
from kernel_lib_redis.settings import BROKER_SETTINGS

from kernel import errors
from kernel.hooks import Finding
from kernel.interfaces import broker as api
from kernel.interfaces.setting import Setting
from kernel.message import Message, Publication
from kernel_broker_redis import envelope, queue_scripts
from kernel_broker_redis.consumer import RedisConsumer
from kernel_broker_redis.layout import Layout
from kernel_broker_redis.letters import Letters
from kernel_broker_redis.sender import MAX_BYTES, Sender
from kernel_broker_redis.shortcut import RedisShortcut
from kernel_broker_redis.topics import RedisSubscription

_AT_ONCE: Final = 1000
"""Messages that one script moves: other clients wait meanwhile."""


class RedisBroker:
    """Messages in Redis, where Celery's producers and workers find them too.

    The options are in the README. Publishing is as durable as the server's settings make it.
    """

    interface = api.INTERFACE
    capabilities = api.BrokerCapabilities(
        low_first=True,
        atomic_end=True,
        atomic_batches=True,
        atomic_chords=True,
        shortcuts=True,
        max_bytes=MAX_BYTES,
        keeps_fanouts=False,
    )
    settings: tuple[Setting, ...] = BROKER_SETTINGS

    def __init__(self, config: api.BrokerConfig) -> None:
        self._timeout = config.timeout
        self.server = broker_server(config)
        self.layout = Layout(self.server.prefix, self.server.db, config.options)
        self._sender = Sender(self.server, self.layout)
        self._letters = Letters(self.server, self.layout)
        self._lock = threading.Lock()
        self._holders: set[RedisConsumer | RedisSubscription] = set()

    @property
    def transaction_domain(self) -> str | None:
        return self.server.domain

    def open(self) -> None:
        self.server.open()

    def findings(self) -> Sequence[Finding]:
        """What ``kernel doctor`` says of the server."""
        return examine(self.server, "broker")

    def close(self) -> None:
        with self._lock:
            holders = tuple(self._holders)
        for holder in holders:
            # With the server away, claims go back when their lease runs out.
            with suppress(errors.OperationalError):
                holder.close()
        self.server.close()

    # --- clients ------------------------------------------------------------------------------------------------

    def declare(self, specs: Sequence[api.QueueSpec]) -> None:
        self.layout.check([spec.name for spec in specs])
        if not specs:
            return
        words: list[object] = []
        for spec in specs:
            words += self.layout.queues, self.layout.queue(spec.name)
            for table, member in self.layout.bindings(spec):
                words += table, member
        # Twice does no harm.
        with suppress(ConnectionLost):
            self._run(queue_scripts.DECLARE, *words)
            return
        self._run(queue_scripts.DECLARE, *words)

    def bindings(self, exchange: str) -> Sequence[api.Bound]:
        """What is bound to an exchange by anyone, Celery's workers among them."""
        found = self.server.call("SMEMBERS", self.layout.table(exchange))
        members = sorted(member.decode("utf-8", "replace") for member in found)
        return [bound for member in members if (bound := self.layout.bound(member)) is not None]

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[api.PublishOutcome]:
        return self._sender.publish(batch)

    def consume(self, names: Sequence[str], options: api.ConsumeOptions) -> RedisConsumer:
        if not names:
            raise errors.ImproperlyConfigured("a consumer needs at least one queue; none was given")
        self.open()
        consumer = RedisConsumer(
            self.server, self.layout, self.layout.check(names), options, place=self._sender.place, closed=self._forget
        )
        with self._lock:
            self._holders.add(consumer)
        return consumer

    def shortcut(self, queues: Sequence[str]) -> RedisShortcut:
        return RedisShortcut(self.server, self.layout, self.layout.check(queues), self._sender.place)

    # --- operators ----------------------------------------------------------------------------------------------

    def _all_queues(self) -> list[str]:
        found = self.server.call("SMEMBERS", self.layout.queues)
        return sorted(self.layout.name(key.decode("utf-8", "replace")) for key in found)

    def stats(self, names: Sequence[str] = ()) -> Sequence[api.QueueStats]:
        return [self._stats(name) for name in sorted(set(names) or self._all_queues())]

    def _stats(self, name: str) -> api.QueueStats:
        ready, delayed, claimed, dead, paused, consumers, sent, now = self._run(
            queue_scripts.STATS, *self.layout.lists(name)
        )
        return api.QueueStats(
            name,
            ready,
            delayed,
            claimed,
            dead,
            oldest=max(0.0, now / 1000 - float(sent)) if sent else None,
            paused=bool(paused),
            consumers=consumers,
        )

    def purge(self, queue: str) -> int:
        return int(self._run(queue_scripts.PURGE, *self.layout.lists(queue)))

    def release(self, queue: str) -> api.Released:
        """Celery's workers and kombu's tools find everything in the queue's lists afterwards."""
        lists = self.layout.lists(*self.layout.check([queue]))
        claimed = delayed = 0
        while True:
            owners, given_back, moved = self._run(queue_scripts.PLAIN, _AT_ONCE, *lists)
            claimed, delayed = claimed + given_back, delayed + moved
            if owners or moved < _AT_ONCE:
                return api.Released(queue, delayed, claimed, owners)

    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        if limit <= 0:
            return []
        (clock, *found) = self.server.pipeline(
            [("TIME",)] + [("LRANGE", key, -limit, -1) for key in self.layout.lists(queue)]
        )
        now = int(clock[0]) * 1000 + int(clock[1]) // 1000
        delayed = [f"{self.layout.prefix}kernel:{{{key}}}:delayed" for key in self.layout.lists(queue)]
        due = self.server.pipeline([("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, limit) for key in delayed])
        raws = [
            raw
            for released, waiting in zip(due, found, strict=True)
            for raw in (*(member[25:] for member in released), *reversed(waiting))
        ]
        return [envelope.decode(raw) for raw in raws[:limit]]

    def pause(self, queue: str) -> None:
        self._run(queue_scripts.PAUSE, self.layout.queue(*self.layout.check([queue])), 1)

    def resume(self, queue: str) -> None:
        self._run(queue_scripts.PAUSE, self.layout.queue(*self.layout.check([queue])), 0)

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[api.DeadLetter]:
        return self._letters.newest(self._all_queues() if queue is None else [queue], limit)

    def retry_dead(self, ids: Iterable[str]) -> int:
        return self._letters.retry(self._all_queues(), ids)

    def drop_dead(self, ids: Iterable[str]) -> int:
        return self._letters.drop(self._all_queues(), ids)

    def _run(self, script: Any, *words: object) -> Any:
        return self.server.script(script, self.layout.prefix, self.layout.sep, *words)

    # --- broadcasts ---------------------------------------------------------------------------------------------

    def broadcast(self, topic: str, batch: Sequence[Message]) -> None:
        channel = self.layout.channel(*self.layout.check([topic]))
        if batch:
            exchange, _, key = topic.partition("/")
            self.server.pipeline(
                [("PUBLISH", channel, envelope.encode(each, key, exchange=exchange)) for each in batch]
            )

    def subscribe(self, topic: str) -> RedisSubscription:
        self.open()
        subscription = RedisSubscription(self.server, self.layout.channel(*self.layout.check([topic])), self._forget)
        with self._lock:
            self._holders.add(subscription)
        return subscription

    def _forget(self, holder: RedisConsumer | RedisSubscription) -> None:
        with self._lock:
            self._holders.discard(holder)
