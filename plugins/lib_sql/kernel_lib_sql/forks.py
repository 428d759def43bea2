"""`Forks`: what tells the databases of this process that it forks."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from functools import cache
from typing import Protocol
from weakref import WeakSet


class Forking(Protocol):
    """Who is told."""

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> list[object]:
        """Returns what must not be collected in the child, since closing it is the parent's business."""
        ...


class Forks:
    """Tells everybody who is `watched` and still there of each fork.

    One for a process (`forks`), since `os.register_at_fork` keeps its functions for ever.
    """

    def __init__(self) -> None:
        self._everybody: WeakSet[Forking] = WeakSet()
        self._lock = threading.Lock()
        self._told: list[Forking] = []
        self._left_behind: list[object] = []
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def watch(self, who: Forking) -> None:
        """From now on `who` is told, for as long as anybody has it."""
        with self._lock:
            self._everybody.add(who)

    def _before(self) -> None:
        # Held until the fork is over, so that it is the child's to release, too. A stack calls everybody, whatever
        # one of them raises.
        self._lock.acquire()
        self._told = list(self._everybody)
        with ExitStack() as stack:
            for who in self._told:
                stack.callback(who.before_fork)

    def _in_parent(self) -> None:
        told, self._told = self._told, []
        self._lock.release()
        with ExitStack() as stack:
            for who in told:
                stack.callback(who.after_fork_in_parent)

    def _in_child(self) -> None:
        told, self._told = self._told, []
        self._lock.release()
        with ExitStack() as stack:
            for who in told:
                stack.callback(self._leave_behind, who)

    def _leave_behind(self, who: Forking) -> None:
        self._left_behind += who.after_fork_in_child()


@cache
def forks() -> Forks:
    """That of this process."""
    return Forks()
