"""What hooks are given and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """Admit: run it now, and ask no further plugin."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Admit: do not run it. It ends in `state` (REVOKED or FAILURE) with `reason`."""

    reason: str
    state: str = "REVOKED"


@dataclass(frozen=True, slots=True)
class Delay:
    """Admit: give it back and claim it again no sooner than `seconds` from now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Keep it among the dead letters with `reason`; a waiting caller gets FAILURE."""

    reason: str


Admission = Run | Skip | Delay | DeadLetter


@dataclass(frozen=True, slots=True)
class Succeed:
    """Decide: SUCCESS with `value`."""

    value: Any


@dataclass(frozen=True, slots=True)
class Fail:
    """Decide: FAILURE with `error`."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Decide: run again in `seconds`; `error` is why."""

    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class RejectMessage:
    """Decide: back to the queue, or to the dead letters."""

    reason: str
    requeue: bool = False


Decision = Succeed | Fail | RetryLater | RejectMessage


@dataclass(slots=True)
class Outcome:
    """How a run ended. `state` is a state of `kernel.states`; `runtime` is in seconds; `value` is the return
    value or None, `error` the exception or None, `traceback` its text. `retry_in` is set with RETRY."""

    state: str
    runtime: float = 0.0
    value: Any = None
    error: BaseException | None = None
    traceback: str | None = None
    retry_in: float | None = None
    expected: bool = False
    """The error is one that the task declares in `throws`."""
