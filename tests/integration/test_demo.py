"""The demo is what a new user sees first, so it is run as they run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_does_its_job_and_stops_its_worker(project_root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "KERNEL_DATA": str(tmp_path / "demo.db")}
    done = subprocess.run(
        [sys.executable, str(project_root / "examples/demo/run.py")],
        cwd=project_root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    log = tmp_path / "worker.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    for text in (
        "100%",
        "Totals",
        "measure_unsteadily(README.md)",
        "ValueError: nowhere.md will never be measurable",
        "The worker stopped cleanly",
        "Try next:",
    ):
        assert text in done.stdout
    assert "\r" not in done.stdout  # no bar where nobody watches


def test_the_demo_says_what_is_wrong_and_leaves_nothing_running(project_root: Path, tmp_path: Path) -> None:
    (tmp_path / "demo.db").mkdir()  # no database can be opened here
    environment = {**os.environ, "KERNEL_DATA": str(tmp_path / "demo.db")}
    done = subprocess.run(
        [sys.executable, str(project_root / "examples/demo/run.py")],
        cwd=project_root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ")
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "demo.db") in done.stderr
