"""The schedule store: entries, what is due, and the lease of the one scheduler that sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from kernel.interfaces.setting import Setting

INTERFACE = (1, 0)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    app_name: str = "kernel"


@dataclass(slots=True, kw_only=True)
class ScheduleRow:
    """A stored entry. `document` is JSON text of the task, its arguments and its rule; times are in Unix
    seconds. `owner` is ``code`` for entries of the configuration, which a deployment may replace."""

    name: str
    document: str
    owner: str = "code"
    enabled: bool = True
    last_run: float | None = None
    next_run: float | None = None
    total_runs: int = 0


@runtime_checkable
class ScheduleStore(Protocol):
    """A scheduler driver."""

    interface: tuple[int, int]
    settings: tuple[Setting, ...]

    def __init__(self, config: SchedulerConfig) -> None: ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    def lead(self, owner: str, lease: float) -> bool:
        """Take or renew the lease of the one who sends; False while another holds it."""
        ...

    def list(self) -> Sequence[ScheduleRow]: ...

    def due(self, now: float, limit: int) -> Sequence[ScheduleRow]: ...

    def mark_sent(self, name: str, owner: str, run_at: float, next_run: float | None) -> bool:
        """Record that the run of `run_at` was sent; False when it had been, or `owner` no longer leads."""
        ...

    def upsert(self, rows: Sequence[ScheduleRow]) -> None: ...

    def remove(self, names: Sequence[str]) -> None: ...
