"""Where every claimed message is, and what a dead child took with it.

A message is at each moment in exactly one place: waiting in the engine, being recorded or acknowledged by the
pump, sent (in the inbox or with a child), or settling. The rules here are plain functions over that, without I/O.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from kernel.interfaces.broker import Delivery
from kernel.worker.assignment import Assignment, Lent, Obituary
from kernel.worker.slots import Holding

# Who takes so many processes along while it is being taken (by its size, say) counts as having started.
_MOST_VANISHED: Final = 10


class Place(enum.Enum):
    WAITING = "waiting"
    PREPARING = "preparing"
    """With the pump: its start is recorded, or it is acknowledged early."""
    SENT = "sent"
    SETTLING = "settling"


class Item:
    """A claimed message in this worker."""

    __slots__ = (
        "acked",
        "alone",
        "attempts",
        "delivery",
        "early_ack",
        "epoch",
        "hard",
        "id",
        "is_prepared",
        "joined",
        "lent",
        "lost",
        "name",
        "obituary",
        "place",
        "revoked",
        "sent_alone",
        "seq",
        "soft",
        "unsure",
        "vanished",
    )

    def __init__(self, seq: int, delivery: Delivery, *, id: str = "", name: str = "") -> None:
        self.seq = seq
        self.delivery = delivery
        self.id = id
        self.name = name
        self.place = Place.WAITING
        self.epoch = 0
        self.sent_alone = False
        self.soft: float | None = None
        self.hard: float | None = None
        self.early_ack = False
        self.is_prepared = False
        self.acked = False
        self.joined = False
        """It has ended, and what follows for its chord is still to be worked out and settled."""
        self.lost = False
        """What runs was told that its lease is gone."""
        self.obituary: Obituary | None = None
        self.attempts = 0
        """How many children died over it in this worker, after its end was decided."""
        self.lent: Lent | None = None
        self.unsure = False
        """He has tried to settle it, and may have done it."""
        self.revoked = False
        self.alone = False
        """Not to be sent together with others: that has failed."""
        self.vanished = 0
        """How many children took it and died before they announced it."""

    def assignment(self, valid: Callable[[], bool] | None = None) -> Assignment:
        """What an executor is given of it."""
        delivery = self.delivery
        return Assignment(
            self.seq,
            delivery.message,
            delivery.queue,
            delivery.token,
            starts=delivery.starts,
            seen=delivery.seen,
            early_ack=self.early_ack,
            obituary=self.obituary,
            joined=self.joined,
            valid=valid,
        )


class ReadyQueue:
    """What waits in the engine: queues take turns, each first in, first out. Its length is that of what may go."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Item]] = OrderedDict()
        self._length = 0
        self._copies: dict[str, deque[Item]] = {}

    def __len__(self) -> int:
        return self._length

    def hold(self, item: Item) -> None:
        """One that has its turn when the other copy of its message, which is in hand, has ended: whether it has to be
        run is known then."""
        self._copies.setdefault(item.id, deque()).append(item)

    def free(self, id: str) -> None:
        """A message with this id has left: the turn of its oldest copy here has come."""
        waiting = self._copies.get(id) if self._copies else None
        if waiting is not None:
            self.add_front(waiting.popleft())
            if not waiting:
                del self._copies[id]

    def add(self, item: Item) -> None:
        self._line(item.delivery.queue).append(item)
        self._length += 1

    def _line(self, name: str) -> deque[Item]:
        line = self._queues.get(name)
        if line is None:
            line = self._queues[name] = deque()
        return line

    def add_front(self, item: Item) -> None:
        """Back to where it came from: next of its queue, and its queue next."""
        name = item.delivery.queue
        self._line(name).appendleft(item)
        self._queues.move_to_end(name, last=False)
        self._length += 1

    def pop(self, fits: Callable[[Item], bool]) -> Item | None:
        """The next item, if it fits; its queue goes to the end of the turn. None when the one whose turn it
        is does not fit: nobody overtakes inside a queue, other queues are tried."""
        for name, queue in self._queues.items():
            if fits(queue[0]):
                item = queue.popleft()
                self._length -= 1
                if queue:
                    self._queues.move_to_end(name)
                else:
                    del self._queues[name]
                return item
        return None

    def pop_more(self, fits: Callable[[Item], bool], limit: int) -> list[Item]:
        """Up to so many, each as `pop` gives the next one."""
        found: list[Item] = []
        while len(found) < limit and self._queues:
            if len(self._queues) > 1:
                item = self.pop(fits)
                if item is None:
                    break
                found.append(item)
                continue
            ((name, line),) = self._queues.items()
            before = len(found)
            while line and len(found) < limit and fits(line[0]):
                found.append(line.popleft())
            self._length -= len(found) - before
            if line:
                break
            del self._queues[name]
        return found

    def remove(self, item: Item) -> bool:
        """Take out an item; False when it is not here."""
        copies = self._copies.get(item.id)
        if copies is not None and item in copies:
            copies.remove(item)
            if not copies:
                del self._copies[item.id]
            return True
        queue = self._queues.get(item.delivery.queue)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        self._length -= 1
        if not queue:
            del self._queues[item.delivery.queue]
        return True

    def clear(self) -> list[Item]:
        items = [item for queue in (*self._queues.values(), *self._copies.values()) for item in queue]
        self._queues.clear()
        self._copies.clear()
        self._length = 0
        return items


