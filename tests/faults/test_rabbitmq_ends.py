"""On RabbitMQ: ends of tasks whose workers, backends or callers fail in the middle; and ends of workers.

Cases F9, X4, X6, A1, A3, A4, D2.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kernel.testing.proxy import LOSE, Proxy
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.servers import redis_server
from kernel.testing.workers import Project, WorkerProcess, results_within, wait_for
from tests.faults import stories
from tests.faults.fleet import Rounds, send, through
from tests.faults.oracle import judge
from tests.faults.rabbitmq_fleet import rabbit_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SOON = 5.0


@pytest.fixture
def server(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


@pytest.fixture
def url(kernel_rabbitmq_url: str) -> str:
    """An empty virtual host."""
    return kernel_rabbitmq_url


@pytest.mark.thorough
@pytest.mark.case("F9", note="the server returns a dead owner's; those with a recorded start, their holding queue")
def test_those_who_take_over_from_the_dead_die_too(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url, worker_lease=1.0, task_delivery_limit=100) as project:
        keys = send(project, 300, 0.01)
        dice, deaths = random.Random(9), rounds(3, 30)
        for _ in range(deaths):
            worker = WorkerProcess(project, "-c", "2", "-l", "WARNING")
            time.sleep(dice.uniform(0.6, 1.4))
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            # What had ended and was not acknowledged yet is a batch of at most some dozens.
            judge(project, keys, tally, within=20, again=40 * deaths)
        assert not project.app.broker.dead_letters()


@pytest.mark.case("X4")
def test_a_task_that_always_crashes_is_buried(tmp_path: Path, url: str, tally: Tally) -> None:
    with (
        rabbit_project(tmp_path, url, results=True, task_delivery_limit=5) as project,
        WorkerProcess(project, "-c", "2") as worker,
    ):
        bad = project.task("crash").delay("bad")
        judge(project, send(project, 200, 0.005), tally, within=30, settled=False)
        error = bad.get(timeout=40, propagate=False)
        assert type(error).__name__ == "WorkerLostError", worker.log
        # The record comes first, and then the message goes.
        wait_for(project.app.broker.dead_letters, 10)
        (letter,) = project.app.broker.dead_letters()
        assert letter.id == bad.id
        assert project.counts("BEGIN")["bad"] == 5


@pytest.mark.case("X6")
def test_a_termination_never_hits_the_next_task(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url) as project, WorkerProcess(project, "-c", "1", "-l", "WARNING"):
        work = project.task("work")
        aimed = rounds(15, 300)
        for number in range(aimed):
            target = work.delay(f"t{number}", 0.003)
            send(project, 3, 0.001, first=3 * number)
            time.sleep(0.004 + number % 7 * 0.001)
            target.revoke(terminate=True)
            if number % 25 == 24:
                judge(project, [f"k{n}" for n in range(3 * number + 3)], tally, within=20)
            tally.runs += 1
        judge(project, [f"k{n}" for n in range(3 * aimed)], tally, within=20)


POINTS = ["claim.done=kill@1", "result.stored=kill@1", "settle.sent=kill@1"]
MORE_POINTS = [
    "child.started=kill@2",
    "settle.before=kill@1",
    "child.taken=kill@2",
    "child.announced=kill@2",
    "task.decided=kill@2",
    "outcome.sent=kill@2",
]


@pytest.mark.case("A1", note="at least once: there is no record to read")
@pytest.mark.parametrize(
    "point", [*POINTS, *(pytest.param(point, marks=pytest.mark.thorough) for point in MORE_POINTS)]
)
def test_every_arrow_of_an_end(tmp_path: Path, url: str, tally: Tally, rounds: Rounds, point: str) -> None:
    """Whatever the moment: every task commits, its caller gets its result, and its callback runs."""
    with rabbit_project(tmp_path, url, results=True) as project:
        work, after = project.task("work"), project.task("after")
        for number in range(rounds(1, 6)):
            keys = [f"k{number}.{n}" for n in range(8)]
            results = [work.apply_async((key,), link=after.s()) for key in keys]
            worker = WorkerProcess(project, "-c", "2", environment={"KERNEL_FAILPOINTS": point})
            wait_for(lambda w=worker: w.process.poll() is not None or "was ended by SIGKILL" in w.log, 20)  # type: ignore[misc]
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
            with WorkerProcess(project, "-c", "2"):
                assert results_within(results, 20) == keys
                judge(project, keys, tally, within=15, again=len(keys))
                judge(project, keys, tally, within=10, again=len(keys), word="AFTER")
            tally.runs += 1
        assert not project.app.broker.dead_letters()


def _is_away(project: Project, proxy: Proxy, key: str, seconds: float) -> None:
    """From when `key` has begun, the server behind `proxy`, for so long."""
    wait_for(lambda: project.counts("BEGIN")[key] >= 1, 10)
    proxy.refuse()
    proxy.cut()
    time.sleep(seconds)
    proxy.heal()


@pytest.mark.case("A3")
def test_the_results_server_is_away_when_tasks_end(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    """Results on Redis: records come when it does, and nothing runs again for it."""
    with redis_server() as records, Proxy("127.0.0.1", records.port) as proxy:
        backend: dict[str, Any] = {"tasks": f"\napp.conf.result_backend = {proxy.url(records.url)!r}\n"}
        with rabbit_project(tmp_path, url, **backend) as project, WorkerProcess(project, "-c", "2") as worker:
            work = project.task("work")
            assert work.delay("warm").get(timeout=10) == "warm"
            for number in range(rounds(1, 4)):
                keys = [f"k{number}.{n}" for n in range(20)]
                results = work.map_delay([(key, 0.05) for key in keys])
                _is_away(project, proxy, keys[3], rounds(3, 20))
                assert results_within(results, 30) == keys
                judge(project, keys, tally, within=10)
                assert worker.process.poll() is None
                tally.runs += 1


@pytest.mark.case("A3", note="at least once: what ran when the server went may run again")
def test_the_callers_queue_cannot_be_reached_when_tasks_end(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    """Results by rpc, so that deliveries are lost with them: every caller gets its result all the same."""
    with (
        rabbit_project(tmp_path, url, results=True) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, url, proxy, "-c", "2") as worker,
    ):
        work = project.task("work")
        assert work.delay("warm").get(timeout=10) == "warm"
        for number in range(rounds(1, 4)):
            keys = [f"k{number}.{n}" for n in range(20)]
            results = work.map_delay([(key, 0.05) for key in keys])
            _is_away(project, proxy, keys[3], rounds(3, 20))
            assert results_within(results, 30) == keys
            judge(project, keys, tally, within=10, again=2)
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("A4", note="the caller takes the first of two replies")
def test_the_confirm_of_a_result_is_lost(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    with (
        rabbit_project(tmp_path, url, results=True) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, url, proxy, "-c", "2") as worker,
    ):
        for number in range(rounds(4, 40)):
            trap = proxy.trap(b'"SUCCESS"', LOSE)
            keys = [f"k{number}.{n}" for n in range(5)]
            results = project.task("work").map_delay([(key,) for key in keys])
            assert trap.wait(10), worker.log
            assert results_within(results, 10) == keys
            judge(project, keys, tally, within=8)
            proxy.heal()
            tally.runs += 1


@pytest.mark.case("D2")
def test_rolling_restarts_under_load(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url) as project:
        stories.rolling_restarts(project, tally, rounds(3, 30))
