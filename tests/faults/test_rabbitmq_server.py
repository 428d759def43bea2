"""On RabbitMQ: a server that restarts, deletes, cancels, blocks, runs out of patience, or talks garbage.

Cases Q1 to Q7, F16, P4, P5. Each ends with the worker alive, and consuming within five seconds of the server's
being well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_lib_amqp import AmqpServer
from kernel_lib_amqp.channel import Channel

from kernel import errors
from kernel.testing.proxy import ANSWER, DOWN, Proxy
from kernel.testing.rabbitmq import RabbitProcess, rabbitmq_server
from kernel.testing.workers import Project, WorkerProcess, wait_for
from tests.faults.fleet import Rounds, send, through
from tests.faults.oracle import judge
from tests.faults.rabbitmq_fleet import delete_queue, rabbit_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SOON = 5.0
"""Seconds in which a worker consumes again."""


@pytest.fixture
def server(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


@pytest.fixture
def url(kernel_rabbitmq_url: str) -> str:
    """An empty virtual host."""
    return kernel_rabbitmq_url


@pytest.fixture
def impatient(server: RabbitProcess) -> Iterator[None]:
    """Ten seconds of patience in place of half an hour, looked at every second."""
    server.evaluate("application:set_env(rabbit, consumer_timeout, 10000)")
    server.evaluate("application:set_env(rabbit, channel_tick_interval, 1000)")
    yield
    server.evaluate("application:set_env(rabbit, consumer_timeout, 1800000)")
    server.evaluate("application:set_env(rabbit, channel_tick_interval, 60000)")


@pytest.mark.case("Q1", note="at least once")
@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_a_server_that_goes_and_comes(tmp_path: Path, how: str, tally: Tally, rounds: Rounds) -> None:
    """What the worker had in hand goes back with its connection, and what of that had ended does not run again."""
    with (
        rabbitmq_server() as server,
        rabbit_project(tmp_path, server.url) as project,
        WorkerProcess(project, "-c", "2") as worker,
    ):
        for number in range(rounds(1, 8)):
            first = 1000 * number
            keys = send(project, 200, 0.01, first=first)
            wait_for(lambda first=first: len(project.counts("COMMIT")) > first / 5 + 20, 20)  # type: ignore[misc]
            if how == "killed":
                server.kill()
                time.sleep(0.3)
            else:
                server.stop()
            server.start()
            # What ran at that moment may run again, in each of two children; what had ended does not.
            judge(project, keys, tally, within=SOON + 5, again=8)
            judge(project, send(project, 20, first=first + 500), tally, within=SOON)
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("F16", "Q7")
def test_the_queue_is_deleted(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds) -> None:
    """What waited in it is gone, by the operator's hand; what comes later runs, and what runs ends."""
    with rabbit_project(tmp_path, url) as project, WorkerProcess(project, "-c", "2") as worker:
        for number in range(rounds(2, 20)):
            send(project, 50, 0.05, first=1000 * number)
            wait_for(lambda n=number: any(note.key.startswith(f"k{n}") for note in project.notes()), 10)  # type: ignore[misc]
            delete_queue(server, url, "celery")
            time.sleep(0.2)
            judge_late = send_until(project, 50, first=1000 * number + 500)
            judge(project, judge_late, tally, within=SOON + 3, again=50)
            assert worker.process.poll() is None
            tally.runs += 1


def send_until(project: Project, count: int, *, first: int, within: float = SOON) -> list[str]:
    """Publish while the queue is being made again: a publisher is told that there is none, and tries again."""
    deadline = time.monotonic() + within
    while True:
        try:
            return send(project, count, first=first)
        except errors.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.case("P5")
