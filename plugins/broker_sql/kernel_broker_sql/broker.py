"""The broker on a database: SQLite by a file's path, PostgreSQL by URL."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import Any, Final

from kernel_lib_sql import CommitUnknown, Database, Transaction, database_for

from kernel import errors
from kernel.interfaces import broker as api
from kernel.interfaces.setting import Setting
from kernel.message import Message, Publication
from kernel_broker_sql import letters, outbox, queues, rows, topics
from kernel_broker_sql.consumer import SqlConsumer
from kernel_broker_sql.schema import BROKER
from kernel_broker_sql.topics import SqlSubscription

_MAX_BYTES: Final = 256 * 1024 * 1024
_MAX_KNOWN: Final = 1000
_MAX_DOUBTFUL: Final = 1000


class SqlBroker:
    """Messages in tables of one database. Everything is one transaction: a claim, a batch of settlements with the
    records and publications that belong to them, a batch of publications.

    The only option is ``timeout`` (seconds that a call may wait for other writers or for the server).
    """

    interface = api.INTERFACE
    capabilities = api.BrokerCapabilities(
        atomic_end=True, atomic_batches=True, atomic_chords=True, max_bytes=_MAX_BYTES
    )
    settings: tuple[Setting, ...] = ()

    def __init__(self, config: api.BrokerConfig) -> None:
        timeout = _timeout(config.options.get("timeout", config.timeout))
        self.database: Database = database_for(config.url, timeout=timeout, options=config.options)
        self._lock = threading.Lock()
        self._holders: set[SqlConsumer | SqlSubscription] = set()
        self._doubtful: deque[str] = deque(maxlen=_MAX_DOUBTFUL)
        self._known: tuple[int, frozenset[str]] = (-1, frozenset())

    @property
    def transaction_domain(self) -> str | None:
        return self.database.domain

    def open(self) -> None:
        self.database.open()
        self.database.ensure(BROKER)

    def close(self) -> None:
        with self._lock:
            holders = tuple(self._holders)
        for holder in holders:
            # With the server away, claims go back when their lease runs out.
            with suppress(errors.OperationalError):
                holder.close()
        self.database.close()

    # --- clients ------------------------------------------------------------------------------------------------

    def declare(self, specs: Sequence[api.QueueSpec]) -> None:
        names = [rows.check_name(spec.name) for spec in specs]
        with self._write() as tx:
            queues.declare(tx, names)
            queues.bind(tx, specs)

    def bindings(self, exchange: str) -> Sequence[api.Bound]:
        with self._read() as tx:
            return queues.bindings(tx, exchange)

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[api.PublishOutcome]:
        outcomes = [_refusal(item) or api.STORED for item in batch]
        accepted = [item for item, outcome in zip(batch, outcomes, strict=True) if outcome is api.STORED]
        if accepted:
            try:
                self._store(accepted, timeout)
            except CommitUnknown as exc:
                # Whoever sends these again shall not double them.
                self._doubtful.extend(filter(None, (rows.id_of(item.message) for item in accepted)))
                unknown = api.PublishOutcome(api.PublishState.UNKNOWN, str(exc))
                return [unknown if outcome is api.STORED else outcome for outcome in outcomes]
        return outcomes

    def publish_within(self, connection: Any, batch: Sequence[Publication]) -> Callable[[], None] | None:
        """See `kernel.interfaces.unit.Enlists`."""
        # Imported for those who have a transaction of their own.
        from kernel_broker_sql import within

        for item in batch:
            if (refusal := _refusal(item)) is not None:
                raise errors.PublishRefused(f"the broker {self.database.domain} refused a message: {refusal.reason}")
        self.database.ensure(BROKER)
        return within.publish(self.database, connection, batch, declare=self._declare_new)

    def _declare_new(self, used: frozenset[str]) -> None:
        """Make queues exist, in a transaction of our own, that this process has not sent to before."""
        generation, known = self._known
        if generation != self.database.generation or used - known:
            with self._write() as tx:
                queues.declare(tx, used)
            self._remember(used)

    def _remember(self, used: frozenset[str]) -> None:
        # After the commit, so that a batch that failed is not taken to have declared anything.
        generation, known = self._known
        known = known if generation == self.database.generation else frozenset()
        self._known = (self.database.generation, frozenset(islice(known | used, _MAX_KNOWN)))

    def _store(self, accepted: Sequence[Publication], timeout: float | None) -> None:
        prepared = outbox.prepare(accepted)
        used = frozenset(item.queue for item in accepted)
        with self._write(timeout=timeout) as tx:
            generation, known = self._known
            new = used if generation != self.database.generation else used - known
            if new:
                queues.declare(tx, new)
            outbox.insert(tx, accepted, prepared, self._doubtful)
        if new:
            self._remember(used)

    def consume(self, names: Sequence[str], options: api.ConsumeOptions) -> SqlConsumer:
        if not names:
            raise errors.ImproperlyConfigured("a consumer needs at least one queue; none was given")
        self.open()
        consumer = SqlConsumer(self.database, [rows.check_name(name) for name in names], options, self._forget)
        with self._lock:
            self._holders.add(consumer)
        return consumer

    # --- operators ----------------------------------------------------------------------------------------------

    def stats(self, names: Sequence[str] = ()) -> Sequence[api.QueueStats]:
        with self._read() as tx:
            return queues.stats(tx, names)

    def purge(self, queue: str) -> int:
        total = 0
        with self._read() as tx:
            # What is published from here on is not waited for: a busy publisher would keep us here for ever.
            last = queues.newest(tx)
        while True:
            with self._write() as tx:
                purged = queues.purge_some(tx, queue, last)
            if not purged:
                return total
            total += purged

    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        with self._read() as tx:
            return queues.peek(tx, queue, limit)

    def pause(self, queue: str) -> None:
        with self._write() as tx:
            queues.pause(tx, rows.check_name(queue), paused=True)

    def resume(self, queue: str) -> None:
        with self._write() as tx:
            queues.pause(tx, rows.check_name(queue), paused=False)

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[api.DeadLetter]:
        with self._read() as tx:
            return letters.list_letters(tx, queue, limit)

    def retry_dead(self, ids: Iterable[str]) -> int:
        with self._write() as tx:
            return letters.retry(tx, ids)

    def drop_dead(self, ids: Iterable[str]) -> int:
        with self._write() as tx:
            return letters.drop(tx, ids)

    # --- broadcasts ---------------------------------------------------------------------------------------------

    def broadcast(self, topic: str, batch: Sequence[Message]) -> None:
        # Nobody there: nothing is kept for those who come later, so nothing needs to be written.
        if batch and self.database.heard(topics.topic_of(rows.check_name(topic))):
            with self._write(durable=False) as tx:
                topics.send(tx, topic, batch)

    def subscribe(self, topic: str) -> SqlSubscription:
        self.open()
        subscription = SqlSubscription(self.database, rows.check_name(topic), self._forget)
        with self._lock:
            self._holders.add(subscription)
        return subscription

    def _forget(self, holder: SqlConsumer | SqlSubscription) -> None:
        with self._lock:
            self._holders.discard(holder)

    def _write(self, *, durable: bool = True, timeout: float | None = None) -> AbstractContextManager[Transaction]:
        self.database.ensure(BROKER)
        return self.database.write(durable=durable, timeout=timeout)

    def _read(self) -> AbstractContextManager[Transaction]:
        self.database.ensure(BROKER)
        return self.database.read()


def _timeout(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise errors.InvalidSetting(
        f"broker_transport_options['timeout'] is {value!r}; a number of seconds above 0 is needed"
    )


def _refusal(item: Publication) -> api.PublishOutcome | None:
    if why := rows.name_fault(item.queue):
        return api.PublishOutcome(api.PublishState.REFUSED, f"queue {item.queue!r}: {why}")
    size = len(item.message.body)
    if size > _MAX_BYTES:
        return api.PublishOutcome(
            api.PublishState.REFUSED, f"the body has {size} bytes; {_MAX_BYTES} are the most this broker takes"
        )
    return None
