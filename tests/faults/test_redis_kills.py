"""On Redis: workers and children killed at random, at each arrow of an end, and all at once; signals and restarts.

Cases F1, F2, F5, F8, F9, X1, X2, X4, X6, A1, D1, D2.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from kernel import states
from kernel.testing.proxy import DOWN, HOLD, Proxy
from kernel.testing.servers import RedisProcess
from kernel.testing.workers import WorkerProcess, results_within, wait_for
from tests.faults import stories
from tests.faults.fleet import Rounds, send, through
from tests.faults.oracle import judge, may_run_again
from tests.faults.redis_fleet import redis_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def server(empty_redis: RedisProcess) -> RedisProcess:
    return empty_redis


@pytest.mark.case("F1")
def test_killed_before_it_heard_what_it_claimed(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    """The server has carried out the claim, and the answer is on its way when the worker dies."""
    with redis_project(tmp_path, server, results=False) as project, Proxy("127.0.0.1", server.port) as proxy:
        keys: list[str] = []
        for number in range(rounds(1, 20)):
            # Before the worker is there: it may take over what those before it had claimed.
            trap = proxy.trap(b"proj.work", HOLD, direction=DOWN)
            worker = through(project, server.url, proxy, "-c", "2").wait_ready()
            keys += send(project, 10, first=10 * number)
            assert trap.wait(10)
            assert sum(each.claimed for each in project.app.broker.stats()) > 0
            worker.kill()
            proxy.heal()
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            judge(project, keys, tally, within=15)


@pytest.mark.thorough
@pytest.mark.case("F2")
def test_killed_with_full_slots(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    with redis_project(tmp_path, server, results=False) as project:
        for number in range(rounds(1, 10)):
            worker = WorkerProcess(project, "-c", "2").wait_ready()
            long = send(project, 2, 1.5, first=100 * number)
            wait_for(lambda long=long: set(long) <= set(project.counts("BEGIN")), 10)  # type: ignore[misc]
            short = send(project, 50, first=100 * number + 2)
            wait_for(lambda: sum(each.ready for each in project.app.broker.stats()) < 52, 5)
            worker.kill()
            with WorkerProcess(project, "-c", "2"):
                judge(project, [*long, *short], tally, within=15)
            # What had not begun was not begun twice.
            assert {project.counts("BEGIN")[key] for key in short} == {1}
            tally.runs += 1


@pytest.mark.case("F8")
def test_everyone_dies_with_four_hundred_in_flight(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    """What ran and was settled does not run again, nor does anything else run more than once more."""
    with redis_project(tmp_path, server, results=False, worker_prefetch_multiplier=50) as project:
        for number in range(rounds(1, 5)):
            before = len(project.notes())
            keys = send(project, 400, 0.02, first=1000 * number)
            fleet = [WorkerProcess(project, "-c", "2", "-l", "WARNING") for _ in range(4)]
            wait_for(lambda before=before: len(project.notes()) > before + 40, 30)  # type: ignore[misc]
            for worker in fleet:
                worker.signal_all(signal.SIGKILL)
            for worker in fleet:
                worker.process.wait(10)
            again = may_run_again(project, keys)
            with WorkerProcess(project, "-c", "4"):
                judge(project, keys, tally, within=4 + 12, again=min(again, 8))
            tally.runs += 1


@pytest.mark.thorough
@pytest.mark.case("F9")
def test_those_who_return_the_claims_of_the_dead_die_too(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    with redis_project(tmp_path, server, results=False, worker_lease=1.0, task_delivery_limit=100) as project:
        keys = send(project, 300, 0.01)
        dice, again, deaths = random.Random(9), 0, rounds(3, 30)
        for _ in range(deaths):
            worker = WorkerProcess(project, "-c", "2", "-l", "WARNING")
            # Just when the lease of the one before runs out.
            time.sleep(dice.uniform(0.6, 1.4))
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
            again += may_run_again(project, keys)
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            judge(project, keys, tally, within=20, again=min(again, 2 * deaths))
        assert project.app.broker.stats()[0].dead == 0


@pytest.mark.case("X1")
def test_children_killed_at_random(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    with redis_project(tmp_path, server, task_delivery_limit=100) as project:
        stories.children_killed(project, tally, rounds(15, 100))


@pytest.mark.thorough
@pytest.mark.case("X2")
def test_the_worker_killed_at_random(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    with redis_project(tmp_path, server, worker_lease=1.0, task_delivery_limit=100) as project:
        kills = rounds(2, 20)
        keys = send(project, 60 * kills, 0.01)
        dice, again = random.Random(25), 0
        for _ in range(kills):
            worker = WorkerProcess(project, "-c", "2").wait_ready()
            time.sleep(dice.uniform(0.0, 0.4))
            worker.kill()  # asserts that no child outlives it
            again += may_run_again(project, keys)
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            judge(project, keys, tally, within=30, again=min(again, 2 * kills))
        assert project.app.broker.stats()[0].dead == 0


@pytest.mark.thorough
@pytest.mark.case("X4")
def test_a_task_that_always_crashes_is_buried(tmp_path: Path, server: RedisProcess, tally: Tally) -> None:
    with redis_project(tmp_path, server, task_delivery_limit=5) as project, WorkerProcess(project, "-c", "2"):
        bad = project.task("crash").delay("bad")
        judge(project, send(project, 200, 0.005), tally, within=20)
        error = bad.get(timeout=30, propagate=False)
        assert type(error).__name__ == "WorkerLostError"
        # The record comes first, and then the message goes.
        wait_for(project.app.broker.dead_letters, 10)
        (letter,) = project.app.broker.dead_letters()
        assert letter.id == bad.id
        assert project.counts("BEGIN")["bad"] == 5


@pytest.mark.case("X6")
def test_a_termination_never_hits_the_next_task(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    with redis_project(tmp_path, server) as project, WorkerProcess(project, "-c", "1", "-l", "WARNING"):
        work = project.task("work")
        aimed = rounds(25, 300)
        for number in range(aimed):
            target = work.delay(f"t{number}", 0.003)
            send(project, 3, 0.001, first=3 * number)
            time.sleep(0.004 + number % 7 * 0.001)
            target.revoke(terminate=True)
            if number % 25 == 24:
                judge(project, [f"k{n}" for n in range(3 * number + 3)], tally, within=20)
            tally.runs += 1
        counts = project.counts("COMMIT")
        assert all(counts[f"k{n}"] == 1 for n in range(3 * aimed))


@pytest.mark.thorough
@pytest.mark.case("F5")
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_of_ten_leases_that_keeps_the_interpreter(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, pool: str
) -> None:
    """Ten leases long with --thorough. Big numbers to a power: C that does not give the interpreter away."""
    tasks = """
