"""On Redis: connections that are cut, clogged, slow, or lose what was said. Cases F12, F14, F17, A2, A3, A4, A6, X8."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from pathlib import Path

import pytest
from kernel_broker_redis import scripts as claiming

from kernel.testing.proxy import DOWN, LOSE, Proxy
from kernel.testing.servers import RedisProcess, redis_server
from kernel.testing.workers import WorkerProcess, results_within, wait_for
from tests.faults.fleet import LINE, Rounds, send, through
from tests.faults.oracle import judge
from tests.faults.redis_fleet import client_of, redis_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def server(empty_redis: RedisProcess) -> RedisProcess:
    return empty_redis


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.case("F12")
@pytest.mark.parametrize("results", [True, False], ids=["with results", "without results"])
def test_connections_flap(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, results: bool) -> None:
    with (
        redis_project(tmp_path, server, results=results) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, server.url, proxy, "-c", "2", "-l", "WARNING") as worker,
    ):
        judge(project, send(project, 20), tally, within=10)
        before = [descriptors(pid) for pid in (worker.pid, *worker.children())]
        cuts, dice, keys = rounds(12, 120), random.Random(12), []
        for number in range(cuts):
            keys += send(project, 20, 0.01, first=100 + 20 * number)
            time.sleep(dice.uniform(0.05, 0.4))
            proxy.cut(fin=dice.random() < 0.3)
            tally.runs += 1
        # A settlement whose answer was cut off is made again and found done: nothing is run twice.
        judge(project, keys, tally, within=5 + cuts / 6)
        assert worker.process.poll() is None
        after = [descriptors(pid) for pid in (worker.pid, *worker.children())]
        assert all(now <= then + 4 for then, now in zip(before, after, strict=True)), (before, after)


@pytest.mark.thorough
@pytest.mark.case("F14")
def test_links_clog_one_by_one(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """Four workers; each link is clogged in turn, and they are unclogged in another order."""
    with redis_project(tmp_path, server, results=False, worker_lease=1.0) as project, contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Proxy("127.0.0.1", server.port)) for _ in range(4)]
        for proxy in proxies:
            stack.enter_context(through(project, server.url, proxy, "-c", "1", "-l", "WARNING"))
        dice, keys = random.Random(14), []
        for number in range(rounds(2, 12)):
            keys += send(project, 100, 0.01, first=100 * number)
            for proxy in dice.sample(proxies, 4):
                proxy.stall()
                time.sleep(dice.uniform(0.1, 0.8))
            for proxy in dice.sample(proxies, 4):
                proxy.heal()
                time.sleep(dice.uniform(0.0, 0.3))
            tally.runs += 1
        # Leases run out behind clogged links: what was held then may run twice.
        judge(project, keys, tally, within=30, again=10 * 4 * tally.runs)


@pytest.mark.thorough
@pytest.mark.case("F17")
def test_a_slow_reader_of_a_long_queue(tmp_path: Path, server: RedisProcess, tally: Tally) -> None:
    """Its claims crawl: what it holds of the server's and its own memory stays small, and another one goes on."""
    with redis_project(tmp_path, server, results=False, worker_lease=5.0) as project:
        send(project, 20_000)
        with (
            client_of(server) as client,
            Proxy("127.0.0.1", server.port) as proxy,
            through(project, server.url, proxy, "-c", "1", "-l", "WARNING") as slow,
        ):
            memory = client.info("memory")["used_memory"]
            proxy.throttle(1000, DOWN)
            rss = resident(slow.pid)
            with WorkerProcess(project, "-c", "2", "-l", "WARNING"):
                wait_for(lambda: len(project.counts("COMMIT")) > 10_000, 60)
            assert resident(slow.pid) < rss + (32 << 20)
            assert client.info("memory")["used_memory"] < memory + (16 << 20)
            proxy.heal()
            judge(project, [f"k{n}" for n in range(20_000)], tally, within=60, again=600)
        tally.runs += 1


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.case("A2")
@pytest.mark.parametrize("results", [True, False], ids=["with results", "without results"])
def test_the_answer_to_a_settlement_is_lost(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, results: bool
) -> None:
    with (
        redis_project(tmp_path, server, results=results) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, server.url, proxy, "-c", "2") as worker,
    ):
        for number in range(rounds(4, 40)):
            trap = proxy.trap(settles(results=results), LOSE)
            after = project.task("after")
            keys = [f"k{number}.{n}" for n in range(5)]
            for key in keys:
                project.task("work").apply_async((key,), link=after.s())
            assert trap.wait(10), worker.log
            judge(project, keys, tally, within=8)
            judge(project, keys, tally, within=8, word="AFTER")
            proxy.heal()
            tally.runs += 1


