"""A real worker on a real server: killed, flushed under it, and with the server killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_broker_redis import RedisBroker

from kernel.interfaces.broker import BrokerConfig
from kernel.message import Message, Publication
from kernel.testing.servers import RedisProcess, redis_server

APP = """
import os, time
from kernel import Kernel

app = Kernel("marks", broker=os.environ["SERVER"])

@app.task(ignore_result=True)
def mark(number: int) -> None:
    time.sleep(0.01)
    with open(os.environ["MARKS"], "a") as file:
        file.write(f"{number}\\n")
"""
PATIENCE = 40.0


class Fleet:
    """Workers of one app, and what their tasks wrote."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._marks = folder / "marks"
        self._marks.touch()
        (folder / "marking.py").write_text(APP)
        self._variables = {**os.environ, "SERVER": url, "MARKS": str(self._marks), "KERNEL_WORKER_LEASE": "2"}
        self._broker = RedisBroker(BrokerConfig(url=url))
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "kernel", "-A", "marking", "worker", "-P", "prefork", "-c", "2"]
        with (self._folder / f"log{len(self._running)}").open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=self._folder, env=self._variables, stdout=log, stderr=log, start_new_session=True
            )
        self._running.append(worker)
        return worker

    def send(self, numbers: range) -> None:
        batch = [
            Publication(
                Message(
                    {"id": f"mark-{number}", "task": "marking.mark"},
                    b"[[%d], {}, null]" % number,
                    content_type="application/json",
                ),
                "celery",
            )
            for number in numbers
        ]
        assert all(outcome.state.value == "stored" for outcome in self._broker.publish(batch))

    def marks(self) -> list[int]:
        return [int(line) for line in self._marks.read_text().split()]

    def wait(self, until: Callable[[list[int]], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until(self.marks()):
            assert time.monotonic() < deadline, (len(self.marks()), self.logs())
            time.sleep(0.05)

    def wait_for_marks(self, least: int) -> None:
        self.wait(lambda marks: len(marks) >= least)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self._folder.glob("log*")))

    def close(self) -> None:
        for worker in self._running:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self._running:
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait(15)
        self._broker.close()


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    with redis_server(fsync="always") as server:
        yield server


@pytest.fixture
def fleet(server: RedisProcess, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, server.url)
    yield fleet
    fleet.close()


def test_a_killed_worker_loses_nothing(fleet: Fleet) -> None:
    fleet.send(range(200))
    for least in (40, 80):
        worker = fleet.start()
        fleet.wait_for_marks(least)
        worker.kill()
        worker.wait(10)
    fleet.start()
    fleet.wait(lambda marks: set(marks) == set(range(200)))
    # Two processes were killed twice: what they ran at that moment may have run again, and nothing else.
    assert len(fleet.marks()) <= 204


def test_the_server_is_killed_and_comes_back(fleet: Fleet, server: RedisProcess) -> None:
    fleet.send(range(200))
    worker = fleet.start()
    fleet.wait_for_marks(40)
    server.kill()
    server.start()
    fleet.wait(lambda marks: set(marks) == set(range(200)))
    assert worker.poll() is None, fleet.logs()


def test_everything_is_flushed_and_work_goes_on(fleet: Fleet, server: RedisProcess) -> None:
    fleet.send(range(200))
    worker = fleet.start()
    fleet.wait_for_marks(40)
    fleet._broker.server.call("FLUSHALL")
    fleet.send(range(200, 300))
    fleet.wait(lambda marks: set(range(200, 300)) <= set(marks))
    assert worker.poll() is None, fleet.logs()
