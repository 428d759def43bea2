"""The broker that lives in its process: one instance, one store, one lock."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from kernel.interfaces import broker as api
from kernel.interfaces.setting import Setting
from kernel.message import Message, Publication
from kernel_broker_memory.store import Store


class MemoryBroker:
    """Messages in this process, gone with it. Two instances share nothing, whatever their URLs say.

    The option ``clock`` (a callable, seconds) takes the place of the wall's and the monotonic clock in tests.
    """

    interface = api.INTERFACE
    capabilities = api.BrokerCapabilities(crosses_processes=False, durable=False)
    settings: tuple[Setting, ...] = ()
    transaction_domain: str | None = None

    def __init__(self, config: api.BrokerConfig) -> None:
        clock = config.options.get("clock")
        self.store = Store(clock or time.monotonic, clock or time.time)
        # One lock, two reasons to wait: a publish wakes no subscription, and an acknowledgement wakes nobody.
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self.heard = threading.Condition(lock)
        self.holders: list[MemoryConsumer | MemorySubscription] = []

    def open(self) -> None: ...

    def close(self) -> None:
        for holder in [*self.holders]:
            holder.close()

    def declare(self, queues: Sequence[api.QueueSpec]) -> None:
        with self.changed:
            for spec in queues:
                self.store.ready.setdefault(spec.name, [])

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[api.PublishOutcome]:
        with self.changed:
            for item in batch:
                self.store.add(item)
            self.changed.notify_all()
        return [api.STORED] * len(batch)

    def consume(self, queues: Sequence[str], options: api.ConsumeOptions) -> MemoryConsumer:
        with self.changed:
            self.holders.append(consumer := MemoryConsumer(self, queues, options))
        return consumer

    def stats(self, queues: Sequence[str] = ()) -> Sequence[api.QueueStats]:
        with self.changed:
            return self.store.stats(queues)

    def purge(self, queue: str) -> int:
        with self.changed:
            return self.store.purge(queue)

    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        with self.changed:
            self.store.advance()
            return [entry.message for _, _, entry in heapq.nsmallest(limit, self.store.ready.get(queue, ()))]

    def pause(self, queue: str) -> None:
        with self.changed:
            self.store.paused.add(queue)

    def resume(self, queue: str) -> None:
        with self.changed:
            self.store.paused.discard(queue)
            self.changed.notify_all()

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[api.DeadLetter]:
        with self.changed:
            newest = (letter for letter, _ in reversed(self.store.dead.values()) if queue in (None, letter.queue))
            return list(islice(newest, limit))

    def retry_dead(self, ids: Iterable[str]) -> int:
        with self.changed:
            found = [self.store.dead.pop(name)[1] for name in dict.fromkeys(ids) if name in self.store.dead]
            self.publish([Publication(item.message.replayed(), item.queue, priority=item.priority) for item in found])
        return len(found)

    def drop_dead(self, ids: Iterable[str]) -> int:
        with self.changed:
            return sum(self.store.dead.pop(name, None) is not None for name in ids)

    def broadcast(self, topic: str, batch: Sequence[Message]) -> None:
        with self.changed:
            for holder in self.holders:
                if isinstance(holder, MemorySubscription) and holder.topic == topic:
                    holder.waiting.extend(batch)
            self.heard.notify_all()

    def subscribe(self, topic: str) -> MemorySubscription:
        with self.changed:
            self.holders.append(reader := MemorySubscription(self, topic))
        return reader


class MemoryConsumer:
    """Made by `MemoryBroker.consume`."""

    def __init__(self, broker: MemoryBroker, queues: Sequence[str], options: api.ConsumeOptions) -> None:
        self._broker, self._store, self._changed = broker, broker.store, broker.changed
        self._lease = broker.store.lease(queues, options.lease)
        self._woken = False

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[api.Delivery]:
        clock = self._store.clock
        with self._changed:
            end = clock() + timeout
            while not (taken := self._store.claim(self._lease, limit, max_bytes)) and not self._woken:
                if (now := clock()) >= end or self not in self._broker.holders:
                    break
                self._changed.wait(max(min(end, self._store.next_event()) - now, 0))
            self._woken = False
        return taken

    def start(self, deliveries: Sequence[api.Delivery]) -> Sequence[api.Settled]:
        with self._changed:
            return [self._store.start(self._lease, delivery) for delivery in deliveries]

    def settle(self, settlements: Sequence[api.Settlement]) -> Sequence[api.Settled]:
        if not all(item.is_plain for item in settlements):
            raise NotImplementedError("the memory broker has no atomic_end: store and publish before you settle")
        with self._changed:
            outcomes = [self._store.settle(self._lease, item) for item in settlements]
            if any(item.verdict is not api.Verdict.ACK for item in settlements):
                self._changed.notify_all()
        return outcomes

    def renew(self) -> bool:
        with self._changed:
            self._changed.notify_all()
            return self._store.renew(self._lease)

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            if self in self._broker.holders:
                self._broker.holders.remove(self)
                self._store.leases.remove(self._lease)
                self._store.release(self._lease, charged=False)
                self._changed.notify_all()


class MemorySubscription:
    """A reader of one topic; one that does not read loses the oldest messages past ten thousand."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker, self.topic = broker, topic
        self.waiting: deque[Message] = deque(maxlen=10_000)

    def read(self, limit: int, timeout: float) -> Sequence[Message]:
        with self._broker.changed:
            self._broker.heard.wait_for(lambda: self.waiting or self not in self._broker.holders, timeout)
            return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    def close(self) -> None:
        with self._broker.changed:
            if self in self._broker.holders:
                self._broker.holders.remove(self)
                self._broker.heard.notify_all()
