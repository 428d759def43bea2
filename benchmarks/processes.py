"""Worker processes under measurement, ours and the peers': started, watched, weighed and stopped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.marks import DeliveryError

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers"
STOP_DEADLINE = 30.0
DRIVE_DEADLINE = 600.0
TICK = os.sysconf("SC_CLK_TCK")


def peers_python(name: str = "") -> Path:
    """The Python of the peers' environment, which is made when it is not there yet. Raises DeliveryError.

    `name` asks for that of one peer alone, which lies inside: its wishes and the others' do not go together.
    """
    home = PEERS / name
    python = home / "bin/python"
    stamp = home / "peers.stamp"
    requirements = ROOT / "benchmarks/peers" / (f"requirements-{name}.txt" if name else "requirements.txt")
    wanted = requirements.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for command in (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "-q", "-r", str(requirements)],
        ):
            if subprocess.run(command, env=quiet, timeout=600, stdout=sys.stderr).returncode:
                raise DeliveryError("the peers could not be installed; pip's reason is above")
        stamp.write_text(wanted, encoding="utf-8")
    return python


def peer_environment(folder: Path, database: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("benchmarks", "benchmarks/peers"))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "BENCH_DATABASE": database,
        "BENCH_MARKS": str(folder / "marks"),
    }


def drive(
    side: str, arguments: Sequence[str], environment: Mapping[str, str], given: str = "", home: str = ""
) -> dict[str, Any]:
    """One call of a peer's driver, in its own environment if it has one; its JSON answer."""
    command = _driver(side, arguments, home)
    done = subprocess.run(
        command, env=dict(environment), input=given, capture_output=True, text=True, timeout=DRIVE_DEADLINE
    )
    if done.returncode:
        raise DeliveryError(f"{side} {' '.join(arguments)}: {done.stderr[-400:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _driver(side: str, arguments: Sequence[str], home: str) -> list[str]:
    return [str(peers_python(home)), str(ROOT / "benchmarks/peers" / f"{side}_side.py"), *arguments]


class Driver:
    """A peer's driver that answers, waits until it is told to go on, and answers again. Ended with the block."""

    def __init__(
        self, side: str, arguments: Sequence[str], environment: Mapping[str, str], *, log: Path, home: str = ""
    ) -> None:
        self._words = f"{side} {' '.join(arguments)}"
        self._command = _driver(side, arguments, home)
        self._environment = dict(environment)
        self._log = log

    def __enter__(self) -> Driver:
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self) -> dict[str, Any]:
        """Its next line. Raises DeliveryError when it ended before, or says nothing for too long."""
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        line = self._process.stdout.readline() if poll.poll(DRIVE_DEADLINE * 1000) else b""
        if not line:
            raise DeliveryError(f"{self._words}: {self._log.read_text(encoding='utf-8', errors='replace')[-400:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()


class Process:
    """A worker's process with its log in a file. Stopped by `stop_signal` when the block ends."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        stop_signal: signal.Signals = signal.SIGTERM,
        statuses: Sequence[int] = (0,),
    ) -> None:
        self._command = list(command)
        self._log = log
        self._environment = dict(environment)
        self._signal = stop_signal
        self._statuses = statuses

    def __enter__(self) -> Process:
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.send_signal(self._signal)
            status = self._process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_DEADLINE)
            status = None
        if kind is None and status not in self._statuses:
            raise DeliveryError(f"{self._command[0]} ended with {status}; its log ends: {self.tail()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-600:]

    def check(self) -> None:
        """Raise DeliveryError if it is gone."""
        if self._process.poll() is not None:
            raise DeliveryError(f"{self._command[0]} ended with {self._process.returncode}: {self.tail()}")

    def tree(self) -> list[int]:
        """Its pid and those of everything it started, the oldest first."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.parent.name)] = int(fields[1])
        found = [self.pid]
        for pid in found:
            found += sorted(child for child, parent in parents.items() if parent == pid)
        return found

    def resident(self) -> float:
        """Resident memory of the first process, the engine, in MB."""
        return _memory(self.pid, "status", "VmRSS:")

    def proportional(self) -> float:
        """Proportional set size of the whole tree, in MB."""
        return sum(_memory(pid, "smaps_rollup", "Pss:") for pid in self.tree())

    def processor_seconds(self) -> float:
        """User and system time of the whole tree so far, including children that ended and were waited for."""
        total = 0
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def wait_for_tree(self, size: int, *, seconds: float = 20) -> None:
        """Until the tree has at least `size` processes and has not grown for a second."""
        deadline = time.monotonic() + seconds
        steady, since = 0, time.monotonic()
        while time.monotonic() < deadline:
            self.check()
            now = len(self.tree())
            if now != steady:
                steady, since = now, time.monotonic()
            elif steady >= size and time.monotonic() - since > 1:
                return
            time.sleep(0.05)
        raise DeliveryError(f"the worker has {steady} processes after {seconds:.0f} s; {size} were expected")


def _memory(pid: int, file: str, label: str) -> float:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(label):
            return int(line.split()[1]) / 1024
    raise DeliveryError(f"/proc/{pid}/{file} has no {label}")
