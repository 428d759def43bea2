"""`Life`: one task on its way through an executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel.attempt import Loops, Prepared
from kernel.interfaces.broker import Verdict
from kernel.request import Request
from kernel.worker.assignment import Assignment

if TYPE_CHECKING:
    from kernel.app import Kernel


@dataclass(slots=True)
class Life:
    """What is known of the task. `prepared` is None when no task of its name is registered."""

    app: Kernel
    assignment: Assignment
    request: Request
    prepared: Prepared | None
    hostname: str
    loops: Loops
    has_backend: bool
    verdict: Verdict | None = None
    """Set where it does not follow from the outcome: whoever found out knows what becomes of the message."""
    refusal: Exception | None = None
    """Why it cannot be run at all."""

    @property
    def id(self) -> str:
        return self.request.id or ""

    @property
    def name(self) -> str:
        return self.request.task or ""

    @property
    def again(self) -> bool:
        """Whether its successors may have been published before."""
        return self.assignment.seen or self.request.redelivered

    @property
    def keeps_results(self) -> bool:
        """Whether its result is stored. That of a part of a chord always is: it is what the body gets, however often
        the task runs."""
        if self.request.chord is not None:
            return True
        if self.request.ignore_result is not None:
            return not self.request.ignore_result
        return self.prepared is None or not self.prepared.task.ignore_result
