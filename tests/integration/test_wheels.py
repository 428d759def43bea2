"""From wheels to a task that ran: what somebody gets who installs `kernel[sql]` into an empty environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import wheels
from workspace import ROOT, distributions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = """
from kernel import Kernel

app = Kernel("tasks")


@app.task
def add(x: int, y: int) -> int:
    return x + y
"""
CALL = "from tasks import add; print(add.delay(2, 3).get(timeout=60))"
EXPECTED = {
    "kernel",
    "kernel-serializer-json",
    "kernel-broker-sql",
    "kernel-backend-sql",
    "kernel-lib-sql",
    "kernel-pool-threads",
    "kernel-pool-prefork",
}


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that holds what pip took for `kernel[sql]`, and a folder outside of the checkout."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "venv/bin"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERNEL_"))}
        return {**kept, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.home,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("wheels")
    dist = folder / "dist"
    dist.mkdir()
    built = wheels.build(dist)
    assert len(built) == len(distributions())
    made = Environment(folder)
    made.home.mkdir()
    (made.home / "tasks.py").write_text(APP, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True, timeout=60)
    command = [sys.executable, "-m", "pip", "--python", str(made.bin / "python"), "install", "-q"]
    command += ["--find-links", str(dist), "-c", str(ROOT / "constraints.txt"), "kernel[sql]"]
    done = subprocess.run(command, cwd=made.home, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def worker(environment: Environment) -> Iterator[subprocess.Popen[bytes]]:
    log = environment.home / "worker.log"
    command = [str(environment.bin / "kernel"), "-A", "tasks", "worker", "-l", "INFO", "-P", "prefork", "-c", "2"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=environment.home, env=environment.variables, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL
        )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(30)


def test_pip_takes_ours_and_not_the_other_kernel(environment: Environment) -> None:
    code = """
import importlib.metadata, json, kernel
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
print(json.dumps([found, kernel.__file__]))
"""
    found, file = json.loads(environment.run("python", "-c", code))
    version = distributions()[0].version
    assert {name: found.get(name) for name in EXPECTED} == dict.fromkeys(EXPECTED, version)
    assert Path(file).is_relative_to(environment.folder)


def test_a_wheel_carries_types_and_no_tests(environment: Environment) -> None:
    code = """
import importlib.metadata, json
print(json.dumps([str(f) for d in importlib.metadata.distributions() for f in d.files or () if "kernel" in str(f)]))
"""
    files = json.loads(environment.run("python", "-c", code))
    for name in EXPECTED:
        assert f"{name.replace('-', '_')}/py.typed" in files
    assert not [file for file in files if "tests/" in file or file.endswith((".db", ".log"))]


def test_the_command_lists_what_was_installed(environment: Environment) -> None:
    listed = environment.run("kernel", "plugins", "--json")
    assert "kernel-broker-sql" in listed
    assert "kernel-compressor-zstd" not in listed


def test_a_task_runs_and_the_worker_stops_well(environment: Environment, worker: subprocess.Popen[bytes]) -> None:
    log = environment.home / "worker.log"
    try:
        assert environment.run("python", "-c", CALL).strip() == "5"
    except AssertionError as error:
        raise AssertionError(f"{error}\nThe worker's log: {log.read_text(encoding='utf-8')[-3000:]}") from None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0, log.read_text(encoding="utf-8")[-3000:]
    assert (environment.home / ".kernel/tasks.db").exists()
