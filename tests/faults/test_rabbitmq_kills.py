"""On RabbitMQ: workers that are killed and frozen. Cases F1, F2, F3, F4, F5, F8, X1, X2, X8, D1."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from kernel.testing.proxy import DOWN, HOLD, Proxy
from kernel.testing.rabbitmq import RabbitProcess, rabbitmq_server
from kernel.testing.workers import WorkerProcess, wait_for
from tests.faults import stories
from tests.faults.fleet import Rounds, send, through
from tests.faults.oracle import judge
from tests.faults.rabbitmq_fleet import rabbit_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def server(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


@pytest.fixture
def url(kernel_rabbitmq_url: str) -> str:
    """An empty virtual host."""
    return kernel_rabbitmq_url


@pytest.mark.case("F1")
def test_killed_while_deliveries_are_on_their_way(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    with rabbit_project(tmp_path, url) as project:
        keys: list[str] = []
        for number in range(rounds(2, 15)):
            with Proxy("127.0.0.1", server.port) as proxy:
                worker = through(project, url, proxy, "-c", "2").wait_ready()
                trap = proxy.trap(f"k{100 * number + 5}".encode(), HOLD, direction=DOWN)
                keys += send(project, 20, first=100 * number)
                assert trap.wait(10)
                worker.kill()
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            judge(project, keys, tally, within=20, again=20 * tally.runs)


@pytest.mark.case("F2", "F8", note="at least once: one more for each that ran")
def test_every_worker_killed_with_full_hands(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url) as project:
        for number in range(rounds(1, 10)):
            workers = [WorkerProcess(project, "-c", "4") for _ in range(2)]
            for worker in workers:
                worker.wait_ready()
            keys = send(project, 100, 0.3, first=1000 * number)
            begun = sum(project.counts("BEGIN").values())
            wait_for(lambda begun=begun: sum(project.counts("BEGIN").values()) >= begun + 8, 10)  # type: ignore[misc]
            for worker in workers:
                worker.signal_all(signal.SIGKILL)
                worker.process.wait(10)
            with WorkerProcess(project, "-c", "8"):
                judge(project, keys, tally, within=30, again=16)
            tally.runs += 1


@pytest.mark.case("F3", "F4")
def test_frozen_for_longer_than_the_heartbeats(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    """The server takes back what a silent worker holds. When that one wakes it knows that its task is another's; and
    when the other is killed, the task runs a third time."""
    fast = {"heartbeat": 1.0}
    with rabbit_project(tmp_path, url, broker_transport_options=fast) as project:
        for number in range(rounds(1, 8)):
            key = f"f{number}"
            with WorkerProcess(project, "-c", "1") as frozen:
                project.task("fenced").delay(key, 3.0)
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 1, 10)  # type: ignore[misc]
                frozen.signal_all(signal.SIGSTOP)
                second = WorkerProcess(project, "-c", "1").wait_ready()
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 2, 15)  # type: ignore[misc]
                frozen.signal_all(signal.SIGCONT)
                wait_for(lambda w=frozen: "lease of this worker ran out" in w.log, 10, lambda w=frozen: w.log)  # type: ignore[misc]
                wait_for(lambda key=key: project.counts("STALE")[key] == 1, 10, lambda w=frozen: w.log)  # type: ignore[misc]
                second.kill()
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 3, 15, lambda w=frozen: w.log)  # type: ignore[misc]
                wait_for(lambda key=key: project.counts("VALID")[key] == 1, 15)  # type: ignore[misc]
            tally.runs += 1


@pytest.mark.case("F5")
def test_a_task_longer_than_lease_and_heartbeats(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    fast = {"heartbeat": 1.0}
    seconds = rounds(6, 20)
    with (
        rabbit_project(tmp_path, url, broker_transport_options=fast, worker_lease=1.0) as project,
        WorkerProcess(project, "-c", "1"),
    ):
        project.task("fenced").delay("long", seconds)
        wait_for(lambda: project.counts("VALID")["long"] == 1, seconds + 10)
        assert project.counts("BEGIN")["long"] == 1
        tally.runs += 1


@pytest.mark.case("X2", note="at least once")
def test_the_worker_killed_at_random(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url, task_delivery_limit=100) as project:
        keys = send(project, 300, 0.01)
        generator = random.Random(5)
        for _ in range(rounds(4, 20)):
            worker = WorkerProcess(project, "-c", "2").wait_ready()
            time.sleep(generator.uniform(0.05, 0.4))
            worker.kill()
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            # What had ended, and was not confirmed to the server yet, is a batch of at most some dozens.
            judge(project, keys, tally, within=30, again=60 * tally.runs)


@pytest.mark.case("X1", note="at least once: one more for each child that was killed")
def test_children_killed_at_random(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url, task_delivery_limit=100) as project:
        stories.children_killed(project, tally, rounds(10, 100))


@pytest.mark.case("D1")
def test_a_storm_of_signals(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url) as project:
        stories.storm_of_signals(project, tally, rounds(2, 36))


@pytest.mark.case("X8")
def test_a_time_limit_across_a_restart_of_the_server(tmp_path: Path, tally: Tally) -> None:
    """The task is told that its delivery is gone, goes on, and is killed in time though no server is there."""
    tasks = """
from kernel import errors


@app.task(time_limit=4)
def endless(key):
    note("BEGIN", key)
    try:
        time.sleep(60)
    except errors.LeaseLost:
        note("TOLD", key)  # and it goes on all the same
    time.sleep(60)
    note("COMMIT", key)
"""
    with (
        rabbitmq_server() as server,
        rabbit_project(tmp_path, server.url, tasks=tasks) as project,
        WorkerProcess(project, "-c", "1") as worker,
    ):
        project.task("endless").delay("x")
        wait_for(lambda: project.counts("BEGIN")["x"] == 1, 10)
        begun = time.monotonic()
        server.kill()
        children = worker.children()
        wait_for(lambda: project.counts("TOLD")["x"] == 1, 10, lambda: worker.log)
        wait_for(lambda: "hard time limit (4.0s) exceeded" in worker.log, 10, lambda: worker.log)
        wait_for(lambda: worker.children() != children, 5, lambda: worker.log)
        assert time.monotonic() - begun < 15
        assert worker.log.count("lease of this worker ran out") == 1, worker.log
        server.start()
        wait_for(lambda: "lease of this worker holds again" in worker.log, 15, lambda: worker.log)
        judge(project, send(project, 5), tally, within=10)
        assert project.counts("COMMIT")["x"] == 0
        assert worker.process.poll() is None
        tally.runs += 1
