"""On Redis: servers that forget, die, refuse, evict, or are replaced by a replica that lagged.

Cases R1 to R6, F7, F16, F18, P4.
Each ends with the worker alive and consuming within five seconds of the server's being well.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_broker_redis import RedisBroker
from kernel_broker_redis import scripts as claiming

from kernel import errors
from kernel.interfaces.broker import BrokerConfig
from kernel.message import Message, Publication
from kernel.testing.proxy import ANSWER, LOSE, Proxy
from kernel.testing.servers import RedisProcess, redis_server
from kernel.testing.workers import Project, WorkerProcess, wait_for
from tests.faults.fleet import Rounds, send, through
from tests.faults.oracle import judge, may_run_again
from tests.faults.redis_fleet import client_of, redis_project
from tests.faults.table import Tally

# The many rounds of `make faults` take minutes.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SOON = 5.0
"""Seconds in which a worker consumes again."""


@pytest.fixture
def server(empty_redis: RedisProcess) -> RedisProcess:
    return empty_redis


@pytest.mark.case("R1", "F16")
def test_everything_is_flushed(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """What is flushed is gone, by the operator's hand; what comes later runs, on all slots."""
    with (
        redis_project(tmp_path, server) as project,
        WorkerProcess(project, "-c", "8") as worker,
        client_of(server) as client,
    ):
        for number in range(rounds(2, 15)):
            first = 1000 * number
            keys = send(project, 200, 0.3, first=first)
            wait_for(lambda keys=keys: len(set(keys) & set(project.counts("BEGIN"))) >= 8, 10)  # type: ignore[misc]
            lines = len(worker.log.splitlines())
            client.flushall()
            judge(project, send(project, 200, 0.02, first=first + 500), tally, within=SOON)
            assert worker.process.poll() is None
            loud = [line for line in worker.log.splitlines()[lines:] if "INFO" not in line]
            assert len(loud) < 60, loud[:60]
            pids = {
                note.pid for note in project.notes() if note.key.startswith("k") and int(note.key[1:]) >= first + 500
            }
            assert len(pids) >= 6
            tally.runs += 1


