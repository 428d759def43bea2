"""Who may settle by himself what he runs: only what goes alone, and not while anything else has a say."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import hookimpl
from kernel.extensions import Extensions
from kernel.interfaces.broker import Delivery
from kernel.message import Message
from kernel.worker.assignment import Lent, Obituary
from kernel.worker.claims.item import Item
from kernel.worker.claims.ledger import Ledger
from kernel.worker.engine.commands import Revoked
from kernel.worker.engine.permits import Permits


class Lending:
    """A consumer that lends, and remembers what became of it."""

    def __init__(self) -> None:
        self.told: list[Delivery] = []

    def lend(self, delivery: Delivery) -> str | None:
        return "list"

    def finished(self, delivery: Delivery) -> None:
        self.told.append(delivery)


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

    def given(self) -> tuple[Item, Lent]:
        item = self.ledger.enter(made())
        self.permits.give(item)
        assert item.lent is not None
        return item, item.lent


def test_one_that_goes_alone_gets_numbers_of_its_own() -> None:
    case = Case()
    item, lent = case.given()
    following = case.ledger.enter(made())
    assert (lent.key, lent.following) == ("list", item.seq + 1)
    assert following.seq == lent.last + 1, "many may follow, each with its number"


@pytest.mark.parametrize("why", ["seen", "early_ack", "obituary", "joined", "usable"])
def test_what_is_not_simply_run_is_not_lent(why: str) -> None:
    case = Case(usable=why != "usable")
    item = case.ledger.enter(made(seen=why == "seen"))
    item.early_ack, item.joined = why == "early_ack", why == "joined"
    item.obituary = Obituary("FAILURE", "WorkerLostError", "") if why == "obituary" else None
    case.permits.give(item)
    assert item.lent is None


def test_who_gives_it_to_another_has_other_numbers() -> None:
    """What the first one goes on with is nobody's then."""
    case = Case()
    item, first = case.given()
    case.permits.give(item)
    assert item.lent is not None
    assert item.lent.following > first.last


def test_the_consumer_hears_of_what_was_settled() -> None:
    case = Case()
    item, _ = case.given()
    assert case.permits.carried_out(item, 1, None) is None
    assert case.lending.told == [item.delivery]


def test_what_runs_next_has_the_claim_of_the_one_before() -> None:
    case = Case()
    item, lent = case.given()
    message = made().message
    running = case.permits.carried_out(item, 1, message)
    assert running is not None
    assert (running.seq, running.delivery.message, running.delivery.token) == (lent.following, message, "c-1")
    assert running.delivery.key is item.delivery.key
    assert running.delivery.advanced
    assert running.lent == Lent("list", lent.following + 1, lent.last)
    assert case.ledger.get(running.seq) is running
    assert not case.lending.told


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


def test_news_of_several_ends_is_news_of_the_last_number() -> None:
    case = Case()
    item, lent = case.given()
    running = case.permits.carried_out(item, 3, made().message)
    assert running is not None
    assert running.seq == lent.following + 2
    assert running.lent == Lent("list", lent.following + 3, lent.last)
