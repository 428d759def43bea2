"""The observing plugin that is bound in every benchmark: it counts, in the engine and in the children."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kernel.hooks import hookimpl

if TYPE_CHECKING:
    from kernel.interfaces.broker import Delivery, Verdict
    from kernel.interfaces.outcome import Outcome
    from kernel.request import Request


class Observer:
    """Counts settlements by verdict and ends by state."""

    def __init__(self) -> None:
        self.settled: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    @hookimpl
    def kernel_message_settled(self, delivery: Delivery, verdict: Verdict) -> None:
        self.settled[verdict.value] += 1

    @hookimpl
    def kernel_task_end(self, request: Request, outcome: Outcome) -> None:
        self.ended[outcome.state] += 1


plugin = Observer()
