"""Who gets what, and when: the order in which waiting messages go out, and how many go together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from kernel.worker import slots
from kernel.worker.claims.item import Item, Place
from kernel.worker.claims.ledger import Ledger
from kernel.worker.claims.ready import ReadyQueue
from kernel.worker.engine.pace import Pace
from kernel.worker.engine.permits import Permits
from kernel.worker.executors import Executors

_WORTH_A_CLAIM: Final = 32
_STUCK_SECONDS: Final = 0.01
_ORDER_SECONDS: Final = 0.001
_CROWDED_SECONDS: Final = 1.0
_CROWDED_SHARE: Final = 3


class Joins:
    """Parts of chords that are being settled. Whoever brings the last one of a chord needs a slot once more, and what
    may take any time is not to have it meanwhile: the body would wait for that, wherever it is to run."""

    def __init__(self) -> None:
        self._begun = 0
        self._ended = 0
        self._until: int | None = None

    def begin(self, count: int) -> None:
        self._begun += count

    def end(self, count: int) -> None:
        self._ended += count

    def keep(self) -> bool:
        """Whether the last free slot is to be kept: no longer than for those that are under way when that is asked for
        the first time since `left`."""
        if self._until is None:
            self._until = self._begun
        return self._ended < self._until

    def left(self) -> None:
        """A slot was given to what may take any time."""
        self._until = None


class Dispatcher:
    """Sends what waits to the executors. Owned by the engine's loop."""

    def __init__(
        self,
        ledger: Ledger,
        pace: Pace,
        executors: Executors,
        *,
        prepare: Callable[[Item], None],
        unsendable: Callable[[Item, Exception], None],
        permits: Permits,
        prefetch: int | None,
        share: bool = True,
    ) -> None:
        self._ledger = ledger
        self._pace = pace
        self._executors = executors
        self._prefetch = prefetch
        self._share = share
        self._prepare = prepare
        self._unsendable = unsendable
        self._permits = permits
        self._preparing = 0
        self.ready = ReadyQueue()
        self.joins = Joins()
        self._shared = False
        self._look_at = 0.0
        self._sent_of: dict[str, float] = {}
        """When something of each queue was sent (monotonic)."""

    def admit(self, item: Item, *, has_copy: bool) -> None:
        """It waits for its turn. A copy of what is in hand, which is to look whether that has ended, waits for it."""
        if has_copy and (item.delivery.seen or item.delivery.message.header("redelivered")):
            self.ready.hold(item)
        else:
            self.ready.add(item)

    def left(self, *items: Item) -> None:
        """They are settled, or nobody's here any more."""
        self._ledger.leave(*items)
        for item in items:
            self.ready.free(item.id)

    def room(self) -> int:
        """How many more messages may be claimed. Any thread.

        Small amounts are not worth a claim while there is work: the next outcome makes more room.
        """
        capacity = self.capacity()
        free = capacity - len(self._ledger)
        if len(self.ready) and free < min(capacity // 4, _WORTH_A_CLAIM):
            return 0
        return max(0, free)

    def capacity(self) -> int:
        """How many messages this worker holds at most."""
        if self._prefetch is None:
            return self._pace.ahead(self._executors.slots)
        return self._executors.slots * self._prefetch or 10_000

    def send(self) -> None:
        """Send what may go now. A task that is not known to be short goes alone, and only while fewer of its kind
        are out than there are slots: what may be ahead of it in the inbox is short.

        What has to be on the broker before a start (that it starts, or its early acknowledgement) is put there
        when its slot is free and no sooner: whoever is not about to run must not be charged with it.
        """
        while len(self.ready):
            batch = self._next_batch()
            if not batch:
                return
            if _needs_preparing(batch[0]):
                self._preparing += 1
                self._ledger.move(batch[0], Place.PREPARING)
                self._prepare(batch[0])
                continue
            self._permit(batch)
            try:
                sent = self._executors.send(batch)
            except Exception as exc:
                self._on_unsendable(batch, exc)
                continue
            if not sent:
                for item in reversed(batch):
                    self.ready.add_front(item)
                return
            now = time.monotonic()
            for item in batch:
                self._sent_of[item.delivery.queue] = now
            self._ledger.send(batch)
            self._shared = self._shared or len(batch) > 1

    def _permit(self, batch: list[Item]) -> None:
        """Where nothing else waits, the shortest way is the best; otherwise, ends that come together."""
        if len(batch) == 1 and not len(self.ready):
            self._permits.give(batch[0])
            return
        for item in batch:
            item.lent = None

    def _on_unsendable(self, batch: list[Item], error: Exception) -> None:
        """One of them cannot be packed: sent one by one, it shows which."""
        if len(batch) == 1:
            self._unsendable(batch[0], error)
            return
        for item in reversed(batch):
            item.alone = True
            self.ready.add_front(item)

    def _next_batch(self) -> list[Item]:
        total = self._executors.slots
        free = total - self._ledger.sent_alone - self._preparing
        short_free = self._short_free(free)
        first = self.ready.pop(
            lambda item: (
                short_free > 0 if self._may_share(item) else free > (self._may_be_long(item) and self.joins.keep())
            )
        )
        if first is None:
            return []
        first.sent_alone = not self._may_share(first)
        if first.sent_alone:
            if self._may_be_long(first):
                self.joins.left()
            return [first]
        # No more together than each slot's share of what waits, so that nobody is idle while another has a pile.
        most = min(slots.TOGETHER, short_free, 1 + len(self.ready) // total)
        others = self.ready.pop_more(self._may_share, most - 1)
        for item in others:
            item.sent_alone = False
        return [first, *others]

    def _may_be_long(self, item: Item) -> bool:
        return not (item.joined or self._pace.is_brief(item.name))

    def _short_free(self, free: int) -> int:
        """How many short tasks may go now. While the children have enough to do, few are not worth a datagram: that
        goes for the ends, too, which come back as they were sent."""
        if free <= 0:
            return 0
        most = self._pace.sent(free)
        if self._is_crowded():
            # What is with the children is ahead of whatever comes next, of another queue, too.
            most //= _CROWDED_SHARE
        room = most - (self._ledger.sent - self._ledger.sent_alone)
        return room if room >= min(slots.TOGETHER, most // 4) else 0

    def _is_crowded(self) -> bool:
        """Whether several queues are busy."""
        if len(self._sent_of) < 2:
            return False
        since = time.monotonic() - _CROWDED_SECONDS
        return sum(moment > since for moment in self._sent_of.values()) > 1

    def _may_share(self, item: Item) -> bool:
        if not self._share or item.name not in self._pace.short:
            return False
        alone = item.alone or item.delivery.seen or item.early_ack or item.obituary is not None or item.joined
        return not alone

    def went_on(self, item: Item) -> None:
        """It is being run already, in the place of what it follows."""
        self._sent_of[item.delivery.queue] = time.monotonic()
        item.sent_alone = True
        self._ledger.move(item, Place.SENT)

    def prepared(self, item: Item) -> None:
        """It is on the broker, and next."""
        self.end_preparing()
        item.is_prepared = True
        self.put_back(item)

    def end_preparing(self) -> None:
        """One that was being prepared is so no more."""
        self._preparing -= 1

    @property
    def watches(self) -> bool:
        """Whether tasks share datagrams, so that `rescue` has to be called now and then."""
        if self._shared and not self._ledger.sent:
            self._shared = False
        return self._shared

    def rescue(self) -> None:
        """Take back what waits in a child behind a task that turned out to be long.

        Its slot is marked first and read again after: a child marks the start first and reads the mark after, so
        one of the two sees the other. Under its new number nobody runs it twice.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _STUCK_SECONDS
        oldest = self._executors.oldest()
        if oldest is None or oldest > now - _STUCK_SECONDS:
            return
        held = self._executors.holdings()
        stuck = {holding.child for holding in held if 0 < holding.started < now - _STUCK_SECONDS}
        taken = [holding for holding in held if holding.child in stuck and not holding.started]
        if not taken:
            return
        for holding in taken:
            self._executors.mark(holding, slots.MARK_STOLEN)
        time.sleep(_ORDER_SECONDS)
        still = {holding.seq for holding in self._executors.holdings() if not holding.started}
        for holding in taken:
            item = self._ledger.get(holding.seq)
            if item is not None and item.place is Place.SENT and holding.seq in still:
                self._ledger.renumber(item)
                self.put_back(item)

    def put_back(self, item: Item) -> None:
        """Next in its queue again."""
        self._ledger.move(item, Place.WAITING)
        self.ready.add_front(item)

    def recall(self) -> None:
        """What nobody has taken waits here again."""
        for seq in self._executors.recall():
            item = self._ledger.get(seq)
            if item is not None and item.place is Place.SENT:
                self.put_back(item)

    def withdraw(self, give_back: Callable[[Item], None]) -> None:
        """Give back everything that nobody has begun, save the ends that are already decided."""
        self.recall()
        keep = []
        for item in self.ready.clear():
            if item.obituary is not None or item.acked or item.joined:
                keep.append(item)
            else:
                give_back(item)
        for item in keep:
            self.ready.add(item)


def _needs_preparing(item: Item) -> bool:
    seen = item.delivery.seen and not item.joined
    return (seen or item.early_ack) and not item.is_prepared and item.obituary is None
