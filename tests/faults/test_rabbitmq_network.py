"""On RabbitMQ: connections that are cut, half-open, one-sided, slow, or lose what was said.

Cases P1 to P3, F12 to F15, F17, A2, A5, A6.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kernel import errors
from kernel.interfaces.backend import Record
from kernel.testing.proxy import CUT, DOWN, HOLD, LOSE, UP, Proxy
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import Project, WorkerProcess, results_within, wait_for
from tests.faults.fleet import Rounds, send, through
from tests.faults.oracle import judge
from tests.faults.rabbitmq_fleet import delete_queue, rabbit_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SOON = 5.0
ACK = b"\x00\x3c\x00\x50"
"""basic.ack: of a delivery on the way up, of a publish on the way down."""
FAST_BEATS = {"heartbeat": 1.0}


@pytest.fixture
def server(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


@pytest.fixture
def url(kernel_rabbitmq_url: str) -> str:
    """An empty virtual host."""
    return kernel_rabbitmq_url


@pytest.mark.case("P1")
def test_cut_before_the_server_reads_a_publish(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    with rabbit_project(tmp_path, url) as project, Proxy("127.0.0.1", server.port) as proxy:
        project.app.conf.broker_url = proxy.url(url)
        keys: list[str] = []
        for number in range(rounds(5, 50)):
            trap = proxy.trap(f"k{20 * number + 7}".encode(), CUT)
            keys += send(project, 20, first=20 * number)
            assert trap.wait(5)
            tally.runs += 1
        # What went before the cut in the same batch may be there twice.
        with WorkerProcess(project, "-c", "2"):
            judge(project, keys, tally, within=20, again=len(keys))


@pytest.mark.case("P2", note="at least once: sent again under the same id")
def test_the_confirm_is_lost(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url) as project, Proxy("127.0.0.1", server.port) as proxy:
        project.app.conf.broker_url = proxy.url(url)
        keys: list[str] = []
        for number in range(rounds(5, 50)):
            trap = proxy.trap(f"k{number}".encode(), LOSE)
            keys += send(project, 1, first=number)
            assert trap.wait(5)
            tally.runs += 1
        with WorkerProcess(project, "-c", "2"):
            judge(project, keys, tally, within=20, again=tally.runs)
        seen = [note.key for note in project.notes() if note.word == "COMMIT"]
        assert len(seen) <= 2 * len(keys)


@pytest.mark.case("P3")
def test_a_late_confirm_is_for_its_own_publish(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    """The confirm of one publish arrives while the next one, which the server never sees, waits for its own."""
    with (
        rabbit_project(tmp_path, url, broker_connection_timeout=1, task_publish_retry=False) as project,
        Proxy("127.0.0.1", server.port) as proxy,
    ):
        project.app.conf.broker_url = proxy.url(url)
        for number in range(rounds(2, 15)):
            send(project, 1, first=100 * number)
            trap = proxy.trap(ACK, HOLD, direction=DOWN)
            with pytest.raises(errors.OperationalError):
                send(project, 1, first=100 * number + 1)
            assert trap.hits == 1
            proxy.swallow(UP)
            threading.Timer(0.3, trap.release).start()
            with pytest.raises(errors.OperationalError):
                send(project, 1, first=100 * number + 2)
            proxy.heal()
            tally.runs += 1
            judge_sent(project, [f"k{100 * number + 3}"], 100 * number + 3)


def judge_sent(project: Project, keys: list[str], first: int) -> None:
    """Publishing works again."""
    deadline = time.monotonic() + SOON
    while True:
        try:
            assert send(project, 1, first=first) == keys
        except errors.OperationalError:
            assert time.monotonic() < deadline, "publishing did not come back"
            continue
        return


@pytest.mark.case("F12", note="at least once")
def test_connections_cut_at_random(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    with (
        rabbit_project(tmp_path, url) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, url, proxy, "-c", "2") as worker,
    ):
        keys = send(project, 600, 0.01)
        generator = random.Random(7)
        end = time.monotonic() + rounds(4, 60)
        while time.monotonic() < end:
            time.sleep(generator.uniform(0.2, 0.7))
            proxy.cut(fin=generator.random() < 0.3)
            tally.runs += 1
        # What has ended and what has not is told apart; what ran at that moment may run again.
        judge(project, keys, tally, within=30, again=10 * tally.runs)
        assert worker.process.poll() is None


@pytest.mark.case("F13", note="at least once")
def test_a_half_open_peer(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds) -> None:
    """The server's end is gone and nobody says so: heartbeats find out."""
    with (
        rabbit_project(tmp_path, url, broker_transport_options=FAST_BEATS) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, url, proxy, "-c", "2") as worker,
    ):
        for number in range(rounds(2, 15)):
            keys = send(project, 50, 0.02, first=1000 * number)
            time.sleep(0.2)
            proxy.half_open()
            # Two and a half seconds of silence; then nobody waits for the other connections' own silence.
            judge(project, keys, tally, within=SOON + 3, again=50)
            judge(project, send(project, 20, first=1000 * number + 500), tally, within=SOON)
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("F15", note="at least once")
@pytest.mark.parametrize("direction", [UP, DOWN], ids=["up", "down"])
def test_a_partition_in_one_direction(
    tmp_path: Path, server: RabbitProcess, url: str, direction: Any, tally: Tally, rounds: Rounds
) -> None:
    with (
        rabbit_project(tmp_path, url, broker_transport_options=FAST_BEATS) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, url, proxy, "-c", "2") as worker,
    ):
        for number in range(rounds(1, 10)):
            keys = send(project, 100, 0.02, first=1000 * number)
            time.sleep(0.3)
            proxy.swallow(direction)
            time.sleep(rounds(3, 6))
            accepted = proxy.accepted
            proxy.heal()
            judge(project, keys, tally, within=SOON + 3, again=100)
            judge(project, send(project, 20, first=1000 * number + 500), tally, within=SOON)
            assert worker.process.poll() is None
            # It tried again while nothing worked, and not in a storm.
            assert accepted < 60 * (number + 1)
            tally.runs += 1


