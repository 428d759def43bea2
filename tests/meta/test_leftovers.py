"""A run of the suite ends with the processes that it started, and names a test that left one behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.leftovers import Leftover, Leftovers

LEAVES = """
import subprocess

def test_that_leaves_one_behind():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("left", process.pid)

def test_that_does_not():
    assert subprocess.run(["true"]).returncode == 0
"""
WAITS = """
import pathlib, subprocess, time

def test_that_waits():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        pathlib.Path("started").write_text(str(process.pid))
        time.sleep(60)
    finally:
        process.kill()
        process.wait(10)
        pathlib.Path("ended").touch()
"""


@pytest.fixture
def suite(tmp_path: Path, project_root: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a run of another suite, which has our `conftest.py`."""
    text = (project_root / "conftest.py").read_text(encoding="utf-8")
    assert "GRACE = 5.0" in text
    (tmp_path / "conftest.py").write_text(text.replace("GRACE = 5.0", "GRACE = 0.2"))

    def run(source: str, *arguments: str) -> subprocess.Popen[str]:
        (tmp_path / "test_made_up.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-q", "--rootdir", ".", "-p", "no:cacheprovider", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(project_root)}
        environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST")}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return run


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_a_run_that_leaves_a_process_behind_fails_and_names_the_test(suite, arguments) -> None:
    process = suite(LEAVES, *arguments)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == pytest.ExitCode.TESTS_FAILED, output
    assert "2 passed" in output
    (found,) = re.findall(r"^(\d+): sleep 600 \((.*)\)$", output, re.MULTILINE)
    assert found[1] == "test_made_up.py::test_that_leaves_one_behind (call)"
    until(lambda: not alive(int(found[0])))


def test_a_run_that_leaves_nothing_behind_passes(suite) -> None:
    process = suite(LEAVES, "-k", "does_not")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == pytest.ExitCode.OK, output
    assert "left behind" not in output


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_a_run_that_is_ended_cleans_up(suite, tmp_path: Path, arguments) -> None:
    process = suite(WAITS, *arguments)
    until(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text())
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    until(lambda: not alive(int((tmp_path / "started").read_text())))
    assert (tmp_path / "ended").exists()


def test_a_fork_is_found_too() -> None:
    leftovers = Leftovers("SUITE_RUN", "of nobody")
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    try:
        assert pid in [process.pid for process in leftovers.after(seconds=0)]
        leftovers.kill([Leftover(os.getppid(), "not ours", "")])
        leftovers.kill([process for process in leftovers.now() if process.pid == pid])
    finally:
        os.waitpid(pid, 0)
    assert pid not in [process.pid for process in leftovers.after(seconds=0)]