def test_a_missing_queue_is_told_or_made_again(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    """A publish into a queue that was deleted behind the publisher's back is never taken for stored."""
    with rabbit_project(tmp_path, url) as project:
        for number in range(rounds(3, 30)):
            send(project, 5, first=100 * number)
            delete_queue(server, url, "celery")
            try:
                keys = send(project, 5, first=100 * number + 50)
            except errors.OperationalError:
                keys = send_until(project, 5, first=100 * number + 60)
            with WorkerProcess(project, "-c", "1"):
                judge(project, keys, tally, within=10)
            tally.runs += 1


@pytest.mark.case("Q3")
def test_connections_are_closed_by_the_server(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    """Each with a reason, in the middle of everything."""
    with rabbit_project(tmp_path, url) as project, WorkerProcess(project, "-c", "2") as worker:
        many = rounds(4, 40)
        keys = send(project, 100 * many, 0.005)
        for number in range(many):
            wait_for(lambda n=number: len(project.counts("COMMIT")) > 50 * n, 20)  # type: ignore[misc]
            server.close_connections()
            tally.runs += 1
        # What a child had begun when its delivery went back to the queue may run once more.
        judge(project, keys, tally, within=30, again=10 * many)
        assert worker.process.poll() is None


@pytest.mark.case("Q4")
def test_a_task_longer_than_the_servers_patience(
    tmp_path: Path, url: str, impatient: None, tally: Tally, rounds: Rounds
) -> None:
    """The server closes a channel whose delivery is not settled for ten seconds; the task runs fifteen."""
    seconds = rounds(15, 40)
    options = {"consumer_timeout": 10}
    with (
        rabbit_project(tmp_path, url, broker_transport_options=options) as project,
        WorkerProcess(project, "-c", "2") as worker,
    ):
        project.task("fenced").delay("long", seconds)
        project.task("work").apply_async(("later",), countdown=seconds - 2)
        wait_for(lambda: project.counts("BEGIN")["long"] == 1, 10)
        wait_for(lambda: project.counts("VALID")["long"] == 1, seconds + 10, lambda: worker.log)
        judge(project, ["later"], tally, within=SOON + 5)
        assert project.counts("BEGIN")["long"] == 1
        assert "PRECONDITION" not in worker.log, worker.log
        tally.runs += 1


@pytest.mark.case("Q5", "P4")
def test_a_server_without_memory(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds) -> None:
    """Publishing fails in time and says why; what waits is still worked off; then publishing works again."""
    with (
        rabbit_project(tmp_path, url, broker_connection_timeout=2, task_publish_retry=False) as project,
        WorkerProcess(project, "-c", "2") as worker,
    ):
        for number in range(rounds(1, 10)):
            keys = send(project, 100, 0.02, first=1000 * number)
            server.raise_alarm()
            try:
                begun = time.monotonic()
                with pytest.raises(errors.OperationalError):
                    send_many(project, 900_000 + 10 * number)
                assert time.monotonic() - begun < 15
                judge_running(project, keys)
            finally:
                server.clear_alarm()
            judge(project, keys, tally, within=SOON)
            judge(project, send_until(project, 50, first=1000 * number + 500), tally, within=SOON)
            assert worker.process.poll() is None
            tally.runs += 1


def send_many(project: Project, first: int) -> None:
    """The first one may be what the server blocks the connection for."""
    for attempt in range(5):
        send(project, 1, first=first + attempt)


def judge_running(project: Project, keys: list[str]) -> None:
    wait_for(lambda: set(keys) <= set(project.counts("COMMIT")), 15, lambda: str(len(project.counts("COMMIT"))))


GARBAGE = {
    "a frame without an end": b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x50\x00",
    "a frame too large": b"\x01\x00\x01\x7f\xff\xff\xff\x00\x3c\x00\x50" + b"\0" * 64,
    "a frame of no kind": b"\x63\x00\x01\x00\x00\x00\x01\x00\xce",
    "a heartbeat on a channel": b"\x08\x00\x01\x00\x00\x00\x00\xce",
    "an unknown method": b"\x01\x00\x01\x00\x00\x00\x04\x03\xe7\x03\xe7\xce",
    "a body of no message": b"\x03\x00\x01\x00\x00\x00\x01\x61\xce",
    "a header of 2^63 bytes": b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x00\x80" + b"\0" * 9 + b"\xce",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.case("Q2")
def test_garbage_in_the_protocol(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds) -> None:
    """In place of what the server says: the connection goes, the worker stays, nothing is lost."""
    with (
        rabbit_project(tmp_path, url, broker_connection_timeout=2) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, url, proxy, "-c", "2") as worker,
    ):
        number = 0
        for _ in range(rounds(1, 6)):
            for kind, garbage in GARBAGE.items():
                number += 1
                trap = proxy.trap(f"k{1000 * number}".encode(), ANSWER, direction=DOWN, answer=garbage)
                keys = send(project, 10, first=1000 * number)
                assert trap.wait(10), (kind, worker.log)
                judge(project, keys, tally, within=SOON + 3, again=10)
                assert worker.process.poll() is None, (kind, worker.log)
                proxy.heal()
                tally.runs += 1


@pytest.mark.case("Q6")
def test_a_quorum_queue_with_a_limit_of_its_own(tmp_path: Path, server: RabbitProcess, url: str, tally: Tally) -> None:
    """The server gives up after three deliveries, we after five: one dead letter, nothing dropped."""
    admin = AmqpServer(url, timeout=5.0).connect()
    channel = Channel(admin)
    channel.declare_queue("graves")
    limits = {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-dead-letter-exchange": "",
              "x-dead-letter-routing-key": "graves"}  # fmt: skip
    channel.declare_queue("celery", arguments=limits)
    settings: dict[str, Any] = {"task_delivery_limit": 5, "task_default_queue_type": "quorum"}
    with rabbit_project(tmp_path, url, **settings) as project, WorkerProcess(project, "-c", "2") as worker:
        project.task("crash").delay("bad")
        keys = send(project, 50)
        judge(project, keys, tally, within=20, again=50)

        def dead() -> int:
            return channel.declare_queue("graves", passive=True)[1] + len(project.app.broker.dead_letters())

        wait_for(lambda: dead() >= 1, 40, lambda: worker.log)
        time.sleep(1.0)
        assert dead() == 1
        assert 3 <= project.counts("BEGIN")["bad"] <= 6
        assert worker.process.poll() is None
        tally.runs += 1
    admin.close()


@pytest.mark.case("Q7")
def test_the_server_cancels_the_consumer(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds
) -> None:
    """A queue that is deleted and there again before anybody looks."""
    with rabbit_project(tmp_path, url) as project, WorkerProcess(project, "-c", "2") as worker:
        for number in range(rounds(3, 20)):
            judge(project, send_until(project, 10, first=100 * number), tally, within=SOON)
            stop = threading.Event()
            delete_queue(server, url, "celery")
            link = AmqpServer(url, timeout=5.0).connect()
            try:
                Channel(link).declare_queue("celery")
            except errors.OperationalError:
                pass  # the worker was faster, and has it otherwise
            finally:
                link.close()
            stop.set()
            judge(project, send_until(project, 10, first=100 * number + 50), tally, within=SOON + 3)
            assert worker.process.poll() is None
            tally.runs += 1
