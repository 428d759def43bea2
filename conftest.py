"""What every run of the suite gets, whichever part of it runs: how processes share it, and that none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from types import FrameType
from typing import Any

import pytest

from tests.leftovers import Leftover, Leftovers

pytest_plugins = ["tests.faults.table", "tests.redis_fixtures"]

RUN = "SUITE_RUN"
"""In the environment of every process that a run starts; not of our prefix, which the tests take away."""
GRACE = 5.0
"""Seconds that processes have to end after the last test."""
SERVERS = ("postgresql", "redis", "rabbitmq")
"""In the names of files whose tests share one."""
LEFT = pytest.StashKey[list[Leftover]]()


def pytest_configure(config: pytest.Config) -> None:
    if not is_worker(config):
        os.environ[RUN] = uuid.uuid4().hex
    with contextlib.suppress(ValueError):  # in a thread: somebody runs pytest inside of a program
        # Ended by its limit, a run still takes its workers and servers along, which have sessions of their own.
        signal.signal(signal.SIGTERM, interrupt)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            # Begun by `nohup`: workers would take that over, and some tests hang up on theirs.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)


def interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of several that share the run."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each file is one process's, because its tests share a server; tests of faults that have none, and that mostly
    wait and take long, go one by one to whoever is free, at the end."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            apart = file.startswith("tests/faults/") and not any(server in file for server in SERVERS)
            return nodeid if apart else file

    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if is_worker(session.config):
        return
    leftovers = Leftovers(RUN, os.environ[RUN])
    left = leftovers.after(seconds=GRACE)
    if left:
        session.config.stash[LEFT] = left
        leftovers.kill(left)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left = config.stash.get(LEFT, [])
    if left:
        terminalreporter.section("processes that the run left behind, now killed", red=True)
        for process in left:
            terminalreporter.line(str(process))