@dataclass(slots=True)
class Accounts:
    """What became of the messages that were sent when a child died."""

    running: list[Item] = field(default_factory=list)
    """Their user code had started in the dead child."""
    unstarted: list[Item] = field(default_factory=list)
    """Nobody has them: in the inbox, announced but not begun, or gone with the child before it announced."""


class Ledger:
    """All claimed messages by sequence number."""

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._ids: dict[str, int] = {}
        self._next = 0
        self.bytes = 0
        self.sent = 0
        self.sent_alone = 0
        """Those of them that may take any time."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._items.values()))

    def reserve(self, count: int) -> int:
        """The first of so many numbers that are somebody's from now on."""
        first = self._next + 1
        self._next += count
        return first

    def enter(self, delivery: Delivery, *, seq: int | None = None) -> Item:
        item = Item(self.reserve(1) if seq is None else seq, delivery)
        self._items[item.seq] = item
        self.bytes += delivery.size
        return item

    def enter_all(self, deliveries: Sequence[Delivery]) -> list[Item]:
        """The same for several, in their order."""
        first = self.reserve(len(deliveries))
        items = [Item(seq, delivery) for seq, delivery in enumerate(deliveries, first)]
        self._items.update(zip(range(first, first + len(items)), items, strict=True))
        self.bytes += sum([delivery.size for delivery in deliveries])
        return items

    def name(self, item: Item) -> bool:
        """Its id is known now; whether another one has it, too."""
        count = self._ids.get(item.id, 0)
        self._ids[item.id] = count + 1
        return count > 0

    def get(self, seq: int) -> Item | None:
        return self._items.get(seq)

    def runs_as(self, seq: int) -> Item | None:
        """The message whose claim it is that runs under this number: its own, or that of what it follows, while nothing
        was heard of it yet."""
        found = self._items.get(seq)
        if found is None:
            found = next((item for item in self if item.lent and item.lent.following <= seq <= item.lent.last), None)
        return found

    def send(self, items: Sequence[Item]) -> None:
        """They are out; they were not before."""
        for item in items:
            item.place = Place.SENT
            if item.sent_alone:
                self.sent_alone += 1
        self.sent += len(items)

    def move(self, item: Item, place: Place) -> None:
        if item.place is Place.SENT:
            self._count(item, -1)
        if place is Place.SENT:
            self._count(item, 1)
        item.place = place

    def end(self, ends: Iterable[tuple[int, float]]) -> list[tuple[Item, float]]:
        """Numbers of what is said to have ended, with the runtime of each: the items of those that are out, which are
        settled from now on. Others were taken back."""
        found: list[tuple[Item, float]] = []
        get, settling, out = self._items.get, Place.SETTLING, Place.SENT
        for seq, runtime in ends:
            item = get(seq)
            if item is not None and item.place is out:
                item.place = settling
                found.append((item, runtime))
                if item.sent_alone:
                    self.sent_alone -= 1
        self.sent -= len(found)
        return found

    def _count(self, item: Item, change: int) -> None:
        self.sent += change
        if item.sent_alone:
            self.sent_alone += change

    def renumber(self, item: Item) -> None:
        """A new number: whatever the old one is still said to do concerns nobody."""
        del self._items[item.seq]
        self._next += 1
        item.seq = self._next
        self._items[item.seq] = item

    def leave(self, *items: Item) -> None:
        """They are nobody's here any more. For one that has left already, nothing happens."""
        held, ids = self._items, self._ids
        for item in items:
            if held.pop(item.seq, None) is None:
                continue
            self.bytes -= item.delivery.size
            count = ids.pop(item.id, 0)
            if count > 1:
                ids[item.id] = count - 1
            if item.place is Place.SENT:
                self._count(item, -1)

    def _claims_of(self, numbers: Iterable[int]) -> list[int]:
        """Those under whose claims something runs, by the numbers of what runs."""
        found = [(self.runs_as(seq), seq) for seq in numbers]
        return [item.seq for item, seq in found if item is not None and item.seq != seq]

    def account(
        self, dead: Iterable[Holding], living: Collection[int], *, recalled: Collection[int] | None = None
    ) -> Accounts:
        """Sort what was sent after the death of a child that held `dead`; `living` are the numbers that
        other children hold. The inbox must have been emptied (of `recalled`) and the epoch raised before."""
        # What has ended and was not sent has begun, too: whoever runs it next has to look for its record first.
        started: dict[int, bool] = {holding.seq: holding.started != 0 for holding in dead}
        # What runs under the claim of another, and was not told of yet, begins when that has ended.
        started.update(dict.fromkeys(self._claims_of(started), True))
        held = {*living, *self._claims_of(living)}
        accounts = Accounts()
        for item in self:
            if item.place is not Place.SENT or item.seq in held:
                continue
            if recalled is not None and item.seq not in started and item.seq not in recalled:
                item.vanished += 1
            if started.get(item.seq) or item.vanished >= _MOST_VANISHED:
                accounts.running.append(item)
            else:
                accounts.unstarted.append(item)
        return accounts
