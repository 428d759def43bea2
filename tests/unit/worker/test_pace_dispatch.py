"""How much is claimed and sent, and that a short task never waits behind a long one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kernel.extensions import Extensions
from kernel.interfaces.broker import Delivery
from kernel.message import Message
from kernel.worker import slots
from kernel.worker.claims.item import Item, Place
from kernel.worker.claims.ledger import Ledger
from kernel.worker.engine.commands import Revoked
from kernel.worker.engine.dispatch import Dispatcher
from kernel.worker.engine.pace import Pace
from kernel.worker.engine.permits import Permits
from kernel.worker.slots import Holding


class FakeExecutors:
    """Remembers what it was sent."""

    def __init__(self, slots_: int = 2) -> None:
        self.slots = slots_
        self.sent: list[list[Item]] = []
        self.held: list[Holding] = []
        self.marks: list[tuple[int, int]] = []
        self.full = False
        self.prepared: list[Item] = []
        self.refused: list[Item] = []
        self.unpackable: list[Item] = []

    def send(self, items: Sequence[Item]) -> bool:
        if any(item in self.unpackable for item in items):
            raise ValueError("cannot be packed")
        if self.full:
            return False
        self.sent.append(list(items))
        return True

    def oldest(self) -> float | None:
        return min((holding.started for holding in self.holdings() if holding.started > 0), default=None)

    def holdings(self) -> Sequence[Holding]:
        return self.held

    def mark(self, holding: Holding, mark: int) -> None:
        self.marks.append((holding.seq, mark))

    def recall(self) -> Sequence[int]:
        return [item.seq for batch in self.sent for item in batch]

    ready = True
    finished = False
    patience = 1.0
    goes_on = False
    open: Callable[..., None]
    figures: Callable[[], Mapping[str, Any]]


def dispatcher(executors: FakeExecutors, pace: Pace | None = None, prefetch: int | None = None) -> Dispatcher:
    prepared: list[Item] = []
    ledger = Ledger()
    permits = Permits(
        ledger,
        executors,  # type: ignore[arg-type]
        Extensions({}, builtin={}, autoload=False),
        Revoked(),
        consumer=lambda: None,
        usable=False,
    )
    found = Dispatcher(
        ledger,
        pace or Pace(),
        executors,  # type: ignore[arg-type]
        prepare=prepared.append,
        unsendable=lambda item, error: executors.refused.append(item),
        permits=permits,
        prefetch=prefetch,
    )
    executors.prepared = prepared
    return found


def fill(dispatch: Dispatcher, count: int, name: str = "t", **facts: Any) -> list[Item]:
    items = []
    for _ in range(count):
        message = Message({"id": "i", "task": name}, b"", content_type="application/json")
        item = dispatch._ledger.enter(Delivery(message, "q", "token", **facts))
        item.name = name
        dispatch.ready.add(item)
        items.append(item)
    return items


def short(*names: str) -> Pace:
    pace = Pace()
    for name in names:
        for _ in range(100):
            pace.note(name, 0.00001)
    return pace


def test_unknown_tasks_go_alone_and_only_to_free_slots() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors)
    fill(dispatch, 5)
    dispatch.send()
    assert [len(batch) for batch in executors.sent] == [1, 1]
    assert len(dispatch.ready) == 3


def test_short_tasks_share_datagrams() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors, short("t"))
    fill(dispatch, 200)
    dispatch.send()
    assert max(len(batch) for batch in executors.sent) > 8
    assert sum(map(len, executors.sent)) <= 2 + 96


def test_a_message_that_was_seen_is_recorded_when_a_slot_is_free_and_goes_alone() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors, short("t"))
    items = fill(dispatch, 5, seen=True)
    dispatch.send()
    assert executors.prepared == items[:2]
    assert executors.sent == []
    for item in reversed(items[:2]):
        dispatch.prepared(item)
    dispatch.send()
    assert executors.sent == [[items[0]], [items[1]]]
    assert executors.prepared == items[:2]


def test_two_in_a_hundred_slow_ones_end_the_sharing() -> None:
    pace = short("t")
    for number in range(300):
        pace.note("t", 2.0 if number % 50 == 0 else 0.00001)
    assert not pace.is_short("t")


def test_what_takes_minutes_reserves_nothing() -> None:
    pace = Pace()
    for _ in range(20):
        pace.note("t", 120.0)
    assert pace.ahead(4) == 4
    quick = short("t")
    assert 4 < quick.ahead(4) < 100
    quick.settled(0, 1.0)
    quick.settled(20_000, 2.0)
    assert quick.ahead(4) == 4 + 400  # 20 ms of 20,000 a second


def test_a_number_gives_celerys_fixed_rule() -> None:
    assert dispatcher(FakeExecutors(), short("t"), prefetch=4).capacity() == 8


def test_a_full_inbox_keeps_the_order() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors, short("t"))
    items = fill(dispatch, 3)
    executors.full = True
    dispatch.send()
    assert dispatch._ledger.sent == 0
    executors.full = False
    dispatch.send()
    assert [item for batch in executors.sent for item in batch] == items


def test_what_waits_behind_a_long_task_is_taken_back_under_a_new_number() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors, short("t"))
    running, waiting = fill(dispatch, 2)
    dispatch.send()
    old = waiting.seq
    executors.held = [Holding(0, 0, running.seq, 1.0, 0), Holding(0, 1, old, 0.0, 0)]
    dispatch.rescue()
    assert executors.marks == [(old, slots.MARK_STOLEN)]
    assert waiting.seq != old
    assert waiting.place is Place.WAITING
    assert running.place is Place.SENT


def test_at_the_end_what_nobody_began_goes_back() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors)
    items = fill(dispatch, 4)
    dispatch.send()
    back: list[Item] = []
    dispatch.withdraw(back.append)
    assert sorted(item.seq for item in back) == [item.seq for item in items]
    assert len(dispatch.ready) == 0


def test_one_that_cannot_be_sent_takes_no_other_with_it() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors, short("t"))
    items = fill(dispatch, 40)
    executors.unpackable = [items[2]]
    for _ in range(40):
        dispatch.send()
        for item in [item for item in items if item.place is Place.SENT]:
            dispatch._ledger.leave(item)
    assert executors.refused == [items[2]]
    assert [item for batch in executors.sent for item in batch] == [item for item in items if item is not items[2]]


def test_what_follows_for_a_chord_goes_alone_and_has_no_start_to_be_recorded() -> None:
    executors = FakeExecutors()
    dispatch = dispatcher(executors, short("t"))
    items = fill(dispatch, 3, seen=True)
    for item in items:
        item.joined = True
    dispatch.send()
    assert executors.sent == [[items[0]], [items[1]]]
    assert not executors.prepared
    given_back: list[Item] = []
    dispatch.recall()
    dispatch.withdraw(given_back.append)
    assert not given_back, "its end stands, and is carried out"


def test_the_last_free_slot_is_kept_while_a_part_is_being_settled() -> None:
    executors = FakeExecutors(2)
    dispatch = dispatcher(executors)
    dispatch.joins.begin(2)
    first, second, third = fill(dispatch, 3)
    dispatch.send()
    dispatch.send()
    assert executors.sent == [[first]]
    dispatch.joins.end(1)
    dispatch.joins.begin(5)  # those do not count: it has waited since before
    dispatch.send()
    assert executors.sent == [[first]]
    dispatch.joins.end(1)
    dispatch.send()
    assert executors.sent == [[first], [second]]
    dispatch._ledger.leave(first)
    dispatch.send()
    assert executors.sent == [[first], [second]], "the next waits for the others"
    dispatch.joins.end(5)
    dispatch.send()
    assert executors.sent[2:] == [[third]]


def test_what_follows_for_a_chord_has_the_slot_that_was_kept() -> None:
    executors = FakeExecutors(1)
    dispatch = dispatcher(executors)
    dispatch.joins.begin(2)
    (long,) = fill(dispatch, 1)
    dispatch.send()
    assert not executors.sent
    dispatch.joins.end(1)
    (joined,) = fill(dispatch, 1)
    dispatch.ready.remove(joined)
    joined.joined = True
    dispatch.ready.add_front(joined)
    dispatch.send()
    assert executors.sent == [[joined]]
    dispatch._ledger.leave(joined)
    dispatch.joins.end(1)
    dispatch.send()
    assert executors.sent == [[joined], [long]]


def test_tasks_that_are_soon_over_do_not_wait_for_parts() -> None:
    executors = FakeExecutors(1)
    dispatch = dispatcher(executors, short("t"))
    dispatch.joins.begin(1)
    items = fill(dispatch, 2)
    dispatch.send()
    assert [item for batch in executors.sent for item in batch] == items
    for runtime, sent in ((0.02, True), (0.2, False)):
        pace, executors = Pace(), FakeExecutors(1)
        pace.note("t", runtime)
        dispatch = dispatcher(executors, pace)
        dispatch.joins.begin(1)
        fill(dispatch, 1)
        dispatch.send()
        assert bool(executors.sent) is sent


def test_fewer_are_with_the_children_while_several_queues_are_busy() -> None:
    alone, beside = FakeExecutors(), FakeExecutors()
    first, second = dispatcher(alone, short("t")), dispatcher(beside, short("t"))
    (single,) = fill(second, 1)
    single.delivery.queue = "another"
    second.ready.clear()
    second.ready.add(single)
    for dispatch in (first, second):
        fill(dispatch, 200)
        dispatch.send()
    assert sum(len(batch) for batch in beside.sent) < sum(len(batch) for batch in alone.sent) / 2
