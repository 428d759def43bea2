"""Revoking: a waiting task does not run, a running one goes on unless it is to be terminated."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kernel import Kernel, states
from kernel.errors import InvalidTaskError, TaskRevokedError
from kernel.message import Message
from kernel.testing.workers import WorkerProcess, project_in, wait_for
from kernel.worker.engine.commands import Command, Revoked, parse


def message(body: bytes, **headers: object) -> Message:
    return Message(headers, body, content_type="application/json")


def test_a_command_is_for_whom_it_names() -> None:
    body = b'{"method": "revoke", "arguments": {"task_id": ["x"]}, "destination": ["a@h"]}'
    assert parse(message(body), "a@h") == Command("revoke", {"task_id": ["x"]})
    assert parse(message(body), "b@h") is None
    assert parse(message(body, expires=1.0), "a@h") is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"method": 3}', b'{"method": "m", "arguments": [1]}', b"{" * 9999]
)
def test_a_command_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidTaskError):
        parse(message(body), "a@h")


def test_only_so_many_are_remembered() -> None:
    revoked = Revoked()
    for number in range(50_010):
        revoked.add(str(number))
    assert "0" not in revoked
    assert "50009" in revoked


def test_a_waiting_task_is_revoked_and_a_running_one_is_not(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project, WorkerProcess(project, "-c", "1"):
        running = project.task("work").delay("running", 1.0)
        waiting = project.task("work").delay("waiting")
        wait_for(lambda: project.counts("BEGIN")["running"] == 1, 10)
        running.revoke()
        waiting.revoke()
        with pytest.raises(TaskRevokedError):
            waiting.get(timeout=10)
        assert waiting.state == states.REVOKED
        assert running.get(timeout=10) == "running"
        assert "waiting" not in project.counts("BEGIN")


def test_a_running_task_is_terminated_and_its_worker_goes_on(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project, WorkerProcess(project, "-c", "1") as worker:
        running = project.task("work").delay("running", 60)
        wait_for(lambda: project.counts("BEGIN")["running"] == 1, 10)
        running.revoke(terminate=True)
        with pytest.raises(TaskRevokedError, match="terminated"):
            running.get(timeout=15)
        assert project.task("add").delay(1, 2).get(timeout=10) == 3
        assert worker.process.poll() is None


def test_a_command_stops_a_worker(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project:
        worker = WorkerProcess(project, "-c", "1").wait_ready()
        time.sleep(0.2)  # it listens from the moment it is ready; its subscription is made on a thread
        project.app.control.shutdown()
        assert worker.process.wait(15) == 0


def test_a_text_is_no_list_of_nodes() -> None:
    app = Kernel("x", broker="memory://")
    with pytest.raises(TypeError, match="list of node names"):
        app.control.broadcast("shutdown", destination="a@h")  # type: ignore[arg-type]
