"""What becomes of a task whose process died."""

from __future__ import annotations

import pytest

from kernel.interfaces.broker import Delivery, Verdict
from kernel.message import Message
from kernel.worker.assignment import Obituary
from kernel.worker.claims.item import Item
from kernel.worker.engine.fate import Fate
from kernel.worker.engine.postmortem import judge
from kernel.worker.executors import Death
from kernel.worker.manifest import TaskFacts


def item(*, starts: int = 0) -> Item:
    message = Message({"id": "i", "task": "t"}, b"", content_type="application/json")
    return Item(5, Delivery(message, "q", "token", starts=starts), id="i", name="t")


def fate(what: Item, *, killed: int | None = None, facts: TaskFacts | None = None, cold: bool = False) -> Fate:
    return judge(what, Death(0, 4711, killed=killed), facts or TaskFacts(), limit=3, cold=cold, tries=3)


def test_a_death_that_nobody_ordered_is_charged() -> None:
    assert fate(item()) == Fate(charged=True)


def test_it_waits_a_little_longer_each_time() -> None:
    first, second = fate(item()), fate(item(starts=1))
    assert second.charged
    assert second.delay > first.delay


def test_at_the_limit_it_is_kept_as_a_dead_letter() -> None:
    end = fate(item(starts=2)).obituary
    assert end is not None
    assert (end.verdict, end.error) == (Verdict.DEAD, "WorkerLostError")
    assert "3 times" in end.text


def test_a_kill_hits_its_task_and_not_its_neighbours() -> None:
    mine = fate(item(), killed=5).obituary
    assert mine is not None
    assert mine.error == "TimeLimitExceeded"
    assert fate(item(), killed=6) == Fate()


def test_a_cold_shutdown_charges_nobody() -> None:
    assert fate(item(), cold=True) == Fate()


@pytest.mark.parametrize("starts", [0, 1])
def test_whoever_wants_celerys_way_gets_a_failure(starts: int) -> None:
    end = fate(item(starts=starts), facts=TaskFacts(reject_on_worker_lost=False)).obituary
    assert end is not None
    assert (end.verdict, end.state) == (None, "FAILURE")


def test_an_early_acknowledged_task_fails() -> None:
    early = item()
    early.early_ack = True
    end = fate(early).obituary
    assert end is not None
    assert end.error == "WorkerLostError"


def test_an_end_that_kills_its_process_is_not_tried_for_ever() -> None:
    cursed = item()
    cursed.obituary = Obituary("FAILURE", "NotRegistered", "no such task")
    cursed.attempts = 1
    assert fate(cursed).obituary is cursed.obituary
    cursed.attempts = 3
    assert fate(cursed).verdict is Verdict.DEAD
