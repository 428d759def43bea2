"""On Redis: owners that freeze, that cannot renew, and whose clocks are wrong. Cases F3, F4, F6, F10, F11, F13, F15."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from kernel.testing.proxy import DOWN, UP, Direction, Proxy
from kernel.testing.servers import RedisProcess
from kernel.testing.workers import Project, WorkerProcess, wait_for
from tests.faults import stories
from tests.faults.fleet import Rounds, send, through, with_a_stepping_clock
from tests.faults.oracle import judge
from tests.faults.redis_fleet import redis_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def server(empty_redis: RedisProcess) -> RedisProcess:
    return empty_redis


def is_told(worker: WorkerProcess, project: Project, key: str) -> bool:
    """Whether the task of a stale owner, or its worker, noticed."""
    return project.counts("STALE")[key] >= 1 or "lease" in worker.log


@pytest.mark.case("F3")
def test_a_stale_owner_is_refused(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    with redis_project(tmp_path, server, worker_lease=1.0) as project:
        for number in range(rounds(1, 8)):
            key = f"x{number}"
            with WorkerProcess(project, "-c", "1") as first:
                result = project.task("fenced").delay(key, 2.0)
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 1, 10)  # type: ignore[misc]
                first.signal_all(signal.SIGSTOP)
                with WorkerProcess(project, "-c", "1") as second:
                    taker = result.get(timeout=20)
                    assert taker in second.children()
                    first.signal_all(signal.SIGCONT)
                    wait_for(lambda key=key, first=first: is_told(first, project, key), 10, lambda: first.log)  # type: ignore[misc]
                    assert result.get(timeout=5) == taker
                    assert project.task("add").delay(1, 2).get(timeout=10) == 3
                assert first.process.poll() is None
            assert project.counts("BEGIN")[key] == 2
            judge(project, [key], tally, within=5, again=1, word="BEGIN")
            tally.runs += 1


@pytest.mark.case("F4")
def test_the_next_owner_may_die_too(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """The stale owner's settlement takes nothing from the next one: the task runs a third time. (With results it
    need not: the stale owner's record says that it is done.)"""
    with redis_project(tmp_path, server, results=False, worker_lease=1.0) as project:
        for number in range(rounds(1, 8)):
            key = f"x{number}"
            with WorkerProcess(project, "-c", "1") as first:
                project.task("fenced").delay(key, 1.5)
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 1, 10)  # type: ignore[misc]
                first.signal_all(signal.SIGSTOP)
                second = WorkerProcess(project, "-c", "1").wait_ready()
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 2, 10)  # type: ignore[misc]
                first.signal_all(signal.SIGCONT)
                time.sleep(0.2)
                second.kill()
                judge(project, [key], tally, within=10, word="VALID")
            assert project.counts("BEGIN")[key] == 3
            tally.runs += 1


@pytest.mark.case("F6", "F15")
@pytest.mark.parametrize(
    "way",
    [pytest.param(UP, marks=pytest.mark.thorough, id="to the server"), pytest.param(DOWN, id="from the server")],
)
def test_an_owner_that_cannot_renew(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, way: Direction
) -> None:
    """Its bytes vanish in one direction: the task is told that the lease is gone, another worker runs it, and what
    the first one stores when it is back counts for nothing."""
    with redis_project(tmp_path, server, worker_lease=1.0) as project, Proxy("127.0.0.1", server.port) as proxy:
        for number in range(rounds(1, 5)):
            key = f"x{number}"
            with through(project, server.url, proxy, "-c", "1") as first:
                result = project.task("fenced").delay(key, 4.0)
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 1, 10)  # type: ignore[misc]
                proxy.swallow(way)
                met = proxy.accepted
                with WorkerProcess(project, "-c", "1") as second:
                    taker = result.get(timeout=20)
                    assert taker in second.children()
                    wait_for(lambda key=key: project.counts("STALE")[key] == 1, 10, lambda: first.log)  # type: ignore[misc]
                    # Not one attempt after the other.
                    assert proxy.accepted - met < 60
                    proxy.heal()
                    assert result.get(timeout=5) == taker
                    keys = send(project, 20, 0.1, first=100 * number)
                    judge(project, keys, tally, within=10)
                wait_for(
                    lambda first=first: {n.pid for n in project.notes()} & {*first.children()},  # type: ignore[misc]
                    5,
                    lambda first=first: first.log,  # type: ignore[misc]
                )
                judge(project, send(project, 20, first=100 * number + 50), tally, within=5)
                assert first.process.poll() is None
            assert project.counts("BEGIN")[key] == 2
            tally.runs += 1


@pytest.mark.case("F13")
@pytest.mark.parametrize(
    "how", ["half_open", *(pytest.param(each, marks=pytest.mark.thorough) for each in ("swallow", "stall"))]
)
def test_a_peer_that_is_silent(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, how: str) -> None:
    """No FIN, no RST. Another worker carries on, and the silent one is back within five seconds of the network."""
    with (
        redis_project(tmp_path, server, results=False, broker_connection_timeout=2) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, server.url, proxy, "-c", "2") as worker,
    ):
        for number in range(rounds(1, 4)):
            keys = send(project, 60, 0.02, first=1000 * number)
            wait_for(lambda n=number: len(project.counts("COMMIT")) >= 10 + 160 * n, 10)  # type: ignore[misc]
            getattr(proxy, how)()
            if how == "half_open":
                # New connections work: nobody has to be healed for the worker to go on.
                # What it had claimed may have run, and cannot be settled.
                judge(project, keys, tally, within=10, again=10)
            else:
                time.sleep(rounds(4, 30))
                # So many may have run here unsettled: about twenty were in hand, and a lease is over.
                with WorkerProcess(project, "-c", "2"):
                    judge(project, keys, tally, within=10, again=30)
            proxy.heal()
            judge(project, send(project, 100, first=1000 * number + 100), tally, within=5)
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.thorough
@pytest.mark.case("F10")
@pytest.mark.parametrize(
    "step",
    [3600.0, -3600.0, 3.2e8],
    ids=["an hour on", "an hour back", "ten years on"],
)
def test_the_clock_of_one_machine_steps(tmp_path: Path, server: RedisProcess, tally: Tally, step: float) -> None:
    """Leases run by the server's clock: nothing is given to another too early, and a dead one's comes back."""
    with redis_project(tmp_path, server, results=False, worker_lease=1.0) as project:
        wrong = with_a_stepping_clock(project, step, "-c", "2").wait_ready()
        with WorkerProcess(project, "-c", "2"):
            keys = send(project, 8, 1.5)
            judge(project, keys, tally, within=20)
            assert set(project.counts("BEGIN").values()) == {1}
            later = time.time() + 1.0
            project.task("work").apply_async(("due",), countdown=1.0)
            judge(project, ["due"], tally, within=5)
            due = next(note for note in project.notes() if note.word == "COMMIT" and note.key == "due")
            # The ledger has the time of whoever ran it.
            ran = due.at if abs(due.at - later) < 1000 else due.at - step
            assert ran >= later - 0.05
            more = send(project, 40, 0.05, first=100)
            time.sleep(0.3)
            wrong.kill()
            judge(project, more, tally, within=10, again=2)
        tally.runs += 1


@pytest.mark.thorough
@pytest.mark.case("F11")
@pytest.mark.parametrize("offset", [100_000, -100_000])
def test_the_monotonic_clock_of_a_rebooted_machine(
    tmp_path: Path, server: RedisProcess, tally: Tally, offset: int
) -> None:
    with redis_project(tmp_path, server, results=False, worker_lease=1.0) as project:
        stories.rebooted(project, tally, offset, again=2)