@app.task
def grind(key, seconds):
    note("BEGIN", key)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pow(3, 3_000_000)
    note("COMMIT", key)
"""
    seconds = rounds(4, 10)
    with (
        redis_project(tmp_path, server, tasks=tasks, worker_lease=1.0) as project,
        WorkerProcess(project, "-P", pool, "-c", "2"),
        WorkerProcess(project, "-c", "1"),
    ):
        project.task("grind").map_delay([("g0", seconds), ("g1", seconds)])
        judge(project, ["g0", "g1"], tally, within=seconds + 15)
        assert set(project.counts("BEGIN").values()) == {1}


POINTS = ["claim.done=kill@1"]
# What is between store, publication and settlement where they are three steps.
APART = ["result.stored=kill@1", "successors.published=kill@1", "settle.before=kill@1", "settle.sent=kill@1"]
MORE_POINTS = [
    "child.started=kill@2",
    "child.taken=kill@2",
    "child.announced=kill@2",
    "task.decided=kill@2",
    "outcome.sent=kill@2",
]


@pytest.mark.case("A1")
@pytest.mark.parametrize(
    "point", [*POINTS, *APART, *(pytest.param(point, marks=pytest.mark.thorough) for point in MORE_POINTS)]
)
def test_every_arrow_of_an_end(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, point: str) -> None:
    """Whatever the moment: every task commits, has one result, and its callback is published under one id. What has a
    result does not run again."""
    with redis_project(tmp_path, server, apart=point in APART, worker_lease=1.0) as project:
        work, after = project.task("work"), project.task("after")
        for number in range(rounds(1, 6)):
            keys = [f"k{number}.{n}" for n in range(8)]
            results = [work.apply_async((key,), link=after.s()) for key in keys]
            worker = WorkerProcess(project, "-c", "2", environment={"KERNEL_FAILPOINTS": point})
            wait_for(lambda w=worker: w.process.poll() is not None or "was ended by SIGKILL" in w.log, 20)  # type: ignore[misc]
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
            ended = {key for key, result in zip(keys, results, strict=True) if result.state == states.SUCCESS}
            ran = project.counts("COMMIT")
            again = sum(ran[key] - (key in ended) for key in keys)
            # Callbacks that ran may do so again; where they are a step of their own, two more may be published twice.
            called = sum(project.counts("AFTER")[key] for key in keys) + (2 if point in APART else 0)
            with WorkerProcess(project, "-c", "2"):
                assert results_within(results, 20) == keys
                judge(project, keys, tally, within=15, again=min(again, 2))
                judge(project, keys, tally, within=10, again=min(called, 2), word="AFTER")
            assert all(project.counts("COMMIT")[key] == ran[key] for key in ended)
            assert all(result.state == states.SUCCESS for result in results)
            tally.runs += 1
        assert project.app.broker.stats()[0].dead == 0


@pytest.mark.case("A1")
@pytest.mark.parametrize(
    "point",
    [
        pytest.param("task.decided=kill@1", marks=pytest.mark.thorough),
        "end.carried_out=kill@1",
        "settle.before=kill@1",
        "settle.sent=kill@1",
    ],
)
def test_ends_in_one_step_die_whole(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, point: str
) -> None:
    """With results in the same database, whether the engine settles or the child does: a task has its result, its
    callback is published and its message is gone, or none of that; and what has a result does not run again."""
    with redis_project(tmp_path, server, worker_lease=1.0) as project:
        work, after = project.task("work"), project.task("after")
        for number in range(rounds(1, 6)):
            keys = [f"k{number}.{n}" for n in range(8)]
            results = [work.apply_async((key,), link=after.s()) for key in keys]
            worker = WorkerProcess(project, "-c", "2", environment={"KERNEL_FAILPOINTS": point})
            wait_for(lambda w=worker: w.process.poll() is not None or "was ended by SIGKILL" in w.log, 20)  # type: ignore[misc]
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
            ended = [result for result in results if result.state == states.SUCCESS]
            called = [child for result in ended for child in result.children]
            assert len(called) == len(ended)
            open_ends = [each for each in [*results, *called] if each.state != states.SUCCESS]
            assert sum(each.ready + each.claimed for each in project.app.broker.stats()) == len(open_ends)
            ran, met = project.counts("COMMIT"), project.counts("AFTER")
            with WorkerProcess(project, "-c", "2"):
                assert results_within(results, 20) == keys
                judge(project, keys, tally, within=15, again=sum(ran[key] for key in keys) - len(ended))
                judge(project, keys, tally, within=10, again=sum(met[key] for key in keys), word="AFTER")
            assert all(project.counts("COMMIT")[result.get()] == ran[result.get()] for result in ended)
            tally.runs += 1


@pytest.mark.case("D1")
def test_a_storm_of_signals(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """What was not started is back at once, too."""
    with redis_project(tmp_path, server, results=False) as project:

        def is_free() -> bool:
            return all(each.claimed == 0 for each in project.app.broker.stats())

        stories.storm_of_signals(project, tally, rounds(3, 36), ended=lambda: wait_for(is_free, 1))


@pytest.mark.thorough
@pytest.mark.case("D2")
def test_rolling_restarts_under_load(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    with redis_project(tmp_path, server, results=False) as project:
        stories.rolling_restarts(project, tally, rounds(3, 30))
