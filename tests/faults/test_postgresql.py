"""Kills, crowds and a server that drops every connection, with broker and results on PostgreSQL."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.testing.servers import Server, postgres_server
from kernel.testing.workers import Project, WorkerProcess, project_in, results_within, wait_for

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    """A database of its own for each test."""
    name = f"t_{uuid.uuid4().hex[:10]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.url.rsplit('/', 1)[0]}/{name}"


def committed(project: Project) -> set[str]:
    return set(project.counts("COMMIT"))


@pytest.mark.case("X1")
def test_children_killed_at_random(tmp_path: Path, url: str) -> None:
    with (
        project_in(tmp_path / "p", broker=url, backend=url) as project,
        WorkerProcess(project, "-c", "2") as worker,
    ):
        results = project.task("work").map_delay([(f"k{n}", 0.01) for n in range(200)])
        generator = random.Random(14)
        for _ in range(10):
            time.sleep(generator.uniform(0.0, 0.15))
            worker.kill_child(generator)
        assert results_within(results, 40) == [f"k{n}" for n in range(200)]
        assert committed(project) == {f"k{n}" for n in range(200)}
        # A child that dies after its commit runs it again, and no other task with it.
        assert sum(project.counts("COMMIT").values()) <= 210
        assert worker.process.poll() is None
        stats = project.app.broker.stats()[0]
        assert (stats.ready, stats.dead) == (0, 0)


@pytest.mark.case("X2")
def test_the_worker_killed_at_random(tmp_path: Path, url: str) -> None:
    # Nobody on the server knows at once that a worker elsewhere was killed: its lease has to run out.
    with project_in(tmp_path / "p", broker=url, backend=url, worker_lease=1.0, task_delivery_limit=100) as project:
        results = project.task("work").map_delay([(f"k{n}", 0.01) for n in range(200)])
        generator = random.Random(15)
        for _ in range(5):
            worker = WorkerProcess(project, "-c", "2").wait_ready()
            time.sleep(generator.uniform(0.0, 0.3))
            worker.kill()
        with WorkerProcess(project, "-c", "2"):
            assert results_within(results, 40) == [f"k{n}" for n in range(200)]
        assert committed(project) == {f"k{n}" for n in range(200)}
        assert project.app.broker.stats()[0].dead == 0


def test_four_workers_run_each_of_16000_ids_once(tmp_path: Path, url: str) -> None:
    total = 16_000
    with (
        project_in(tmp_path / "p", broker=url, backend=url, task_ignore_result=True) as project,
        contextlib.ExitStack() as stack,
    ):
        workers = [stack.enter_context(WorkerProcess(project, "-c", "1", "-l", "WARNING")) for _ in range(4)]
        for start in range(0, total, 1000):
            project.task("work").map_delay([(f"k{n}",) for n in range(start, start + 1000)])
        wait_for(lambda: len(project.notes()) >= 2 * total, 90, lambda: f"{len(project.notes())} notes")
        counts = project.counts("COMMIT")
        assert len(counts) == total
        assert set(counts.values()) == {1}
        assert len({note.pid for note in project.notes()}) == 4
        assert not any("Error" in worker.log for worker in workers)


@pytest.mark.case("F12", "S7")
def test_connections_cut_by_the_server_heal(tmp_path: Path, url: str) -> None:
    """As a restart of the server does it: every session ends, at whatever point it is."""
    with (
        project_in(tmp_path / "p", broker=url, backend=url) as project,
        WorkerProcess(project, "-c", "2", "-l", "WARNING") as worker,
    ):
        results = project.task("work").map_delay([(f"k{n}", 0.01) for n in range(300)])
        generator = random.Random(16)
        for _ in range(8):
            time.sleep(generator.uniform(0.05, 0.25))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        assert results_within(results, 40) == [f"k{n}" for n in range(300)]
        assert committed(project) == {f"k{n}" for n in range(300)}
        # A settlement whose answer was cut off is made again and found done: nobody ran anything twice for it.
        assert set(project.counts("COMMIT").values()) == {1}
        assert worker.process.poll() is None
        wait_for(lambda: project.app.broker.stats()[0].claimed == 0, 10)


def test_a_server_that_hangs_is_waited_for(tmp_path: Path, server: Server, url: str) -> None:
    """Nothing answers for longer than a call may take; the lease outlives it, and nothing is run twice."""
    with (
        project_in(tmp_path / "p", broker=url, backend=url) as project,
        WorkerProcess(project, "-c", "2", "-l", "WARNING") as worker,
    ):
        results = project.task("work").map_delay([(f"k{n}", 0.02) for n in range(150)])
        wait_for(lambda: len(project.notes()) >= 20, 10)
        server.pause()
        try:
            time.sleep(6.0)
        finally:
            server.resume()
        assert results_within(results, 40) == [f"k{n}" for n in range(150)]
        assert set(project.counts("COMMIT").values()) == {1}
        assert worker.process.poll() is None
