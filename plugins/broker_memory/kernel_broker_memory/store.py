"""The rules of claim, lease, settlement and redelivery: plain code over a clock that is given, with no lock in it.

At each moment a message is in exactly one place: ready, delayed, the claims of one lease, or the dead letters.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

from kernel.errors import InvalidTaskError
from kernel.interfaces.broker import DeadLetter, Delivery, QueueStats, Settled, Settlement, Verdict
from kernel.message import Message, Publication


@dataclass(slots=True, eq=False)
class Entry:
    """`begun` says that the current claim has a recorded start, which `starts` counts already."""

    message: Message
    queue: str
    priority: int
    number: int
    due: float
    born: float
    starts: int = 0
    begun: bool = False
    seen: bool = False

    def end_claim(self, charged: bool) -> None:
        self.starts, self.begun = self.starts + charged - self.begun, False


@dataclass(slots=True, eq=False)
class Lease:
    """What one consumer holds, by token, and until when."""

    queues: deque[str]
    length: float
    deadline: float
    claims: dict[str, Entry] = field(default_factory=dict)


class Store:
    """`wall` gives Unix seconds; leases and delays run on `clock`, so that a step of the wall clock moves none."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.clock, self.wall, self.numbers = clock, wall, count(1)
        self.ready: defaultdict[str, list[tuple[int, int, Entry]]] = defaultdict(list)
        self.delayed: list[tuple[float, int, Entry]] = []
        self.dead: dict[str, tuple[DeadLetter, Entry]] = {}
        self.leases: list[Lease] = []
        self.paused: set[str] = set()

    def add(self, item: Publication) -> None:
        now = self.clock()
        due = now if item.due is None else now + item.due - self.wall()
        self.put(Entry(item.message, item.queue, item.priority, next(self.numbers), due, now))

    def put(self, entry: Entry) -> None:
        """Queue `entry`; one that comes back has its old number, and with it its old place in front."""
        if entry.due > self.clock():
            heapq.heappush(self.delayed, (entry.due, entry.number, entry))
        else:
            heapq.heappush(self.ready[entry.queue], (-entry.priority, entry.number, entry))

    def advance(self) -> float:
        """Do what time brings: delayed messages come due, leases run out. Returns the time."""
        now = self.clock()
        while self.delayed and self.delayed[0][0] <= now:
            self.put(heapq.heappop(self.delayed)[-1])
        for lease in self.leases:
            if lease.deadline <= now and lease.claims:
                self.release(lease, charged=True)
        return now

    def next_event(self) -> float:
        """When `advance` will have something to do."""
        return min(self.delayed[0][0] if self.delayed else inf, *(x.deadline for x in self.leases if x.claims), inf)

    def lease(self, queues: Sequence[str], length: float) -> Lease:
        self.leases.append(lease := Lease(deque(dict.fromkeys(queues)), length, self.clock() + length))
        return lease

    def claim(self, lease: Lease, limit: int, max_bytes: int) -> list[Delivery]:
        """The first due messages of each queue in turn. A lease that had run out begins anew."""
        now, wall, taken = self.advance(), self.wall(), list[Delivery]()
        if lease.deadline <= now:
            lease.deadline = now + lease.length
        lease.queues.rotate(-1)  # another queue is asked first each time, so that a limit of one is fair too
        lines = deque(name for name in lease.queues if self.ready.get(name) and name not in self.paused)
        while lines and len(taken) < limit and lease in self.leases:
            heap = self.ready[lines[0]]
            entry = heap[0][-1]
            max_bytes -= entry.message.size
            if taken and max_bytes < 0:
                break
            heapq.heappop(heap)
            lease.claims[token := str(next(self.numbers))] = entry
            starts, seen, entry.seen = entry.starts, entry.seen, True
            taken.append(Delivery(entry.message, entry.queue, token, starts=starts, seen=seen, claimed_at=wall))
            lines.rotate(-1)
            if not heap:
                lines.pop()
        return taken

    def start(self, lease: Lease, delivery: Delivery) -> Settled:
        if (entry := lease.claims.get(delivery.token)) is None:
            return Settled.STALE
        entry.starts, entry.begun = entry.starts + (not entry.begun), True
        return Settled.DONE

    def settle(self, lease: Lease, item: Settlement) -> Settled:
        if (entry := lease.claims.pop(item.delivery.token, None)) is None:
            return Settled.STALE
        if item.verdict is not Verdict.ACK:
            entry.end_claim(item.charged)
            entry.due = self.clock() + item.delay
            self.bury(entry, item.reason) if item.verdict is Verdict.DEAD else self.put(entry)
        return Settled.DONE

    def renew(self, lease: Lease) -> bool:
        now = self.advance()
        alive, lease.deadline = lease.deadline > now, now + lease.length
        return alive

    def release(self, lease: Lease, *, charged: bool) -> None:
        """Everything claimed goes back; `charged` lets the recorded starts count."""
        for entry in lease.claims.values():
            entry.end_claim(charged and entry.begun)
            self.put(entry)
        lease.claims.clear()

    def bury(self, entry: Entry, reason: str) -> None:
        try:
            name, task = entry.message.id, str(entry.message.headers.get("task", ""))
        except InvalidTaskError:
            name, task = "unreadable", ""
        name = name if name not in self.dead else f"{name}.{next(self.numbers)}"
        letter = DeadLetter(name, task, entry.queue, reason, self.wall(), entry.starts, entry.message)
        self.dead[name] = letter, entry

    def purge(self, queue: str) -> int:
        kept = [item for item in self.delayed if item[-1].queue != queue]
        purged = len(self.ready[queue]) + len(self.delayed) - len(kept)
        self.ready[queue], self.delayed = [], sorted(kept)
        return purged

    def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        now = self.advance()
        delayed = Counter(entry.queue for _, _, entry in self.delayed)
        claimed = Counter(entry.queue for lease in self.leases for entry in lease.claims.values())
        dead = Counter(letter.queue for letter, _ in self.dead.values())
        readers = Counter(name for lease in self.leases for name in lease.queues)
        born: dict[str, float] = {}
        for _, _, entry in (*self.delayed, *(item for heap in self.ready.values() for item in heap)):
            born[entry.queue] = min(entry.born, born.get(entry.queue, now))
        return [
            QueueStats(
                name, ready=len(self.ready.get(name, ())), delayed=delayed[name], claimed=claimed[name],
                dead=dead[name], oldest=now - born[name] if name in born else None,
                paused=name in self.paused, consumers=readers[name],
            )
            for name in sorted(set(queues or self.ready))
        ]  # fmt: skip
