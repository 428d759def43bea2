"""Where every claimed message is, and what a dead child took with it.

A message is at each moment in exactly one place: waiting in the engine, being recorded or acknowledged by the
pump, sent (in the inbox or with a child), or settling. The rules here are plain functions over that, without I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from kernel.interfaces.broker import Delivery
from kernel.worker.claims.item import Item, Place
from kernel.worker.slots import Holding

# Who takes so many processes along while it is being taken (by its size, say) counts as having started.
_MOST_VANISHED: Final = 10


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
