"""Ends without a message behind them, and ends that the engine decided: what the task's options say still counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel import states
from kernel.app import Kernel
from kernel.interfaces.broker import Verdict
from kernel.worker.assignment import Obituary
from tests.unit.executing import Bench

TIMED_OUT = Obituary(states.FAILURE, "TimeLimitExceeded", "3s")


@pytest.fixture
def bench() -> Iterator[Bench]:
    app = Kernel("early", broker="memory://", backend="memory://")
    yield Bench(app)
    app.close()


def test_what_was_acknowledged_early_runs_though_the_lease_is_lost(bench: Bench) -> None:
    @bench.app.task
    def double(x: int) -> int:
        return 2 * x

    message = bench.message(double, 4)
    assert bench.run_message(message, valid=lambda: False).verdict is Verdict.REQUEUE
    early = bench.run_message(message, valid=lambda: False, early_ack=True)
    assert (early.verdict, early.state) == (Verdict.ACK, states.SUCCESS)


def test_a_late_task_that_timed_out_runs_again_where_it_is_asked_for(bench: Bench) -> None:
    @bench.app.task(acks_on_timeout=False)
    def slow() -> None: ...

    ending = bench.bury(slow, obituary=TIMED_OUT)
    assert (ending.verdict, ending.charged, list(ending.records)) == (Verdict.REQUEUE, True, [])
    # No message is left of an early one: it fails.
    early = bench.run_message(bench.message(slow), obituary=TIMED_OUT, early_ack=True)
    assert (early.state, len(early.records)) == (states.FAILURE, 1)


def test_a_late_task_whose_failures_are_not_acknowledged_is_kept(bench: Bench) -> None:
    @bench.app.task(acks_on_failure=False)
    def lost() -> None: ...

    ending = bench.bury(lost, obituary=Obituary(states.FAILURE, "WorkerLostError", "died"))
    assert (ending.verdict, ending.state) == (Verdict.DEAD, states.FAILURE)


def test_an_end_with_a_verdict_of_its_own_keeps_it(bench: Bench) -> None:
    @bench.app.task(acks_on_failure=False, acks_on_timeout=False)
    def any_task() -> None: ...

    skipped = Obituary(states.FAILURE, "TaskError", "a plugin says so", Verdict.ACK)
    assert bench.bury(any_task, obituary=skipped).verdict is Verdict.ACK