@pytest.mark.case("R1")
def test_what_runs_while_everything_is_flushed_ends(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    """It runs for several leases from then on, is told nothing, and its result is stored; one whose child dies then
    is run again, for the server was told of it again."""
    with (
        redis_project(tmp_path, server, worker_lease=1.0) as project,
        WorkerProcess(project, "-c", "2") as worker,
        client_of(server) as client,
    ):
        for number in range(rounds(1, 10)):
            result = project.task("fenced").delay(f"long{number}", 3)
            victim = project.task("fenced").delay(f"victim{number}", 3)
            wait_for(lambda n=number: project.counts("BEGIN")[f"victim{n}"] == 1, 10)  # type: ignore[misc]
            wait_for(lambda n=number: project.counts("BEGIN")[f"long{n}"] == 1, 10)  # type: ignore[misc]
            client.flushall()
            time.sleep(1)
            begun = [note for note in project.notes() if note.key == f"victim{number}" and note.word == "BEGIN"]
            os.kill(begun[0].pid, signal.SIGKILL)
            judge(project, [f"long{number}", f"victim{number}"], tally, within=10, word="VALID")
            assert result.get(timeout=10)
            assert victim.get(timeout=10)
            assert project.counts("BEGIN")[f"long{number}"] == 1
            assert "LeaseLost" not in worker.log
            tally.runs += 1


@pytest.mark.case("F16")
def test_the_queue_is_deleted(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    with (
        redis_project(tmp_path, server, results=False) as project,
        WorkerProcess(project, "-c", "2") as worker,
        client_of(server) as client,
    ):
        for number in range(rounds(2, 20)):
            send(project, 50, 0.05, first=1000 * number)
            client.delete("celery", "_kombu.binding.celery", "kernel:queues")
            judge(project, send(project, 50, first=1000 * number + 500), tally, within=SOON)
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("R2")
def test_a_server_that_syncs_always_is_killed(tmp_path: Path, tally: Tally, rounds: Rounds) -> None:
    with (
        redis_server(fsync="always") as server,
        redis_project(tmp_path, server) as project,
        WorkerProcess(project, "-c", "2") as worker,
    ):
        keys: list[str] = []
        for number in range(rounds(2, 15)):
            keys += send(project, 100, 0.01, first=100 * number)
            wait_for(lambda n=number: len(project.counts("COMMIT")) > 100 * n + 20, 10)  # type: ignore[misc]
            server.kill()
            time.sleep(0.5)
            server.start()
            judge(project, keys, tally, within=SOON + 3)
            assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("R3")
def test_a_replica_that_lagged_is_promoted(tmp_path: Path, tally: Tally, rounds: Rounds) -> None:
    """At most what the replica had not heard of is lost, and no token is ever used twice."""
    for number in range(rounds(1, 6)):
        fast = ("--repl-diskless-sync-delay", "0")
        with (
            redis_server(*fast) as old,
            redis_server(*fast, "--replicaof", "127.0.0.1", str(old.port)) as new,
            Proxy("127.0.0.1", old.port) as proxy,
            redis_project(tmp_path / str(number), old, results=False) as project,
            client_of(new) as replica,
        ):
            wait_for(lambda replica=replica: replica.info("replication")["master_link_status"] == "up", 20)  # type: ignore[misc]
            project.app.conf.broker_url = proxy.url(old.url)
            with through(project, old.url, proxy, "-c", "2") as worker:
                judge(project, send(project, 50), tally, within=10)
                heard = send(project, 100, 0.02, first=100)
                wait_for(lambda: len(project.counts("COMMIT")) > 60, 10)  # type: ignore[misc]
                with client_of(old) as primary:
                    assert primary.wait(1, 5000) == 1
                replica.execute_command("REPLICAOF", "NO", "ONE")
                unheard = send(project, 20, first=300)
                proxy.move("127.0.0.1", new.port)
                proxy.cut()
                # What the replica had not heard of may have run on the old one; what it had is not lost.
                late = send(project, 20, first=400)
                judge(project, [*heard, *late], tally, within=10, again=40)
                assert len(unheard) == 20
                assert worker.process.poll() is None
            tally.runs += 1


@pytest.mark.case("R4")
def test_a_server_that_evicts_is_told_of(caplog: pytest.LogCaptureFixture, tally: Tally) -> None:
    for policy in ("allkeys-lru", "allkeys-lfu", "allkeys-random"):
        with redis_server("--maxmemory-policy", policy) as server:
            broker = RedisBroker(BrokerConfig(url=server.url))
            caplog.clear()
            with caplog.at_level(logging.WARNING, "kernel.redis"):
                broker.open()
            assert f"maxmemory-policy {policy}" in caplog.text
            assert any("noeviction" in str(finding) for finding in broker.findings())
            broker.close()
            tally.runs += 1


@pytest.mark.case("R5")
def test_scripts_are_forgotten_all_the_time(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    with (
        redis_project(tmp_path, server) as project,
        WorkerProcess(project, "-c", "2") as worker,
        client_of(server) as client,
    ):
        stop = threading.Event()

        def forget() -> None:
            while not stop.wait(0.1):
                client.script_flush()
                tally.runs += 1

        thread = threading.Thread(target=forget)
        thread.start()
        try:
            keys: list[str] = []
            end = time.monotonic() + rounds(2, 20)
            while time.monotonic() < end:
                keys += send(project, 20, 0.005, first=len(keys))
                time.sleep(0.05)
            judge(project, keys, tally, within=20)
        finally:
            stop.set()
            thread.join(10)
        assert worker.process.poll() is None
        assert "WARNING" not in worker.log


REPLIES = {
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "BUSY": b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "MOVED": b"-MOVED 3999 127.0.0.1:6381\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "NOSCRIPT": b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    "WRONGTYPE": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "a truncated bulk": b"*2\r\n$100\r\nabc",
    "no protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another's answer": b"+OK\r\n",
}
SHORTLY = ("LOADING", "READONLY", "OOM", "NOSCRIPT", "another's answer")
"""Those that are given to every command in a short run too."""
COMMANDS = {"CLAIM": claiming.CLAIM, "ACK": claiming.ACK, "RENEW": claiming.RENEW}


@pytest.mark.case("R6")
def test_replies_that_are_errors(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """At each command of the path of a claim: nothing is lost or doubled, and the worker goes on."""
    with (
        redis_project(tmp_path, server, results=False, broker_connection_timeout=1) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, server.url, proxy, "-c", "2") as worker,
    ):
        number = 0
        for kind, reply in REPLIES.items():
            for name, script in COMMANDS.items():
                if not rounds(name == "CLAIM" or kind in SHORTLY, True):
                    continue
                number += 1
                trap = proxy.trap(script.sha.encode(), ANSWER, answer=reply)
                keys = send(project, 6, first=10 * number)
                assert trap.wait(10), (kind, name)
                judge(project, keys, tally, within=SOON)
                assert worker.process.poll() is None, (kind, name, worker.log)
                proxy.heal()
                tally.runs += 1


@pytest.mark.case("R6")
def test_errors_that_last(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """Every script is refused for a while, as of a server that loads, or is a replica: five seconds after it is well,
    work has gone on."""
    with (
        redis_project(tmp_path, server, results=False) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, server.url, proxy, "-c", "2") as worker,
    ):
        for number, kind in enumerate(("READONLY", "LOADING", "OOM", "NOAUTH")):
            keys = send(project, 60, 0.02, first=1000 * number)
            wait_for(lambda n=number: len(project.counts("COMMIT")) > 160 * n + 5, 10)  # type: ignore[misc]
            proxy.trap(b"EVAL", ANSWER, times=1_000_000, answer=REPLIES[kind])
            time.sleep(rounds(1, 10))
            # Whose lease was lost meanwhile runs again what has an end that could not be stored.
            again = may_run_again(project, {each.key for each in project.notes()} | {*keys})
            proxy.heal()
            judge(project, keys, tally, within=SOON, again=min(again, 10))
            judge(project, send(project, 100, first=1000 * number + 500), tally, within=SOON)
            assert worker.process.poll() is None, worker.log
            tally.runs += 1


@pytest.mark.case("R6")
def test_answers_that_break_off(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """The command was carried out, and its answer ends after some bytes."""
    with (
        redis_project(tmp_path, server, results=False) as project,
        Proxy("127.0.0.1", server.port) as proxy,
        through(project, server.url, proxy, "-c", "2") as worker,
    ):
        number = 0
        for _ in range(rounds(1, 8)):
            for script in (claiming.CLAIM, claiming.ACK, claiming.RENEW):
                for keep in (0, 1, 3):
                    number += 1
                    trap = proxy.trap(script.sha.encode(), LOSE, keep=keep)
                    keys = send(project, 6, first=10 * number)
                    assert trap.wait(10), worker.log
                    judge(project, keys, tally, within=SOON)
                    proxy.heal()
                    tally.runs += 1
        assert worker.process.poll() is None


@pytest.mark.case("P4")
def test_a_full_server(tmp_path: Path, tally: Tally, rounds: Rounds) -> None:
    """Publishing fails in time and says why; workers still empty the queue; then publishing works again."""
    options = ("--maxmemory", "64mb", "--maxmemory-policy", "noeviction")
    with redis_server(*options) as server, redis_project(tmp_path, server, results=False) as project:
        for number in range(rounds(2, 15)):
            keys = send(project, 50, first=1000 * number)
            with client_of(server) as client:
                client.config_set("maxmemory", "1mb")
                begun = time.monotonic()
                with pytest.raises(errors.OperationalError, match="memory"):
                    project.task("work").delay("refused")
                assert time.monotonic() - begun < 15
                with WorkerProcess(project, "-c", "2") as worker:
                    judge(project, keys, tally, within=10)
                    client.config_set("maxmemory", "64mb")
                    judge(project, send(project, 50, first=1000 * number + 500), tally, within=SOON)
                    assert worker.process.poll() is None
            assert "refused" not in project.counts("BEGIN")
            tally.runs += 1


@pytest.mark.case("F7")
def test_one_message_in_two_queues(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """Byte for byte the same in both: what becomes of one says nothing of the other."""
    with redis_project(tmp_path, server, results=False, worker_lease=1.0) as project:
        broker = project.app.broker
        with WorkerProcess(project, "-c", "1", "-Q", "q1"):
            for number in range(rounds(1, 8)):
                key = f"k{number}"
                body = b'[["%s", 1.0], {}, {}]' % key.encode()
                message = Message({"id": key, "task": "proj.work", "lang": "py"}, body, content_type="application/json")
                broker.publish([Publication(message, queue) for queue in ("q1", "q2")])
                second = WorkerProcess(project, "-c", "1", "-Q", "q2").wait_ready()
                wait_for(lambda key=key: project.counts("BEGIN")[key] == 2, 10)  # type: ignore[misc]
                second.kill()
                with WorkerProcess(project, "-c", "1", "-Q", "q2"):
                    wait_for(lambda key=key: project.counts("COMMIT")[key] == 2, 10)  # type: ignore[misc]
                    judge(project, [key], tally, within=5, again=1)
                assert project.counts("BEGIN")[key] == 3
                tally.runs += 1


@pytest.mark.case("F18")
def test_one_long_queue_among_many_short_ones(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    with redis_project(tmp_path, server, results=False) as project:
        many = rounds(20_000, 100_000)
        publish_many(project, many)
        queues = [f"q{n}" for n in range(2, 201)]
        names = ",".join(["q1", *queues])
        with WorkerProcess(project, "-c", "2", "-Q", names, "-l", "WARNING"):
            wait_for(lambda: len(project.notes()) > 100, 20)
            for queue in queues:
                project.task("work").apply_async((queue,), queue=queue)
            deadline = time.monotonic() + SOON
            wait_for(lambda: set(queues) <= set(project.counts("COMMIT")), 30)
            tally.late += sum(
                note.at > time.time() + deadline - time.monotonic()
                for note in project.notes()
                if note.key in queues and note.word == "COMMIT"
            )
            assert tally.late == 0
        tally.runs += 1


def publish_many(project: Project, count: int) -> None:
    work: Any = project.task("work")
    for start in range(0, count, 5000):
        work.map_delay([(f"k{n}", 0.0005) for n in range(start, min(count, start + 5000))], queue="q1")
