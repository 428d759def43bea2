"""On RabbitMQ: owners that cannot be heard, clocks that are wrong, queues beside each other.

Cases F6, F7, F10, F11, F18.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from kernel_lib_amqp import AmqpServer
from kernel_lib_amqp.channel import Channel

from kernel.message import Message, Publication
from kernel.testing.proxy import DOWN, UP, Direction, Proxy
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import WorkerProcess, wait_for
from tests.faults import stories
from tests.faults.fleet import Rounds, send, through, with_a_stepping_clock
from tests.faults.oracle import judge
from tests.faults.rabbitmq_fleet import rabbit_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

FAST_BEATS = {"heartbeat": 1.0}
SOON = 5.0


@pytest.fixture
def server(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


@pytest.fixture
def url(kernel_rabbitmq_url: str) -> str:
    """An empty virtual host."""
    return kernel_rabbitmq_url


@pytest.mark.case("F6")
@pytest.mark.parametrize(
    "way",
    [pytest.param(DOWN, marks=pytest.mark.thorough, id="from the server"), pytest.param(UP, id="to the server")],
)
def test_an_owner_that_cannot_be_heard(
    tmp_path: Path, server: RabbitProcess, url: str, tally: Tally, rounds: Rounds, way: Direction
) -> None:
    """Its bytes vanish in one direction: the task is told that its delivery is gone, and another worker runs it."""
    with (
        rabbit_project(tmp_path, url, broker_transport_options=FAST_BEATS) as project,
        Proxy("127.0.0.1", server.port) as proxy,
    ):
        for number in range(rounds(1, 5)):
            key = f"x{number}"
            with through(project, url, proxy, "-c", "1") as first:
                project.task("detained").delay(key)
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 1, 10)  # type: ignore[misc]
                proxy.swallow(way)
                met = proxy.accepted
                with WorkerProcess(project, "-c", "1"):
                    wait_for(lambda key=key: project.counts("VALID")[key] == 1, 30, lambda: first.log)
                    wait_for(lambda key=key: project.counts("STALE")[key] == 1, 20, lambda: first.log)
                    # Not one attempt after the other.
                    assert proxy.accepted - met < 60
                    proxy.heal()
                    judge(project, send(project, 20, 0.1, first=100 * number), tally, within=10)
                judge(project, send(project, 20, first=100 * number + 50), tally, within=SOON + 3)
                assert first.process.poll() is None
            assert project.counts("BEGIN")[key] == 2
            tally.runs += 1


@pytest.mark.case("F7")
def test_one_message_in_two_queues(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    """One publish that an exchange brings into both: what becomes of one copy says nothing of the other."""
    link = AmqpServer(url, timeout=5.0).connect()
    channel = Channel(link)
    channel.declare_exchange("both", "fanout")
    for queue in ("q1", "q2"):
        channel.declare_queue(queue)
        channel.bind_queue(queue, "both")
    link.close()
    with rabbit_project(tmp_path, url) as project, WorkerProcess(project, "-c", "1", "-Q", "q1"):
        for number in range(rounds(1, 8)):
            key = f"k{number}"
            body = b'[["%s", 1.0], {}, {}]' % key.encode()
            message = Message({"id": key, "task": "proj.work", "lang": "py"}, body, content_type="application/json")
            second = WorkerProcess(project, "-c", "1", "-Q", "q2").wait_ready()
            project.app.broker.publish([Publication(message, "q1", exchange="both")])
            wait_for(lambda key=key: project.counts("BEGIN")[key] == 2, 10)  # type: ignore[misc]
            second.kill()
            with WorkerProcess(project, "-c", "1", "-Q", "q2"):
                wait_for(lambda key=key: project.counts("COMMIT")[key] == 2, 20)  # type: ignore[misc]
                judge(project, [key], tally, within=5, again=1)
            assert project.counts("BEGIN")[key] == 3
            tally.runs += 1


@pytest.mark.case("F10")
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3600.0, id="an hour on", marks=pytest.mark.thorough),
        pytest.param(-3600.0, id="an hour back"),
        pytest.param(3.2e8, id="ten years on", marks=pytest.mark.thorough),
    ],
)
def test_the_clock_of_one_machine_steps(tmp_path: Path, url: str, tally: Tally, rounds: Rounds, step: float) -> None:
    """Nothing is given to another too early, a dead one's comes back, and what is due runs when it is due, whoever
    gets it."""
    with rabbit_project(tmp_path, url) as project:
        wrong = with_a_stepping_clock(project, step, "-c", "2").wait_ready()
        with WorkerProcess(project, "-c", "2"):
            keys = send(project, 8, 1.5)
            judge(project, keys, tally, within=20)
            assert set(project.counts("BEGIN").values()) == {1}
            dues = [f"due{number}" for number in range(rounds(8, 20))]
            later = time.time() + 1.5
            for key in dues:
                project.task("work").apply_async((key, 0.1), countdown=1.5)
            judge(project, dues, tally, within=SOON + 1.5)
            for note in project.notes():
                if note.word == "BEGIN" and note.key in dues:
                    # The ledger has the time of whoever ran it.
                    ran = note.at if abs(note.at - later) < 1000 else note.at - step
                    assert ran >= later - 0.05
            more = send(project, 40, 0.05, first=100)
            time.sleep(0.3)
            wrong.kill()
            judge(project, more, tally, within=10, again=2)
        tally.runs += 1


@pytest.mark.thorough
@pytest.mark.case("F11")
@pytest.mark.parametrize("offset", [100_000, -100_000])
def test_the_monotonic_clock_of_a_rebooted_machine(tmp_path: Path, url: str, tally: Tally, offset: int) -> None:
    with rabbit_project(tmp_path, url) as project:
        stories.rebooted(project, tally, offset, again=20)


@pytest.mark.case("F18")
def test_one_long_queue_among_many_short_ones(tmp_path: Path, url: str, tally: Tally, rounds: Rounds) -> None:
    with rabbit_project(tmp_path, url) as project:
        many = rounds(10_000, 100_000)
        work = project.task("work")
        for start in range(0, many, 5000):
            work.map_delay([(f"k{n}", 0.0005) for n in range(start, min(many, start + 5000))], queue="q1")
        queues = [f"q{n}" for n in range(2, rounds(41, 201))]
        with WorkerProcess(project, "-c", "2", "-Q", ",".join(["q1", *queues]), "-l", "WARNING"):
            wait_for(lambda: len(project.notes()) > 100, 30)
            for queue in queues:
                work.apply_async((queue,), queue=queue)
            sent = time.time()
            wait_for(lambda: set(queues) <= set(project.counts("COMMIT")), 60)
            ran = [note.at for note in project.notes() if note.key in queues and note.word == "COMMIT"]
            tally.late += sum(at > sent + SOON for at in ran)
            # Each of the long queue's would come first if they were not taken in turns.
            assert len(project.counts("COMMIT")) < many
            assert not tally.late
        tally.runs += 1
