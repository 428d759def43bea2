"""Where messages are, and what a dead child took with it."""

from __future__ import annotations

from kernel.interfaces.broker import Delivery
from kernel.message import Message
from kernel.worker.assignment import Lent
from kernel.worker.claims.ledger import Item, Ledger, Place, ReadyQueue
from kernel.worker.slots import ENDED, Holding


def delivery(queue: str = "q", *, size: int = 10) -> Delivery:
    message = Message({"id": "i", "task": "t"}, b"x" * size, content_type="application/json")
    return Delivery(message, queue, "token")


def sent(ledger: Ledger, queue: str = "q") -> Item:
    item = ledger.enter(delivery(queue))
    ledger.move(item, Place.SENT)
    return item


def holding(item: Item, *, child: int = 0, started: float = 0.0) -> Holding:
    return Holding(child, 0, item.seq, started, 0)


def test_bytes_and_sent_follow_every_move() -> None:
    ledger = Ledger()
    item = sent(ledger)
    assert (len(ledger), ledger.sent, ledger.bytes) == (1, 1, item.delivery.size)
    ledger.move(item, Place.SETTLING)
    assert ledger.sent == 0
    ledger.leave(item)
    ledger.leave(item)
    assert (len(ledger), ledger.sent, ledger.bytes) == (0, 0, 0)


def test_the_dead_are_told_from_the_living() -> None:
    ledger = Ledger()
    running, announced, vanished, elsewhere = (sent(ledger) for _ in range(4))
    waiting = ledger.enter(delivery())
    accounts = ledger.account([holding(running, started=5.0), holding(announced)], {elsewhere.seq})
    assert accounts.running == [running]
    assert accounts.unstarted == [announced, vanished]
    assert waiting not in accounts.unstarted


def test_what_had_ended_and_was_not_sent_has_begun() -> None:
    """It may have been recorded: whoever has it next must not take it for one that nobody has run."""
    ledger = Ledger()
    ended = sent(ledger)
    accounts = ledger.account([holding(ended, started=ENDED)], set())
    assert accounts.running == [ended]
    assert not accounts.unstarted


def in_row(ledger: Ledger) -> tuple[Item, Holding]:
    """A claim, and what runs under it by now, of which nothing was heard."""
    item = sent(ledger)
    item.lent = Lent("list", ledger.reserve(4), 5)
    return item, Holding(0, 0, item.lent.following + 1, 5.0, 0)


def test_what_runs_under_a_claim_was_begun_under_it() -> None:
    ledger = Ledger()
    item, link = in_row(ledger)
    assert ledger.runs_as(link.seq) is item
    accounts = ledger.account([link], set(), recalled=set())
    assert accounts.running == [item]
    assert not accounts.unstarted
    assert item.vanished == 0


def test_a_claim_under_which_something_runs_elsewhere_is_no_dead_ones() -> None:
    ledger = Ledger()
    item, link = in_row(ledger)
    gone = sent(ledger)
    accounts = ledger.account([holding(gone, started=1.0)], {link.seq}, recalled=set())
    assert accounts.running == [gone]
    assert item not in accounts.unstarted


def test_numbers_that_nobody_was_lent_run_under_no_claim() -> None:
    ledger = Ledger()
    item, _ = in_row(ledger)
    assert item.lent is not None
    assert ledger.runs_as(item.lent.last + 1) is None


def test_an_ended_task_is_nobodys_any_more() -> None:
    ledger = Ledger()
    done = sent(ledger)
    ledger.move(done, Place.SETTLING)
    accounts = ledger.account([holding(done, started=1.0)], set())
    assert not accounts.running
    assert not accounts.unstarted


def test_an_old_number_means_nothing() -> None:
    ledger = Ledger()
    item = sent(ledger)
    old = item.seq
    ledger.renumber(item)
    assert ledger.get(old) is None
    assert ledger.get(item.seq) is item


def test_queues_take_turns_and_keep_their_order() -> None:
    ready = ReadyQueue()
    ledger = Ledger()
    items = [ledger.enter(delivery(name)) for name in ("a", "a", "a", "b")]
    for item in items:
        ready.add(item)
    order = [ready.pop(lambda _: True) for _ in range(4)]
    assert order == [items[0], items[3], items[1], items[2]]
    assert ready.pop(lambda _: True) is None
    assert len(ready) == 0


def test_what_comes_back_is_next() -> None:
    ready = ReadyQueue()
    ledger = Ledger()
    first, second, back = (ledger.enter(delivery(name)) for name in ("a", "b", "b"))
    ready.add(first)
    ready.add(second)
    ready.add_front(back)
    assert ready.pop(lambda _: True) is back


def test_nobody_overtakes_inside_a_queue_but_other_queues_may_pass() -> None:
    ready = ReadyQueue()
    ledger = Ledger()
    big, small, other = (ledger.enter(delivery(name)) for name in ("a", "a", "b"))
    for item in (big, small, other):
        ready.add(item)
    assert ready.pop(lambda item: item is not big) is other
    assert ready.pop(lambda item: item is not big) is None
    assert ready.clear() == [big, small]


def test_what_takes_one_child_after_the_other_along_counts_as_running() -> None:
    """It is too large to be taken, say: it never gets as far as a slot, and would be sent for ever."""
    ledger = Ledger()
    item, waiting = sent(ledger), sent(ledger)
    for _ in range(9):
        assert ledger.account([], set(), recalled={waiting.seq}).unstarted == [item, waiting]
    accounts = ledger.account([], set(), recalled={waiting.seq})
    assert (accounts.running, accounts.unstarted) == ([item], [waiting])


def named(ledger: Ledger, *, seen: bool = False) -> tuple[Item, bool]:
    found = delivery()
    found.seen = seen
    item = ledger.enter(found)
    item.id = "i"
    return item, ledger.name(item)


def test_copies_are_known_until_the_last_has_left() -> None:
    ledger = Ledger()
    (first, alone), (second, has_copy) = named(ledger), named(ledger)
    assert (alone, has_copy) == (False, True)
    ledger.leave(first)
    assert named(ledger)[1]
    for item in ledger:
        ledger.leave(item)
    ledger.leave(second)
    assert not named(ledger)[1]


def test_a_copy_has_its_turn_when_one_before_it_has_left() -> None:
    ready = ReadyQueue()
    first, second, other = Item(1, delivery(), id="i"), Item(2, delivery(), id="i"), Item(3, delivery(), id="o")
    for item in (first, second):
        ready.hold(item)
    assert len(ready) == 0
    ready.add(other)
    ready.free("o")
    assert ready.pop(lambda item: True) is other
    ready.free("i")
    assert (len(ready), ready.pop(lambda item: True)) == (1, first)
    assert ready.remove(second)
    ready.free("i")
    assert len(ready) == 0
    ready.hold(second)
    assert ready.clear() == [second]
    ready.free("i")
    assert len(ready) == 0
