"""A real worker on a real server: killed, frozen, cut off, and with the server killed."""

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
from kernel_broker_amqp import AmqpBroker

from kernel.interfaces.broker import BrokerConfig, QueueSpec
from kernel.message import Message, Publication
from kernel.testing.rabbitmq import RabbitProcess, rabbitmq_server

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
        self._broker = AmqpBroker(BrokerConfig(url=url))
        self._broker.declare([QueueSpec("celery")])
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


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitProcess]:
    with rabbitmq_server() as server:
        yield server


@pytest.fixture
def fleet(server: RabbitProcess, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, server.add_vhost())
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
    assert len(fleet.marks()) < 400, "what had ended runs no second time"


def test_a_frozen_worker_loses_its_tasks_to_another(fleet: Fleet) -> None:
    fleet.send(range(200))
    frozen = fleet.start()
    fleet.wait_for_marks(40)
    frozen.send_signal(signal.SIGSTOP)
    try:
        fleet.start()
        fleet.wait(lambda marks: set(marks) == set(range(200)))
        assert len(fleet.marks()) < 400, "what had ended runs no second time"
    finally:
        frozen.send_signal(signal.SIGCONT)


def test_closed_connections_and_a_killed_server_end_no_worker(fleet: Fleet, server: RabbitProcess) -> None:
    fleet.send(range(300))
    worker = fleet.start()
    fleet.wait_for_marks(40)
    server.close_connections()
    fleet.wait_for_marks(120)
    server.kill()
    server.start()
    fleet.wait(lambda marks: set(marks) == set(range(300)))
    assert worker.poll() is None, fleet.logs()
