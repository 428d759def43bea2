"""kill -9 of children and of the worker, at random moments and at each arrow of the order of an end.

Cases X1, X2, X4, A1 and F8 of the fault matrix. Each test ends with nothing wrong, and with progress.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from kernel import states
from kernel.testing.workers import Project, WorkerProcess, project_in, results_within, wait_for
from tests.faults.fleet import Rounds
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

CALLBACKS = """
@app.task
def after(value):
    note("AFTER", value)

@app.task
def crash(key):
    note("BEGIN", key)
    ctypes.string_at(0)
"""


def committed(project: Project) -> set[str]:
    return set(project.counts("COMMIT"))


@pytest.mark.case("X1")
def test_children_killed_at_random(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project, WorkerProcess(project, "-c", "2") as worker:
        results = project.task("work").map_delay([(f"k{n}", 0.01) for n in range(300)])
        generator = random.Random(4)
        for _ in range(20):
            time.sleep(generator.uniform(0.0, 0.12))
            worker.kill_child(generator)
        assert results_within(results, 40) == [f"k{n}" for n in range(300)]
        # A child that dies after its commit runs it again: at least once, and never more than once for each kill.
        assert committed(project) == {f"k{n}" for n in range(300)}
        assert sum(project.counts("COMMIT").values()) <= 320
        assert worker.process.poll() is None
        wait_for(lambda: len(worker.children()) == 2, 5)
        assert project.app.broker.stats()[0].dead == 0


@pytest.mark.case("X2")
def test_the_worker_killed_at_random(tmp_path: Path, tally: Tally, rounds: Rounds) -> None:
    # A slow machine may meet the same task each time.
    with project_in(tmp_path / "p", task_delivery_limit=100) as project:
        results = project.task("work").map_delay([(f"k{n}", 0.01) for n in range(400)])
        generator = random.Random(5)
        for _ in range(rounds(20, 40)):
            worker = WorkerProcess(project, "-c", "2").wait_ready()
            time.sleep(generator.uniform(0.0, 0.25))
            worker.kill()  # asserts that no child outlives it
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            assert results_within(results, 40) == [f"k{n}" for n in range(400)]
        assert committed(project) == {f"k{n}" for n in range(400)}
        assert project.app.broker.stats()[0].dead == 0


@pytest.mark.case("F1")
def test_killed_between_receive_and_announcement(tmp_path: Path) -> None:
    """A task that is in no slot, no inbox and no outcome is found by accounting, not by its lease of an hour."""
    failpoint = {"KERNEL_FAILPOINTS": "child.taken=kill%35", "KERNEL_WORKER_LEASE": "3600"}
    with (
        project_in(tmp_path / "p") as project,
        WorkerProcess(project, "-c", "4", "-l", "WARNING", environment=failpoint) as worker,
    ):
        results = project.task("work").map_delay([(f"k{n}", 0.002) for n in range(500)])
        results_within(results[:-1], 80)
        assert results_within(results, 20) == [f"k{n}" for n in range(500)]
        kills = worker.log.count("was ended by SIGKILL")
        assert kills >= 200, f"only {kills} kills"
        # What had not started is uncharged, and nothing ran twice: the kill came before the start.
        assert set(project.counts("BEGIN").values()) == {1}


@pytest.mark.case("X4")
def test_one_segfault_among_innocents_and_the_worker_killed_too(tmp_path: Path, rounds: Rounds) -> None:
    settings = {"task_delivery_limit": 5}
    with project_in(tmp_path / "p", tasks=CALLBACKS, **settings) as project:
        bad = project.task("crash").delay("bad")
        results = project.task("work").map_delay([(f"k{n}", 0.02) for n in range(300)])
        for _ in range(rounds(15, 15)):
            worker = WorkerProcess(project, "-c", "2").wait_ready()
            time.sleep(0.15)
            # On a busy machine that is not enough to get anywhere, and whoever is killed five times is no innocent.
            enough = min(300, len(committed(project)) + 5)
            wait_for(lambda enough=enough: len(committed(project)) >= enough, 20)
            worker.kill()
        with WorkerProcess(project, "-c", "2"):
            assert results_within(results, 60) == [f"k{n}" for n in range(300)]
            error = bad.get(timeout=30, propagate=False)
            assert type(error).__name__ == "WorkerLostError"
        (dead,) = project.app.broker.dead_letters()
        assert dead.id == bad.id
        assert "never ended" in dead.reason
        assert project.counts("BEGIN")["bad"] >= 5


POINTS = [
    "claim.done=kill@1",
    "child.taken=kill@2",
    "child.announced=kill@2",
    "child.started=kill@2",
    "task.decided=kill@2",
    "outcome.sent=kill@2",
    "settle.before=kill@1",
    "settle.sent=kill@1",
]


@pytest.mark.case("A1")
@pytest.mark.parametrize("point", POINTS)
def test_every_arrow_of_an_end(tmp_path: Path, point: str) -> None:
    """Whatever the moment: every task commits, has one result, and its callback runs once."""
    with project_in(tmp_path / "p", tasks=CALLBACKS) as project:
        work, after = project.task("work"), project.task("after")
        results = [work.apply_async((f"k{n}",), link=after.s()) for n in range(8)]
        worker = WorkerProcess(project, "-c", "2", environment={"KERNEL_FAILPOINTS": point})
        wait_for(lambda: worker.process.poll() is not None or "was ended by SIGKILL" in worker.log, 20)
        worker.signal_all(signal.SIGKILL)
        worker.process.wait(10)
        with WorkerProcess(project, "-c", "2"):
            assert results_within(results, 20) == [f"k{n}" for n in range(8)]
            wait_for(lambda: len(project.counts("AFTER")) == 8, 10, lambda: str(project.counts("AFTER")))
        assert all(result.state == states.SUCCESS for result in results)
        assert committed(project) == {f"k{n}" for n in range(8)}
        # An end is one transaction here, so a callback exists exactly if the result does.
        assert set(project.counts("AFTER").values()) == {1}
        stats = project.app.broker.stats()[0]
        assert (stats.ready, stats.claimed, stats.dead) == (0, 0, 0)


def test_a_child_that_allocates_too_much_is_replaced(tmp_path: Path) -> None:
    tasks = """
_HOARD = []

@app.task
def hoard(megabytes):
    _HOARD.append(bytearray(megabytes << 20))
    return os.getpid()
"""
    with (
        project_in(tmp_path / "p", tasks=tasks) as project,
        WorkerProcess(project, "-c", "1", "--max-memory-per-child", "150000") as worker,
    ):
        hoard = project.task("hoard")
        pids = [hoard.delay(60).get(timeout=20) for _ in range(6)]
        assert len(set(pids)) >= 2
        assert "worker_max_memory_per_child" in worker.log


def test_a_child_is_replaced_after_so_many_tasks(tmp_path: Path) -> None:
    tasks = "\n@app.task\ndef pid():\n    return os.getpid()\n"
    with (
        project_in(tmp_path / "p", tasks=tasks) as project,
        WorkerProcess(project, "-c", "2", "--max-tasks-per-child", "3"),
    ):
        pids = results_within(project.task("pid").map_delay([()] * 30), 30)
        assert len(set(pids)) >= 10
        assert max(pids.count(pid) for pid in pids) <= 3
