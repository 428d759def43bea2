"""Where messages are, and what a dead child took with it."""

from __future__ import annotations

from kernel.interfaces.broker import Delivery
from kernel.message import Message
from kernel.worker.assignment import Lent
from kernel.worker.claims.item import Item, Place
from kernel.worker.claims.ledger import Ledger
from kernel.worker.claims.ready import ReadyQueue
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


def test_what_is_claimed_together_is_entered_in_its_order() -> None:
    ledger = Ledger()
    first = ledger.enter(delivery())
    deliveries = [delivery(size=size) for size in (1, 2, 3)]
    items = ledger.enter_all(deliveries)
    assert [item.delivery for item in items] == deliveries
    assert [item.seq for item in items] == [first.seq + 1, first.seq + 2, first.seq + 3]
    assert all(ledger.get(item.seq) is item for item in items)
    assert ledger.bytes == sum(item.delivery.size for item in [first, *items])
    assert ledger.enter(delivery()).seq == first.seq + 4
    assert ledger.enter_all([]) == []


def test_what_is_out_ends_once() -> None:
    ledger = Ledger()
    alone, other, waiting = ledger.enter_all([delivery(), delivery(), delivery()])
    alone.sent_alone = True
    ledger.send([alone, other])
    assert (ledger.sent, ledger.sent_alone) == (2, 1)
    said = [(other.seq, 0.5), (alone.seq, 1.0), (other.seq, 2.0), (waiting.seq, 3.0), (99, 4.0)]
    assert ledger.end(said) == [(other, 0.5), (alone, 1.0)]
    assert (ledger.sent, ledger.sent_alone) == (0, 0)
    assert [item.place for item in (alone, other, waiting)] == [Place.SETTLING, Place.SETTLING, Place.WAITING]
    ledger.leave(alone, other, other)
    assert (len(ledger), ledger.sent) == (1, 0)


def test_several_are_popped_as_one_by_one() -> None:
    for names, limit in (("aaaa", 3), ("aabab", 4), ("abc", 9), ("aab", 2), ("aaaa", 0)):
        ledger, both = Ledger(), (ReadyQueue(), ReadyQueue())
        items = ledger.enter_all([delivery(name) for name in names])
        for item in items:
            for ready in both:
                ready.add(item)
        one_by_one = [both[0].pop(lambda _: True) for _ in range(min(limit, len(names)))]
        assert both[1].pop_more(lambda _: True, limit) == one_by_one
        assert len(both[0]) == len(both[1]) == len(names) - len(one_by_one)
        assert both[0].clear() == both[1].clear()


def test_the_first_that_does_not_fit_is_the_last_that_is_looked_at() -> None:
    ready = ReadyQueue()
    items = Ledger().enter_all([delivery() for _ in range(4)])
    for item in items:
        ready.add(item)
    assert ready.pop_more(lambda item: item is not items[2], 9) == items[:2]
    assert (len(ready), ready.clear()) == (2, items[2:])
