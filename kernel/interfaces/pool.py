"""The pool: how tasks run inside one process.

A pool driver is a *runner*. How many supervised child processes host one is a number (`processes`), so that
``prefork -c 4`` is a runner with one slot in four children and ``threads -c 32`` one with 32 slots in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from kernel.interfaces.setting import Setting

INTERFACE = (1, 0)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """`slots` is how many jobs this process may run at once."""

    slots: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolCapabilities:
    default_concurrency: int | None = None
    """None: the number of processors."""
    slots_are_processes: bool = False
    """True: concurrency counts processes of one slot each (prefork); False: slots of one process."""
    in_process: bool = True
    """Can be hosted by the worker's own process (``--processes 0``)."""
    runs_coroutines: bool = False
    """Runs `Job.arun` on one event loop; other pools drive coroutines to their end one by one."""


@runtime_checkable
class Job(Protocol):
    """One task to run, its whole life included. Neither method raises."""

    @property
    def is_coroutine(self) -> bool: ...

    def run(self) -> None:
        """Run it on this thread until it has ended."""
        ...

    async def arun(self) -> None:
        """The same on the running event loop; a plain function is run on a thread."""
        ...


@runtime_checkable
class Inbox(Protocol):
    """Where a runner gets its jobs; usable from several threads at once."""

    def take(self, limit: int, timeout: float | None) -> Sequence[Job]:
        """Between one and `limit` jobs; none after `timeout` seconds (None: wait for ever).

        Ask for no more than can start now: what was taken can be run by nobody else.

        Raises `StopIteration`-like `Drained` when no more will come. A job that was taken must be run.
        """
        ...

    def fileno(self) -> int:
        """Readable when `take` with a timeout of 0 may return something, or raise."""
        ...

    def idle(self) -> None:
        """The runner has nothing to do for the moment: finished work is sent on now."""
        ...


class Drained(Exception):
    """No more jobs will come: finish what runs, then return from `serve`."""


@runtime_checkable
class Pool(Protocol):
    """A pool driver."""

    interface: tuple[int, int]
    capabilities: PoolCapabilities
    settings: tuple[Setting, ...]

    def __init__(self, config: PoolConfig) -> None: ...

    def serve(self, inbox: Inbox) -> None:
        """Take jobs and run them, at most `slots` at once, until `take` raises `Drained`; then finish what
        runs and return. Called on the main thread of a child, or on a thread of an embedding program."""
        ...
