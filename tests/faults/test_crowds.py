"""Many workers on one file, slow tasks among fast ones, hostile messages among good ones. Cases N1 to N3, F18."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernel.message import Publication
from kernel.testing.workers import WorkerProcess, project_in, results_within, wait_for

pytestmark = pytest.mark.faults

SOMETIMES_SLOW = """
@app.task
def sometimes(key, slow):
    if slow:
        time.sleep(5)
    note("COMMIT", key)
    return time.time()
"""


def test_two_in_a_hundred_slow_tasks_hold_up_nobody(tmp_path: Path) -> None:
    """While a child is free, no call waits behind a slow one. (How long it waits is for the benchmarks to say.)"""
    with (
        project_in(tmp_path / "p", tasks=SOMETIMES_SLOW) as project,
        WorkerProcess(project, "-c", "4", "-l", "WARNING"),
    ):
        task = project.task("sometimes")
        results_within(task.map_delay([("warm", False)] * 200), 20)
        waits = []
        for number in range(100):
            slow = number % 50 == 10
            sent = time.time()
            result = task.delay(f"k{number}", slow)
            if not slow:
                waits.append(result.get(timeout=10) - sent)
            else:
                results_within(task.map_delay([(f"b{number}-{n}", False) for n in range(50)]), 4)
        assert max(waits) < 4, f"the slowest: {sorted(waits)[-5:]}"


PRODUCER = """
import sys
from proj import work
start, count = int(sys.argv[1]), int(sys.argv[2])
for n in range(start, start + count, 50):
    work.map_delay([(f"k{i}",) for i in range(n, n + 50)])
"""


def test_four_workers_and_eight_producers_on_one_file(tmp_path: Path) -> None:
    total, producers = 20_000, 8
    with project_in(tmp_path / "p", task_ignore_result=True) as project, contextlib.ExitStack() as stack:
        workers = [WorkerProcess(project, "-c", "2", "-l", "WARNING") for _ in range(4)]
        for worker in workers:
            stack.enter_context(worker)
        share = total // producers
        running = [
            subprocess.Popen(
                [sys.executable, "-c", PRODUCER, str(n * share), str(share)],
                cwd=project.folder,
                env=project.environment,
                stderr=subprocess.PIPE,
            )
            for n in range(producers)
        ]
        for producer in running:
            _, errors = producer.communicate(timeout=60)
            assert producer.returncode == 0, errors.decode()
        wait_for(lambda: len(project.notes()) >= 2 * total, 60, lambda: f"{len(project.notes())} notes")
        counts = project.counts("COMMIT")
        assert len(counts) == total
        assert set(counts.values()) == {1}
        assert not any("locked" in worker.log for worker in workers)
        assert len({note.pid for note in project.notes()}) == 8


@pytest.mark.case("N1")
def test_hostile_messages_among_good_ones(tmp_path: Path) -> None:
    from kernel.testing.hostile import hostile_messages

    with (
        project_in(tmp_path / "p") as project,
        WorkerProcess(project, "-c", "2", "-l", "CRITICAL") as worker,
    ):
        assert project.task("add").delay(1, 1).get(timeout=10) == 2
        before = _resident(worker.pid)
        results = []
        messages = hostile_messages(seed=11, count=5000)
        for number in range(500):
            batch = [Publication(message, "celery") for _, message in zip(range(10), messages, strict=False)]
            project.app.broker.publish(batch)
            results.append(project.task("add").delay(number, 1))
        assert results_within(results, 90) == [number + 1 for number in range(500)]
        wait_for(lambda: project.app.broker.stats()[0].ready == 0, 60)
        assert worker.process.poll() is None
        assert _resident(worker.pid) - before < 64 * 1024
        assert project.task("add").delay(2, 2).get(timeout=5) == 4
        stats = project.app.broker.stats()[0]
        assert stats.dead > 3000
        assert all(letter.reason for letter in project.app.broker.dead_letters(limit=50))


def _resident(pid: int) -> int:
    """KiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