@pytest.mark.case("F14", note="at least once")
def test_links_clogged_one_by_one(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    with (
        rabbit_project(tmp_path, url, broker_transport_options=FAST_BEATS) as project,
        Proxy("127.0.0.1", server.port) as left,
        Proxy("127.0.0.1", server.port) as right,
        through(project, url, left, "-c", "1") as one,
        through(project, url, right, "-c", "1") as two,
    ):
        generator = random.Random(11)
        keys = send(project, 400, 0.01)
        for _ in range(rounds(2, 20)):
            order = [left, right]
            generator.shuffle(order)
            for proxy in order:
                proxy.stall()
                time.sleep(generator.uniform(0.1, 1.5))
            generator.shuffle(order)
            for proxy in order:
                proxy.heal()
                time.sleep(generator.uniform(0.1, 0.5))
            tally.runs += 1
        judge(project, keys, tally, within=30, again=200 * tally.runs)
        assert one.process.poll() is two.process.poll() is None


@pytest.mark.case("F17")
def test_a_slow_consumer_of_a_long_queue(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    """One worker reads some kilobytes a second; another is not held up by it."""
    with rabbit_project(tmp_path, url) as project, Proxy("127.0.0.1", server.port) as proxy:
        keys = send(project, rounds(2000, 20_000))
        with through(project, url, proxy, "-c", "1", "-l", "WARNING") as slow:
            proxy.throttle(4000, DOWN)
            with WorkerProcess(project, "-c", "1", "-l", "WARNING"):
                wait_for(lambda: len(project.counts("COMMIT")) >= 0.7 * len(keys), 60)
            proxy.heal()
            judge(project, keys, tally, within=30, again=2000)
            assert slow.process.poll() is None
        tally.runs += 1


@pytest.mark.case("A2", note="at least once: there is no record to read")
def test_the_settlement_is_lost(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds) -> None:
    with (
        rabbit_project(tmp_path, url, results=True) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, url, proxy, "-c", "2") as worker,
    ):
        for number in range(rounds(3, 30)):
            trap = proxy.trap(ACK, CUT)
            results = project.task("work").map_delay([(f"k{n}", 0.0) for n in range(10 * number, 10 * number + 10)])
            assert results_within(results, 15) == [f"k{n}" for n in range(10 * number, 10 * number + 10)]
            assert trap.wait(5)
            judge(project, [f"k{n}" for n in range(10 * number, 10 * number + 10)], tally, within=SOON, again=10)
            proxy.heal()
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("A5")
def test_two_ends_of_one_task(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    """The caller takes the first reply, whichever it is, and the other changes nothing."""
    with rabbit_project(tmp_path, url, results=True) as project:
        app = project.app
        backend = app.backend
        for number in range(rounds(100, 1000)):
            result = project.task("work").apply_async(("k",), queue="nobody")
            ends = [
                Record(id=result.id, state="SUCCESS", result=b'"done"', reply_to=app.oid),
                Record(
                    id=result.id,
                    state="FAILURE",
                    result=b'{"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}',
                    reply_to=app.oid,
                ),
            ]
            for record in ends if number % 2 else ends[::-1]:
                backend.store([record])
            value = result.get(timeout=10, propagate=False)
            again = app.AsyncResult(result.id).get(timeout=10, propagate=False)
            assert (value == "done") is bool(number % 2) is (again == "done")
            tally.runs += 1


@pytest.mark.case("A6")
def test_the_callers_link_is_cut(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds) -> None:
    """While results come in. All of them arrive."""
    with (
        rabbit_project(tmp_path, url, results=True) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        WorkerProcess(project, "-c", "2"),
    ):
        project.app.conf.broker_url = proxy.url(url)
        for _ in range(rounds(3, 20)):
            results = project.task("add").map_delay([(n, n) for n in range(100)])
            cutting = threading.Thread(target=lambda: [(time.sleep(0.02), proxy.cut()) for _ in range(8)])
            cutting.start()
            values = results_within(results, 30)
            cutting.join(10)
            tally.lost += sum(value != 2 * n for n, value in enumerate(values))
            assert values == [2 * n for n in range(100)]
            tally.runs += 1


@pytest.mark.case("A6")
def test_the_callers_queue_is_gone(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    """Every result arrives, or its caller is told that it was lost; nobody waits for ever."""
    with rabbit_project(tmp_path, url, results=True) as project, WorkerProcess(project, "-c", "2"):
        app = project.app
        for _ in range(rounds(3, 20)):
            results = project.task("work").map_delay([(f"k{n}", 0.01) for n in range(100)])
            assert results[0].get(timeout=10) == "k0"
            delete_queue(server, url, app.oid)
            values = results_within(results, 20)
            told = [value for value in values if isinstance(value, errors.ResultLost)]
            assert all(value == f"k{n}" or isinstance(value, errors.ResultLost) for n, value in enumerate(values))
            assert told, "the queue was gone in the middle, and nothing was lost"
            assert project.task("add").delay(1, 2).get(timeout=10) == 3
            tally.runs += 1
