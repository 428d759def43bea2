"""A task in the hands of whoever hosts it, be it a child or this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from kernel import errors
from kernel.worker import slots
from kernel.worker.assignment import Assignment

if TYPE_CHECKING:
    from kernel.worker.running.execute import TaskJob

INTERRUPTS: Final[Mapping[int, type[BaseException]]] = {
    slots.MARK_SOFT: errors.SoftTimeLimitExceeded,
    slots.MARK_LEASE: errors.LeaseLost,
    slots.MARK_TERMINATE: errors.TimeLimitExceeded,
}
"""What a mark of the engine's raises in a task."""


class Host(Protocol):
    """Who is asked before a task begins."""

    def begin(self, job: Any, /) -> bool:
        """Note that it begins; False when it is not to."""
        ...


class HostedJob:
    """Implements `kernel.interfaces.pool.Job`."""

    __slots__ = ("_host", "assignment", "inner")

    def __init__(self, host: Host, assignment: Assignment, inner: TaskJob) -> None:
        self._host = host
        self.assignment = assignment
        self.inner = inner

    @property
    def is_coroutine(self) -> bool:
        return self.inner.is_coroutine

    def run(self) -> None:
        if self._host.begin(self):
            self.inner.run()

    async def arun(self) -> None:
        if self._host.begin(self):
            await self.inner.arun()