def settles(*, results: bool) -> bytes:
    """What only a command that settles has in it: its script's digest."""
    return (claiming.FINISH if results else claiming.ACK).sha.encode()


@pytest.mark.case("A3")
def test_the_results_server_is_away_when_tasks_end(tmp_path: Path, tally: Tally, rounds: Rounds) -> None:
    """Broker and backend on two servers: records come when the backend does, and nothing runs again for it."""
    with (
        redis_server() as broker,
        redis_server() as records,
        Proxy("127.0.0.1", records.port) as proxy,
        redis_project(tmp_path, broker, tasks=f"\napp.conf.result_backend = {proxy.url(records.url)!r}\n") as project,
        WorkerProcess(project, "-c", "2") as worker,
    ):
        work = project.task("work")
        assert work.delay("warm").get(timeout=10) == "warm"
        for number in range(rounds(1, 4)):
            keys = [f"k{number}.{n}" for n in range(20)]
            results = work.map_delay([(key, 0.05) for key in keys])
            wait_for(lambda key=keys[3]: project.counts("BEGIN")[key] == 1, 10)  # type: ignore[misc]
            proxy.refuse()
            proxy.cut()
            time.sleep(rounds(3, 20))
            proxy.heal()
            assert results_within(results, 15) == keys
            judge(project, keys, tally, within=10)
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("A4")
def test_the_answer_to_a_stored_result_is_lost(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    with (
        redis_project(tmp_path, server) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, server.url, proxy, "-c", "2") as worker,
    ):
        for number in range(rounds(4, 40)):
            trap = proxy.trap(b"celery-task-meta-", LOSE)
            keys = [f"k{number}.{n}" for n in range(5)]
            results = project.task("work").map_delay([(key,) for key in keys])
            assert trap.wait(10), worker.log
            assert results_within(results, 10) == keys
            judge(project, keys, tally, within=8)
            proxy.heal()
            tally.runs += 1


@pytest.mark.case("A5")
def test_two_ends_of_one_task(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """Whatever the order, the first terminal record stands, and both who stored are told which."""
    from kernel.interfaces.backend import Record, StoreState

    with redis_project(tmp_path, server) as project:
        backend = project.app.backend
        for number in range(rounds(100, 1000)):
            pair = [Record(id=f"r{number}", state=state) for state in ("SUCCESS", "FAILURE")]
            outcomes: dict[str, StoreState] = {}
            gate = threading.Barrier(2)

            def end(record: Record, gate: threading.Barrier = gate, into: dict[str, StoreState] = outcomes) -> None:
                gate.wait(10)
                into[record.state] = backend.store([record])[0].state

            threads = [threading.Thread(target=end, args=(record,)) for record in pair]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            (winner,) = [state for state, outcome in outcomes.items() if outcome is StoreState.WON]
            (found,) = backend.load([f"r{number}"])
            assert found is not None
            assert found.state == winner
            tally.runs += 1


@pytest.mark.case("A6")
def test_the_callers_link_is_cut_while_results_come(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Proxy("127.0.0.1", server.port) as proxy,
        redis_project(tmp_path, server) as project,
        WorkerProcess(project, "-c", "2", "-l", "WARNING"),
    ):
        monkeypatch.setenv(LINE, proxy.url(server.url))
        work = project.task("work")
        for number in range(rounds(1, 10)):
            keys = [f"k{number}.{n}" for n in range(100)]
            results = work.map_delay([(key, 0.01) for key in keys])
            stop = threading.Event()

            def disturb(stop: threading.Event = stop) -> None:
                while not stop.wait(0.15):
                    proxy.cut()

            disturber = threading.Thread(target=disturb)
            disturber.start()
            try:
                assert results_within(results, 20) == keys
            finally:
                stop.set()
                disturber.join(10)
            judge(project, keys, tally, within=5)
            tally.runs += 1


@pytest.mark.case("X8")
def test_a_hard_limit_holds_across_a_restart_of_the_server(tmp_path: Path, tally: Tally, rounds: Rounds) -> None:
    with (
        redis_server(fsync="always") as server,
        redis_project(tmp_path, server, worker_lease=10.0) as project,
        WorkerProcess(project, "-c", "1") as worker,
    ):
        for number in range(rounds(1, 4)):
            result = project.task("work").apply_async((f"long{number}", 60), time_limit=3)
            wait_for(lambda n=number: project.counts("BEGIN")[f"long{n}"] == 1, 10)  # type: ignore[misc]
            begun = time.time()
            server.kill()
            server.start()
            error = result.get(timeout=15, propagate=False)
            assert type(error).__name__ == "TimeLimitExceeded"
            assert time.time() - begun < 12
            assert project.counts("BEGIN")[f"long{number}"] == 1
            judge(project, send(project, 5, first=10 * number), tally, within=8)
            assert worker.process.poll() is None
            tally.runs += 1
