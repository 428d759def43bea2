"""What becomes of a claimed message that does not simply run."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.interfaces.broker import Verdict
from kernel.worker.assignment import Obituary


@dataclass(frozen=True, slots=True)
class Fate:
    """Either an obituary, which a living child carries out, or a verdict at once."""

    obituary: Obituary | None = None
    verdict: Verdict = Verdict.REQUEUE
    charged: bool = False
    delay: float = 0.0
    reason: str = ""
