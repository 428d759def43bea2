"""The lease counts from the connection; stages of the end; takers of a queue in memory that all see its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kernel import errors
from kernel.app import Kernel
from kernel.interfaces.pool import Drained
from kernel.worker.assignment import Assignment
from kernel.worker.claims.lease import Renewer
from kernel.worker.engine.shutdown import Shutdown, Stage
from kernel.worker.local import LocalInbox
from kernel.worker.running.execute import Executor, TaskJob
from kernel.worker.worker import Worker


def renewer(renew: Callable[[], bool], held: list[float], lost: list[bool]) -> Renewer:
    pump: Any = SimpleNamespace(consumer=SimpleNamespace(renew=renew))
    return Renewer(pump, 0.3, held=held.append, lost=lambda: lost.append(True))


def test_the_lease_counts_from_the_connection() -> None:
    """A worker that had to wait for its broker must not refuse what it claims then."""
    held: list[float] = []
    made = renewer(lambda: True, held, [])
    time.sleep(0.35)  # longer than the lease
    made.begin()
    assert held[-1] > time.monotonic()


def test_a_driver_that_fails_in_any_way_does_not_end_the_renewal() -> None:
    outcomes: list[BaseException | None] = [TypeError("a defect"), errors.OperationalError("away"), None]
    renewed = threading.Event()

    def renew() -> bool:
        outcome = outcomes.pop(0) if outcomes else None
        if outcome is not None:
            raise outcome
        renewed.set()
        return True

    held: list[float] = []
    made = renewer(renew, held, [])
    made.start()
    assert renewed.wait(5)
    made.stop()
    assert held
    assert not made.is_lost


def test_a_lease_that_ran_out_is_told_once() -> None:
    lost: list[bool] = []
    away = threading.Event()

    def renew() -> bool:
        if len(lost) and not away.is_set():
            away.set()
        raise errors.OperationalError("away")

    made = renewer(renew, [], lost)
    made.start()
    assert away.wait(5)
    made.stop()
    assert lost == [True]
    assert made.is_lost


def test_a_broker_that_says_lost_again_and_again_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """And once when it holds again; each loss is passed on, since something may have been claimed in between."""
    answers = [False, False, False, True, True, False]
    lost: list[bool] = []
    made = renewer(lambda: answers.pop(0), [], lost)
    with caplog.at_level(logging.WARNING, "kernel.worker"):
        for _ in range(6):
            made._renew()
    said = ["ran out" if "ran out" in each.getMessage() else "again" for each in caplog.records]
    assert said == ["ran out", "again", "ran out"]
    assert len(lost) == 4


def test_a_task_that_was_told_of_the_loss_stays_stale() -> None:
    """Though the worker's lease holds again: that covers what it claims from then on."""
    app = Kernel("stale", broker="memory://", backend="memory://")
    assignment: Any = SimpleNamespace(lost=False)
    job = TaskJob(Executor(app, hostname="h", sink=SimpleNamespace()), assignment)
    job.interrupt(errors.SoftTimeLimitExceeded)
    assert assignment.lost is False
    job.interrupt(errors.LeaseLost)
    assert assignment.lost is True
    real = Assignment(1, SimpleNamespace(), "q", "t", valid=lambda: True)
    assert real.holds()
    real.lost = True
    assert not real.holds()
    app.close()


def test_a_cold_end_goes_through_the_soft_stage_unless_it_is_to_come_at_once() -> None:
    softly, at_once = Shutdown(60.0), Shutdown(60.0)
    softly.ask(Stage.COLD, "asked")
    at_once.ask(Stage.COLD, "broken", at_once=True)
    assert (softly.stage, at_once.stage) == (Stage.SOFT, Stage.COLD)
    softly.ask(Stage.COLD, "asked again")
    assert softly.stage is Stage.COLD


@pytest.mark.parametrize("on_idle", [False, True])
def test_an_idle_worker_keeps_to_the_soft_stage_where_it_is_asked_to(on_idle: bool) -> None:
    shutdown = Shutdown(60.0, on_idle=on_idle)
    assert not shutdown.lingers
    shutdown.ask(Stage.COLD, "asked")
    assert shutdown.lingers is on_idle
    shutdown.ask(Stage.COLD, "asked again")
    assert not shutdown.lingers


def test_the_end_reaches_every_taker_though_the_engine_takes_things_back() -> None:
    inbox = LocalInbox(lambda: None)
    seen = threading.Semaphore(0)

    def take() -> None:
        try:
            while True:
                inbox.take(1, 5.0)
        except Drained:
            seen.release()

    inbox.end()
    assert inbox.get_back() == []
    takers = [threading.Thread(target=take, daemon=True) for _ in range(8)]
    for taker in takers:
        taker.start()
    for _ in range(20):
        inbox.get_back()
    assert all(seen.acquire(timeout=5) for _ in takers)
    for taker in takers:
        taker.join(5)


def test_an_inbox_is_readable_as_long_as_there_is_something() -> None:
    import select

    inbox = LocalInbox(lambda: None)
    jobs: list[Any] = [object(), object(), object()]
    poll = select.poll()
    poll.register(inbox.fileno(), select.POLLIN)
    for job in jobs:
        inbox.put(job)
    taken: list[Any] = []
    for _ in jobs:
        assert poll.poll(1000)
        taken += inbox.take(1, 0)
    assert taken == jobs
    inbox.take(1, 0)
    assert not poll.poll(0)
    inbox.end()
    assert poll.poll(1000)
    inbox.close()


def test_an_embedded_worker_that_is_stopped_while_it_starts_does_not_run_on() -> None:
    app = Kernel("starting", broker="memory://", backend="memory://")
    worker = Worker(app, concurrency=8)
    worker._ask(Stage.COLD, "stop")
    worker._thread = threading.Thread(target=worker._run, name="kernel-worker", daemon=True)
    worker._thread.start()
    assert worker.wait(10)
    app.close()


def test_embedded_workers_with_many_takers_end_at_once() -> None:
    app = Kernel("many", broker="memory://", backend="memory://")
    for _ in range(5):
        worker = Worker(app, concurrency=16).start()
        assert worker.drain(timeout=5)
    app.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("kernel-task")]
