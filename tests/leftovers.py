"""Processes that a run of the suite started and did not end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_DAEMONS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "/epmd")
"""They end with the process that they serve, or serve the whole machine."""


@dataclass(frozen=True)
class Leftover:
    """A process, what it runs, and the test during which it was started."""

    pid: int
    command: str
    test: str

    def __str__(self) -> str:
        return f"{self.pid}: {self.command[:200]} ({self.test or 'started outside of a test'})"


class Leftovers:
    """Finds the processes of one run: those that have `value` in the variable `name`, and the descendants of this
    process, which a fork without a new program leaves with the environment of before."""

    def __init__(self, name: str, value: str) -> None:
        self._mark = f"{name}={value}".encode()

    def after(self, *, seconds: float) -> list[Leftover]:
        """Those that are still there `seconds` from now; returns as soon as there are none."""
        deadline = time.monotonic() + seconds
        while (found := self.now()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def now(self) -> list[Leftover]:
        own, below = os.getpid(), set(_descendants(os.getpid()))
        found = []
        for pid in sorted(int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
            variables = _read(pid, "environ").split(b"\0")
            command = _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
            ours = pid in below or self._mark in variables
            if pid == own or not ours or not command or any(daemon in command for daemon in _DAEMONS):
                continue
            found.append(Leftover(pid, command, _test_of(variables)))
        return found

    def kill(self, found: list[Leftover]) -> None:
        """SIGKILL to those of `found` that are still there and still ours."""
        there = set(self.now())
        for process in found:
            if process in there:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)


def _test_of(variables: list[bytes]) -> str:
    for variable in variables:
        name, _, value = variable.partition(b"=")
        if name == b"PYTEST_CURRENT_TEST":
            return value.decode(errors="replace")
    return ""


def _read(pid: int, name: str) -> bytes:
    # One that has ended, or of another user: its files are empty or closed.
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found
