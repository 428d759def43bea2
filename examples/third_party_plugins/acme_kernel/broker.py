"""A broker in the memory of one process.

A message never moves: it stays in the dictionary of its queue, in the order of publishing, until it is acknowledged
or buried. A claim writes a token and a holder on it; a requeue takes them off again. So a message that is given back
is in front by itself, and a claim whose holder's lease has run out is free without anyone sweeping.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from kernel.errors import InvalidTaskError
from kernel.interfaces.broker import (
    STORED,
    BrokerCapabilities,
    BrokerConfig,
    ConsumeOptions,
    DeadLetter,
    Delivery,
    PublishOutcome,
    PublishState,
    QueueSpec,
    QueueStats,
    Settled,
    Settlement,
    Verdict,
)
from kernel.interfaces.setting import Setting
from kernel.message import Message, Publication


@dataclass(slots=True, eq=False)
class Entry:
    """A message and who holds it. `begun`: the present claim has a recorded start, which `starts` counts."""

    number: int
    message: Message
    queue: str
    due: float
    born: float
    holder: AcmeConsumer | None = None
    token: str = ""
    starts: int = 0
    begun: bool = False
    seen: bool = False

    def is_held(self) -> bool:
        return self.holder is not None and self.holder.deadline > time.monotonic()

    def give_back(self, *, charged: bool) -> None:
        self.starts += charged - self.begun
        self.holder, self.begun = None, False


class AcmeBroker:
    """``acme://``. Two instances share nothing."""

    interface = (1, 0)
    capabilities = BrokerCapabilities(
        crosses_processes=False, durable=False, priorities=False, broadcast=False, pause=False
    )
    settings = (Setting("acme_max_messages", "int", 1_000_000, "Messages that the acme broker keeps at most."),)
    transaction_domain: str | None = None

    def __init__(self, config: BrokerConfig) -> None:
        self._limit = config.settings.get("acme_max_messages", 1_000_000)
        self._numbers = itertools.count(1)
        self._dead: dict[str, tuple[DeadLetter, Entry]] = {}
        self.queues: dict[str, dict[int, Entry]] = {}
        """Entries by number; what was published first comes first."""
        self.consumers: list[AcmeConsumer] = []
        self.changed = threading.Condition()

    def open(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        for consumer in tuple(self.consumers):
            consumer.close()

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        with self.changed:
            for spec in queues:
                self.queues.setdefault(spec.name, {})

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        with self.changed:
            outcomes = [self._publish(item) for item in batch]
            self.changed.notify_all()
        return outcomes

    def _publish(self, item: Publication) -> PublishOutcome:
        if sum(map(len, self.queues.values())) >= self._limit:
            return PublishOutcome(PublishState.REFUSED, f"acme_max_messages is {self._limit}, and as many wait")
        entry = Entry(next(self._numbers), item.message, item.queue, item.due or 0.0, time.time())
        self.queues.setdefault(item.queue, {})[entry.number] = entry
        return STORED

    def consume(self, queues: Sequence[str], options: ConsumeOptions) -> AcmeConsumer:
        with self.changed:
            consumer = AcmeConsumer(self, queues, options.lease)
            self.consumers.append(consumer)
        return consumer

    def free(self, queue: str) -> Iterator[Entry]:
        """What may be claimed now, oldest first. The lock is held."""
        now = time.time()
        return (entry for entry in self.queues.get(queue, {}).values() if entry.due <= now and not entry.is_held())

    def next_event(self, queues: Iterable[str]) -> float:
        """Seconds until a message may come due, or a lease may run out. The lock is held."""
        wall, clock = time.time(), time.monotonic()
        entries = [entry for name in queues for entry in self.queues.get(name, {}).values()]
        waits = [entry.due - wall for entry in entries if entry.due > wall]
        waits += [entry.holder.deadline - clock for entry in entries if entry.holder is not None and entry.is_held()]
        return max(0.0, min(waits, default=math.inf))

    def bury(self, entry: Entry, reason: str) -> None:
        """Keep it as a dead letter. The lock is held."""
        del self.queues[entry.queue][entry.number]
        try:
            name, task = entry.message.id, entry.message.task
        except InvalidTaskError:
            name, task = f"unreadable-{entry.number}", ""
        if name in self._dead:
            name = f"{name}-{entry.number}"
        letter = DeadLetter(name, task, entry.queue, reason, time.time(), entry.starts, entry.message)
        self._dead[name] = letter, entry

    # --- looking after queues -------------------------------------------------------------------------------

    def stats(self, queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        with self.changed:
            return [self._stats(name) for name in sorted(set(queues or self.queues))]

    def _stats(self, name: str) -> QueueStats:
        wall = time.time()
        entries = list(self.queues.get(name, {}).values())
        waiting = [entry for entry in entries if not entry.is_held()]
        delayed = sum(entry.due > wall for entry in waiting)
        return QueueStats(
            name,
            ready=len(waiting) - delayed,
            delayed=delayed,
            claimed=len(entries) - len(waiting),
            dead=sum(letter.queue == name for letter, _ in self._dead.values()),
            oldest=max((wall - entry.born for entry in waiting), default=None),
            consumers=sum(name in consumer.queues for consumer in self.consumers),
        )

    def purge(self, queue: str) -> int:
        with self.changed:
            entries = self.queues.get(queue, {})
            held = {number: entry for number, entry in entries.items() if entry.is_held()}
            self.queues[queue] = held
            return len(entries) - len(held)

    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        with self.changed:
            return [entry.message for entry in itertools.islice(self.free(queue), limit)]

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        with self.changed:
            newest = [letter for letter, _ in reversed(self._dead.values()) if queue in (None, letter.queue)]
            return newest[:limit]

    def retry_dead(self, ids: Iterable[str]) -> int:
        with self.changed:
            found = [self._dead.pop(name)[1] for name in dict.fromkeys(ids) if name in self._dead]
            self.publish([Publication(entry.message.replayed(), entry.queue) for entry in found])
        return len(found)

    def drop_dead(self, ids: Iterable[str]) -> int:
        with self.changed:
            return sum(self._dead.pop(name, None) is not None for name in ids)

    # --- what this broker does not claim --------------------------------------------------------------------

    def pause(self, queue: str) -> NoReturn:
        raise NotImplementedError("the acme broker cannot pause queues")

    def resume(self, queue: str) -> NoReturn:
        raise NotImplementedError("the acme broker cannot pause queues")

    def broadcast(self, topic: str, batch: Sequence[Message]) -> NoReturn:
        raise NotImplementedError("the acme broker has no topics")

    def subscribe(self, topic: str) -> NoReturn:
        raise NotImplementedError("the acme broker has no topics")


class AcmeConsumer:
    """One worker's claim on some queues. `deadline` is the end of its lease; what it claimed is its own until then."""

    def __init__(self, broker: AcmeBroker, queues: Sequence[str], lease: float) -> None:
        self._broker, self._lease = broker, lease
        self._tokens = itertools.count(1)
        self._woken = False
        self.queues = deque(dict.fromkeys(queues))
        self.deadline = time.monotonic() + lease

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[Delivery]:
        end = time.monotonic() + timeout
        with self._broker.changed:
            while not (taken := self._claim(limit, max_bytes)) and not self._woken and self in self._broker.consumers:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._broker.changed.wait(min(left, self._broker.next_event(self.queues)))
            self._woken = False
        return taken

    def _claim(self, limit: int, max_bytes: int) -> list[Delivery]:
        """One message of each queue in turn, and another queue first each time, so that none starves."""
        if self not in self._broker.consumers:
            return []
        self._renew()
        self.queues.rotate(-1)
        lines = deque(self._broker.free(queue) for queue in self.queues)
        taken: list[Entry] = []
        deliveries: list[Delivery] = []
        while lines and len(taken) < limit:
            entry = next(lines[0], None)
            if entry is None:
                lines.popleft()
                continue
            max_bytes -= entry.message.size
            if taken and max_bytes < 0:
                break
            taken.append(entry)
            deliveries.append(self._take(entry))
            lines.rotate(-1)
        return deliveries

    def _take(self, entry: Entry) -> Delivery:
        # The end of a lease is a death: a start that its owner recorded keeps counting.
        starts, seen = entry.starts, entry.seen
        entry.holder, entry.token, entry.begun, entry.seen = self, f"{id(self):x}-{next(self._tokens)}", False, True
        return Delivery(
            entry.message, entry.queue, entry.token, key=entry, starts=starts, seen=seen, claimed_at=time.time()
        )

    def start(self, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
        with self._broker.changed:
            return [self._start(delivery) for delivery in deliveries]

    def _start(self, delivery: Delivery) -> Settled:
        if not self._owns(delivery):
            return Settled.STALE
        entry: Entry = delivery.key
        entry.starts, entry.begun = entry.starts + (not entry.begun), True
        return Settled.DONE

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        if not all(item.is_plain for item in settlements):
            raise NotImplementedError("the acme broker has no atomic_end: store and publish before you settle")
        with self._broker.changed:
            outcomes = [self._settle(item) for item in settlements]
            self._broker.changed.notify_all()
        return outcomes

    def _settle(self, item: Settlement) -> Settled:
        if not self._owns(item.delivery):
            return Settled.STALE
        entry: Entry = item.delivery.key
        if item.verdict is Verdict.ACK:
            entry.holder = None
            del self._broker.queues[entry.queue][entry.number]
            return Settled.DONE
        entry.give_back(charged=item.charged)
        if item.verdict is Verdict.DEAD:
            self._broker.bury(entry, item.reason)
        else:
            entry.due = time.time() + item.delay if item.delay else 0.0
        return Settled.DONE

    def _owns(self, delivery: Delivery) -> bool:
        entry: Entry = delivery.key
        return entry.holder is self and entry.token == delivery.token and entry.is_held()

    def renew(self) -> bool:
        with self._broker.changed:
            alive = self._renew()
            self._broker.changed.notify_all()
        return alive

    def _renew(self) -> bool:
        """False when the lease had run out: then nothing that was claimed under it may come to life again."""
        alive = self.deadline > time.monotonic()
        if not alive:
            for entry in self._claims():
                entry.holder = None
        self.deadline = time.monotonic() + self._lease
        return alive

    def _claims(self) -> list[Entry]:
        return [entry for entries in self._broker.queues.values() for entry in entries.values() if entry.holder is self]

    def wake(self) -> None:
        with self._broker.changed:
            self._woken = True
            self._broker.changed.notify_all()

    def close(self) -> None:
        with self._broker.changed:
            if self not in self._broker.consumers:
                return
            self._broker.consumers.remove(self)
            # A lease that has run out is a death already; one that has not is given back uncharged.
            alive = self.deadline > time.monotonic()
            for entry in self._claims():
                entry.give_back(charged=entry.begun and not alive)
            self._broker.changed.notify_all()
