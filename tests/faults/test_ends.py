"""The ends of workers and of their parts: signals, a fork server that dies, children that come and go or never come."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from kernel.testing.workers import Project, WorkerProcess, project_in, results_within, wait_for

pytestmark = pytest.mark.faults

EARLY = """
@app.task(acks_late=False)
def early(key):
    time.sleep(0.05)
    note("COMMIT", key)
"""

SLOW_START = """
from kernel.hooks import hookimpl

class Slow:
    @hookimpl
    def kernel_child_start(self, child):
        note("START", child.pid)
        if len(open(_LEDGER).readlines()) == 1:
            time.sleep(600)

app.extensions.register(Slow(), "slow")
"""


TALK = """
print("imported")

@app.task
def talk(key):
    print("said", key)
"""


LONG_AT_FIRST = """
@app.task
def long_at_first(key):
    note("BEGIN", key)
    if open(_LEDGER).read().count(f"BEGIN {key} ") == 1:
        time.sleep(30)
    note("COMMIT", key)
    return key
"""


def committed(project: Project) -> set[str]:
    return set(project.counts("COMMIT"))


def descriptors(pid: int) -> list[str]:
    """What each open descriptor of a process leads to."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(entry.readlink()))
    return sorted(found)


def runs(pid: int) -> bool:
    """Whether it is there and not merely waiting for its parent's attention."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_fork_server_that_dies_ends_the_worker_and_loses_nothing(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project:
        results = project.task("work").map_delay([(f"k{n}", 0.05) for n in range(40)])
        worker = WorkerProcess(project, "-c", "2").wait_ready()
        wait_for(lambda: len(project.notes()) >= 4, 10)
        os.kill(worker.fork_server, signal.SIGKILL)
        assert worker.process.wait(10) == 1
        assert "the fork server has ended" in worker.log
        before = project.app.broker.stats()[0]
        assert before.claimed == 0, "what it held went back when it ended"
        with WorkerProcess(project, "-c", "2"):
            assert results_within(results, 20) == [f"k{n}" for n in range(40)]
        assert committed(project) == {f"k{n}" for n in range(40)}
        assert project.app.broker.stats()[0].dead == 0


def test_children_that_are_replaced_leave_no_descriptor_behind(tmp_path: Path) -> None:
    with (
        project_in(tmp_path / "p") as project,
        WorkerProcess(project, "-c", "2", "-l", "WARNING", "--max-tasks-per-child", "1") as worker,
    ):
        add = project.task("add")
        results_within(add.map_delay([(n, 1) for n in range(20)]), 30)
        holders = worker.pid, worker.fork_server

        def settled() -> bool:
            """Both know the two children that are there, and none that is gone."""
            return all(sum("pidfd" in name for name in descriptors(pid)) == 2 for pid in holders)

        wait_for(settled, 10)
        before = [descriptors(pid) for pid in holders]
        assert results_within(add.map_delay([(n, 1) for n in range(300)]), 90) == [n + 1 for n in range(300)]
        # A file that is read for a moment is gone soon: what leaks is there for each of 300 children.
        wait_for(
            lambda: all(len(descriptors(pid)) <= len(then) + 2 for pid, then in zip(holders, before, strict=True)),
            10,
            lambda: f"{before} became {[descriptors(pid) for pid in holders]}",
        )
        wait_for(settled, 10, lambda: f"{before} became {[descriptors(pid) for pid in holders]}")


def test_children_that_are_replaced_leave_no_word_unsaid(tmp_path: Path) -> None:
    """What they hold back when they end: lines of the log, and what tasks printed into a buffer."""
    settings = {"worker_max_tasks_per_child": 25, "worker_redirect_stdouts": False}
    with project_in(tmp_path / "p", tasks=TALK, **settings) as project:
        results = project.task("talk").map_delay([(f"k{n}",) for n in range(100)])
        with WorkerProcess(project, "-c", "2", environment={"PYTHONUNBUFFERED": ""}) as worker:
            results_within(results, 30)
        assert [worker.log.count(f"said k{n}\n") for n in range(100)] == [1] * 100
        assert [worker.log.count(f"[{result.id}] succeeded") for result in results] == [1] * 100
        assert worker.log.count("imported\n") == 1


def test_a_child_that_is_never_ready_is_replaced(tmp_path: Path) -> None:
    settings = {"worker_proc_alive_timeout": 1.0}
    with project_in(tmp_path / "p", tasks=SLOW_START, **settings) as project:
        result = project.task("add").delay(1, 2)
        with WorkerProcess(project, "-c", "1") as worker:
            assert result.get(timeout=20) == 3
            assert "worker_proc_alive_timeout" in worker.log
            assert len([note for note in project.notes() if note.word == "START"]) == 2


def test_early_acknowledged_tasks_follow_one_another_at_once(tmp_path: Path) -> None:
    with project_in(tmp_path / "p", tasks=EARLY) as project, WorkerProcess(project, "-c", "1", "-l", "WARNING"):
        project.task("early").map_delay([(f"k{n}",) for n in range(30)])
        wait_for(lambda: len(committed(project)) == 30, 15, lambda: f"{len(committed(project))} of 30")
        assert set(project.counts("COMMIT").values()) == {1}


def test_a_soft_end_lets_short_tasks_finish_and_gives_long_ones_back(tmp_path: Path) -> None:
    settings = {"worker_soft_shutdown_timeout": 3.0}
    with project_in(tmp_path / "p", tasks=LONG_AT_FIRST, **settings) as project:
        worker = WorkerProcess(project, "-c", "2").wait_ready()
        short, long = project.task("work").delay("short", 0.3), project.task("long_at_first").delay("long")
        wait_for(lambda: len(project.counts("BEGIN")) == 2, 10)
        worker.signal(signal.SIGQUIT)
        assert worker.process.wait(15) == 1
        assert short.get(timeout=5) == "short"
        assert committed(project) == {"short"}
        with WorkerProcess(project, "-c", "1"):
            assert long.get(timeout=20) == "long"
        assert project.app.broker.stats()[0].dead == 0


def test_sighup_begins_anew_in_the_same_process(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project, WorkerProcess(project, "-c", "1") as worker:
        result = project.task("work").delay("k", 1.0)
        wait_for(lambda: project.counts("BEGIN")["k"] == 1, 10)
        worker.signal(signal.SIGHUP)
        wait_for(lambda: worker.log.count("ready.") == 2, 20, lambda: worker.log)
        assert worker.process.poll() is None
        assert result.get(timeout=5) == "k"
        assert project.task("add").delay(1, 2).get(timeout=10) == 3
        assert project.counts("BEGIN") == {"k": 1}


def test_a_worker_that_begins_anew_leaves_no_word_unsaid(tmp_path: Path) -> None:
    with (
        project_in(tmp_path / "p", tasks=TALK) as project,
        WorkerProcess(project, "-P", "solo", "--processes", "0", environment={"PYTHONUNBUFFERED": ""}) as worker,
    ):
        project.task("talk").delay("k").get(timeout=20)
        worker.signal(signal.SIGHUP)
        wait_for(lambda: worker.log.count("ready.") == 2, 30, lambda: worker.log)
        assert worker.log.count("said k") == 1
        assert worker.log.count("succeeded") == 1


def test_sigusr1_shows_where_the_engine_is_and_ends_nothing(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project, WorkerProcess(project, "-c", "1") as worker:
        worker.signal(signal.SIGUSR1)
        wait_for(lambda: "engine.py" in worker.log and "pump.py" in worker.log, 10, lambda: worker.log)
        # While its threads are busy, too, with frames that come and go.
        results = project.task("work").map_delay([(f"k{n}",) for n in range(200)])
        for _ in range(100):
            worker.signal(signal.SIGUSR1)
            time.sleep(0.002)
        assert results_within(results, 20) == [f"k{n}" for n in range(200)]
        assert worker.process.poll() is None


def test_a_frozen_worker_comes_back_and_claims_on(tmp_path: Path) -> None:
    """What it had claimed and not begun goes back when it finds its lease lost; nothing runs twice for that."""
    with (
        project_in(tmp_path / "p", worker_lease=1.0) as project,
        WorkerProcess(project, "-c", "1", "--prefetch-multiplier", "20") as worker,
    ):
        results = project.task("work").map_delay([(f"k{n}", 0.2) for n in range(10)])
        wait_for(lambda: len(project.notes()) >= 2, 10)
        worker.signal_all(signal.SIGSTOP)
        time.sleep(2.5)
        worker.signal_all(signal.SIGCONT)
        assert results_within(results, 30) == [f"k{n}" for n in range(10)]
        assert max(project.counts("BEGIN").values()) <= 2
        assert worker.process.poll() is None


def test_a_test_that_fails_leaves_no_process_behind(tmp_path: Path) -> None:
    below: list[int] = []

    def fail() -> None:
        with project_in(tmp_path / "p") as project:
            worker = WorkerProcess(project, "-c", "2").wait_ready()
            project.task("work").delay("long", 600)
            wait_for(lambda: project.counts("BEGIN")["long"] == 1, 10)
            below.extend(worker.descendants())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(below) >= 3
    wait_for(lambda: not any(runs(pid) for pid in below), 10, lambda: f"left behind: {below}")
