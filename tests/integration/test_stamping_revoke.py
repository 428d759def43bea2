"""Revoking by stamps: whoever bears one does not run, or is ended, and nobody else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kernel import states
from kernel.errors import TaskRevokedError
from kernel.testing.workers import WorkerProcess, project_in, wait_for


def test_tasks_with_a_stamp_are_revoked(tmp_path: Path) -> None:
    with project_in(tmp_path / "p") as project, WorkerProcess(project, "-c", "1"):
        app, work = project.app, project.task("work")
        running = work.s("running", 300).stamp(batch=["a", "b"]).delay()
        waiting = [work.s(f"waiting {n}").stamp(batch="b", n=n).delay() for n in range(3)]
        others = [work.s("other").stamp(batch="c").delay(), work.delay("plain")]
        wait_for(lambda: project.counts("BEGIN")["running"] == 1, 20)
        for _ in range(30):
            # Workers that do not listen yet miss a command.
            app.control.revoke_by_stamped_headers({"batch": ["b", "x"]}, terminate=True)
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and not running.ready():
                time.sleep(0.02)
            if running.ready():
                break
        for result in (running, *waiting):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=20)
            assert result.state == states.REVOKED
        assert [result.get(timeout=20) for result in others] == ["other", "plain"]
        later = work.s("later").stamp(batch="b").delay()
        with pytest.raises(TaskRevokedError):
            later.get(timeout=20)
        assert project.counts("BEGIN").keys() == {"running", "other", "plain"}
