"""Who may settle by himself what he runs: given alone, called in after a death, and stopped by whatever has a say."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import hookimpl
from kernel.extensions import Extensions
from kernel.interfaces.broker import Delivery
from kernel.interfaces.shortcut import Permit
from kernel.message import Message
from kernel.worker.assignment import Obituary
from kernel.worker.claims.ledger import Item, Ledger
from kernel.worker.engine.commands import Revoked
from kernel.worker.engine.permits import Permits


class Lending:
    """A consumer that lends, and remembers what became of it."""

    def __init__(self) -> None:
        self.count = 0
        self.handed_in: list[Permit] = []
        self.called_in: list[Permit] = []
        self.taken_over: list[tuple[Delivery | None, bytes]] = []

    def lend(self, delivery: Delivery) -> Permit | None:
        self.count += 1
        return Permit("list", self.count, -10 * self.count, -10 * self.count - 9)

    def take_over(self, delivery: Delivery | None, note: bytes) -> tuple[Delivery, Permit] | None:
        self.taken_over.append((delivery, note))
        return (made(), Permit("list", -1, -2, -9)) if note else None

    def hand_in(self, permit: Permit) -> None:
        self.handed_in.append(permit)

    def call_in(self, permit: Permit) -> None:
        self.called_in.append(permit)


class Place:
    goes_on = True

    def __init__(self) -> None:
        self.said: list[bool] = []

    def let_go_on(self, value: bool) -> None:
        self.said.append(value)


def made(*, seen: bool = False) -> Delivery:
    return Delivery(
        Message({"id": "x", "task": "t"}, b"[[], {}, {}]", content_type="application/json"), "q", "c-1", seen=seen
    )


class Case:
    def __init__(self, *plugins: Any, usable: bool = True) -> None:
        self.ledger, self.lending, self.place, self.revoked = Ledger(), Lending(), Place(), Revoked()
        extensions = Extensions({}, plugins=plugins)
        extensions.bind()
        consumer: Any = self.lending
        executors: Any = self.place
        self.permits = Permits(
            self.ledger, executors, extensions, self.revoked, consumer=lambda: consumer, usable=usable
        )

    def given(self) -> tuple[Item, Permit]:
        item = self.ledger.enter(made())
        self.permits.give(item)
        assert item.permit is not None
        return item, item.permit


def test_one_that_goes_alone_gets_numbers_of_its_own() -> None:
    case = Case()
    item, permit = case.given()
    following = case.ledger.enter(made())
    assert item.next_seq == item.seq + 1
    assert following.seq == item.next_seq + 10, "ten links may follow, each with its number"
    assert permit.following - permit.last == 9


@pytest.mark.parametrize("why", ["seen", "early_ack", "obituary", "joined", "usable"])
def test_what_is_not_simply_run_gets_none(why: str) -> None:
    case = Case(usable=why != "usable")
    item = case.ledger.enter(made(seen=why == "seen"))
    item.early_ack, item.joined = why == "early_ack", why == "joined"
    item.obituary = Obituary("FAILURE", "WorkerLostError", "") if why == "obituary" else None
    case.permits.give(item)
    assert item.permit is None
    assert not case.lending.count


def test_who_gives_it_to_another_takes_the_first_permit_back() -> None:
    case = Case()
    item, first = case.given()
    case.permits.give(item)
    assert case.lending.handed_in == [first]
    assert item.permit not in (None, first)


def test_it_goes_back_when_the_claim_is_over() -> None:
    case = Case()
    item, permit = case.given()
    case.permits.left(item)
    assert (case.lending.handed_in, case.lending.called_in, item.permit) == ([permit], [], None)


def test_after_a_death_it_is_called_in_and_no_sooner_than_the_claim_is_over() -> None:
    case = Case()
    item, permit = case.given()
    item.unsure = True
    case.permits.take_back(item)
    item.obituary = Obituary("FAILURE", "WorkerLostError", "")
    case.permits.give(item)
    assert item.permit is permit, "the one that the dead one had"
    assert not case.lending.handed_in
    assert not case.lending.called_in
    case.permits.left(item)
    assert (case.lending.handed_in, case.lending.called_in) == ([], [permit])


def test_an_end_that_was_carried_out_is_taken_over() -> None:
    case = Case()
    item, permit = case.given()
    assert case.permits.carried_out(item, b"") is None
    assert case.lending.taken_over == [(item.delivery, b"")]
    assert (case.lending.handed_in, item.permit) == ([permit], None)


def test_what_was_claimed_with_it_keeps_the_permit() -> None:
    case = Case()
    item, _ = case.given()
    found = case.permits.carried_out(item, b"note")
    assert found is not None
    assert found[1] == Permit("list", -1, -2, -9)
    assert not case.lending.handed_in
    assert item.permit is None


def test_of_what_is_not_known_any_more_the_claim_is_taken_over_all_the_same() -> None:
    case = Case()
    assert case.permits.carried_out(None, b"note") is not None
    assert case.lending.taken_over == [(None, b"note")]


def test_going_on_is_allowed_while_nothing_waits() -> None:
    case = Case()
    for idle in (False, True, True, False):
        case.permits.allow(idle)
    assert case.place.said == [True, False], "said when it changes"


def test_what_was_revoked_may_be_a_link() -> None:
    case = Case()
    case.permits.allow(True)
    case.revoked.add("some-id")
    case.permits.allow(True)
    assert case.place.said == [True, False]


def test_a_plugin_that_admits_tasks_is_asked_for_every_link() -> None:
    class Judge:
        @hookimpl
        def kernel_task_admit(self, delivery: Delivery) -> None:
            return None

    case = Case(Judge())
    case.permits.allow(True)
    assert case.place.said == []
