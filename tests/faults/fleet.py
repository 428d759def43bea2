"""What apps and workers of fault tests have in common on every server: their tasks, the way there, their clocks."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kernel.testing.proxy import Proxy
from kernel.testing.workers import Project, WorkerProcess, project_in

Rounds = Callable[[int, int], int]
"""``rounds(few, many)``: see `tests.faults.table`."""

LINE: Final = "WORKERS_LINE"
"""The variable that gives a worker another URL."""
_TASKS: Final = """
app.conf.update(
    broker_url=os.environ.get({line!r}, {url!r}),
    result_backend=os.environ.get({line!r}, {backend!r}) if {backend!r} == {url!r} else {backend!r},
)


@app.task(bind=True)
def fenced(self, key, seconds):
    note("BEGIN", key)
    try:
        time.sleep(seconds)
    finally:  # told of a loss, too
        note("VALID" if self.request.lease_valid() else "STALE", key)
    return os.getpid()


@app.task(bind=True)
def detained(self, key):
    '''Without an end in a worker whose line may be cut, and short elsewhere.'''
    note("BEGIN", key)
    try:
        time.sleep(120.0 if {line!r} in os.environ else 0.2)
    finally:
        note("VALID" if self.request.lease_valid() else "STALE", key)
    return os.getpid()


@app.task
def after(value):
    note("AFTER", value)


@app.task
def crash(key):
    note("BEGIN", key)
    ctypes.string_at(0)
"""


@contextlib.contextmanager
def fleet_project(
    folder: Path, url: str, *, backend: str | None, tasks: str = "", **settings: Any
) -> Iterator[Project]:
    """A project on the server at `url`. Its tasks are ``work``, ``add``, ``fenced``, ``detained``, ``after`` and
    ``crash``; its lease is two seconds, unless `settings` say otherwise."""
    source = _TASKS.format(line=LINE, url=url, backend=backend) + tasks
    with project_in(folder / "p", tasks=source, **{"worker_lease": 2.0, **settings}) as project:
        yield project


def through(project: Project, url: str, proxy: Proxy, *arguments: str, **variables: str) -> WorkerProcess:
    """A worker that reaches the server at `url` through `proxy`."""
    return WorkerProcess(project, *arguments, environment={LINE: proxy.url(url), **variables})


def send(project: Project, count: int, seconds: float = 0.0, *, first: int = 0, **options: Any) -> list[str]:
    """Publish so many tasks; the keys that they will write into the ledger."""
    keys = [f"k{n}" for n in range(first, first + count)]
    project.task("work").map_delay([(key, seconds) for key in keys], **options)
    return keys


# --- clocks -------------------------------------------------------------------------------------------------------

_CLOCK: Final = """
import os, time

_real, _steps = time.time, os.environ.get("CLOCK_STEPS")
if _steps:
    # Each process of this worker believes that so many seconds have passed since it looked at the clock before.
    _begun, (_after, _step) = time.monotonic(), map(float, _steps.split(","))
    time.time = lambda: _real() + (_step if time.monotonic() - _begun > _after else 0.0)
"""


def with_a_stepping_clock(project: Project, step: float, *arguments: str) -> WorkerProcess:
    """A worker whose clock steps by so many seconds a moment after each of its processes began."""
    (project.folder / "sitecustomize.py").write_text(_CLOCK)
    return WorkerProcess(project, *arguments, environment={"CLOCK_STEPS": f"1.5,{step}"})


class Rebooted(WorkerProcess):
    """A worker in a time namespace of its own, whose monotonic clock is `offset` seconds ahead of ours, or behind it
    by at most half of what it shows. Skips the test where the machine gives no such namespaces.
    SIGTERM goes to the whole of its session."""

    def __init__(self, project: Project, *arguments: str, offset: int) -> None:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        moved = str(max(offset, -int(uptime / 2)))
        wrapper = ["unshare", "--time", "--fork", "--kill-child", "--monotonic", moved, "--boottime", moved]
        if shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], capture_output=True).returncode:
            pytest.skip("this machine gives no time namespaces")
        popen = subprocess.Popen

        def wrapped(command: list[str], **options: object) -> subprocess.Popen[bytes]:
            return popen([*wrapper, *command], **options)  # type: ignore[call-overload, no-any-return]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", wrapped)
            super().__init__(project, *arguments)

    def stop(self, timeout: float = 30.0) -> int:
        for pid in self.descendants()[:1]:
            subprocess.run(["kill", "-TERM", str(pid)])
        return super().stop(timeout) if self.process.wait(timeout) is None else self.process.returncode
