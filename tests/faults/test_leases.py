"""Frozen workers, frozen children, stale owners, delays across deaths. Cases F3, F4, X10, T1, S1."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from kernel.testing.workers import WorkerProcess, project_in, results_within, wait_for

pytestmark = pytest.mark.faults

FENCED = """
@app.task(bind=True)
def fenced(self, key, seconds):
    note("BEGIN", key)
    time.sleep(seconds)
    note("VALID" if self.request.lease_valid() else "STALE", key)
    return os.getpid()
"""


@pytest.mark.case("F3")
def test_a_stale_owner_is_refused(tmp_path: Path) -> None:
    """A worker frozen past its lease: another one runs its task; what the first settles afterwards counts for
    nothing."""
    with project_in(tmp_path / "p", tasks=FENCED, worker_lease=1) as project:
        with WorkerProcess(project, "-c", "1") as first:
            result = project.task("fenced").delay("x", 2.0)
            wait_for(lambda: project.counts("BEGIN")["x"] == 1, 10)
            first.signal_all(signal.SIGSTOP)
            with WorkerProcess(project, "-c", "1") as second:
                taker = result.get(timeout=20)
                assert taker in second.children()
                first.signal_all(signal.SIGCONT)
                wait_for(lambda: project.counts("STALE")["x"] >= 1 or "lease" in first.log, 10, lambda: first.log)
                assert result.get(timeout=5) == taker
                assert project.task("add").delay(1, 2).get(timeout=10) == 3
            assert first.process.poll() is None
        assert project.counts("BEGIN")["x"] == 2
        stats = project.app.broker.stats()[0]
        assert (stats.ready, stats.claimed, stats.dead) == (0, 0, 0)


@pytest.mark.case("F4")
def test_the_next_owner_may_die_too(tmp_path: Path) -> None:
    """F4: the stale worker's settlement takes no protection from the new holder."""
    with project_in(tmp_path / "p", tasks=FENCED, worker_lease=1) as project:
        with WorkerProcess(project, "-c", "1") as first:
            result = project.task("fenced").delay("x", 1.5)
            wait_for(lambda: project.counts("BEGIN")["x"] == 1, 10)
            first.signal_all(signal.SIGSTOP)
            second = WorkerProcess(project, "-c", "1").wait_ready()
            wait_for(lambda: project.counts("BEGIN")["x"] == 2, 10)
            first.signal_all(signal.SIGCONT)
            time.sleep(0.2)
            second.kill()
            assert result.get(timeout=20) in first.children()
        assert project.counts("BEGIN")["x"] == 3


@pytest.mark.case("X10")
def test_a_frozen_child_holds_up_nobody_and_is_replaced(tmp_path: Path) -> None:
    with project_in(tmp_path / "p", worker_lease=1) as project, WorkerProcess(project, "-c", "2") as worker:
        slow = project.task("work").delay("slow", 1.0)
        wait_for(lambda: project.counts("BEGIN")["slow"] == 1, 10)
        (note,) = [note for note in project.notes() if note.key == "slow"]
        os.kill(note.pid, signal.SIGSTOP)
        assert results_within([project.task("work").delay(f"k{n}") for n in range(50)], 10) == [
            f"k{n}" for n in range(50)
        ]
        assert slow.get(timeout=20) == "slow"
        assert "stopped" in worker.log
        assert len(worker.children()) == 2


@pytest.mark.case("S1", "P4")
def test_a_writer_that_holds_the_lock_is_waited_for(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project, WorkerProcess(project, "-c", "2") as worker:
        assert project.task("add").delay(1, 1).get(timeout=10) == 2
        outsider = sqlite3.connect(project.data, isolation_level=None, check_same_thread=False)
        outsider.execute("BEGIN EXCLUSIVE")
        failures: list[BaseException] = []
        results: list[object] = []

        def publish(number: int) -> None:
            try:
                results.append(project.task("work").delay(f"k{number}"))
            except Exception as exc:
                failures.append(exc)

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(10)
        outsider.execute("ROLLBACK")
        outsider.close()
        for thread in threads:
            thread.join(30)
        assert all(type(failure).__name__ == "OperationalError" for failure in failures)
        assert results_within(results, 20) == [result.get(timeout=1) for result in results]  # type: ignore[attr-defined]
        assert project.task("add").delay(2, 2).get(timeout=20) == 4
        assert worker.process.poll() is None


@pytest.mark.case("T1")
def test_delays_survive_the_death_of_everyone(tmp_path: Path) -> None:
    """T1: none early, none lost, none twice."""
    with project_in(tmp_path / "p") as project:
        worker = WorkerProcess(project, "-c", "2").wait_ready()
        work = project.task("work")
        due = {f"k{n}": time.time() + 2 + (n % 40) * 0.05 for n in range(200)}
        results = [work.apply_async((key,), countdown=at - time.time()) for key, at in due.items()]
        worker.kill()
        killed = time.time()
        with WorkerProcess(project, "-c", "2"):
            results_within(results, 30)
        # What was due before, on a slow machine, may have been under way.
        begins = project.counts("BEGIN")
        assert [key for key, at in due.items() if begins[key] != 1 and at > killed] == []
        for note in project.notes():
            if note.word == "BEGIN":
                assert note.at >= due[note.key] - 0.05


@pytest.mark.case("D1")
def test_sigterm_while_busy(tmp_path: Path) -> None:
    """D1: what runs ends, what was not started is back at once, and the exit is clean."""
    with project_in(tmp_path / "p") as project:
        worker = WorkerProcess(project, "-c", "2").wait_ready()
        results = project.task("work").map_delay([(f"k{n}", 0.5) for n in range(20)])
        wait_for(lambda: len(project.counts("BEGIN")) >= 2, 10)
        assert worker.stop(timeout=10) == 0
        stats = project.app.broker.stats()[0]
        done = sum(project.counts("COMMIT").values())
        assert stats.claimed == 0
        assert stats.ready + done == 20
        assert project.counts("BEGIN") == project.counts("COMMIT")
        with WorkerProcess(project, "-c", "4"):
            results_within(results, 20)
        assert set(project.counts("COMMIT").values()) == {1}


@pytest.mark.case("D1")
@pytest.mark.parametrize("order", [(signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT)])
def test_a_cold_end_gives_back_what_ran(tmp_path: Path, order: tuple[int, int]) -> None:
    with project_in(tmp_path / "p") as project:
        worker = WorkerProcess(project, "-c", "2").wait_ready()
        result = project.task("work").delay("long", 20)
        wait_for(lambda: project.counts("BEGIN")["long"] == 1, 10)
        for number in order:
            worker.signal(number)
            time.sleep(0.1)
        assert worker.process.wait(10) == 1
        stats = project.app.broker.stats()[0]
        assert (stats.ready, stats.claimed, stats.dead) == (1, 0, 0)
        assert not result.ready()
