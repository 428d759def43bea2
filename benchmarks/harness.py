"""What a benchmark is, and how it is run: several sides in turn, the same number of times, and the medians."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.marks import DeliveryError
from benchmarks.postgresql import Missing

OURS = "kernel"
Side = Callable[[Path], Mapping[str, float]]
Rule = Literal["at least", "at most", "times the peer", "of the peer"]


def scaled(count: int) -> int:
    """A number of tasks; BENCH_SCALE=0.1 makes a quick look of it, which is not written to the documentation."""
    return max(20, int(count * float(os.environ.get("BENCH_SCALE", "1"))))


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a case: its key in what a side returns, its unit, and the limit it is held to."""

    key: str
    label: str
    unit: str
    rule: Rule | None = None
    limit: float = 0.0
    peer: str = ""
    """Who it is held against; the best of all when empty."""

    @property
    def target(self) -> str:
        if self.rule is None:
            return ""
        if self.rule == "times the peer":
            return f"{self.limit:g} x {self.peer or 'peer'}"
        if self.rule == "of the peer":
            return f"<= {self.limit:g} x {self.peer or 'peer'}"
        return f"{'>=' if self.rule == 'at least' else '<='} {self.limit:,g}"


@dataclass(frozen=True, slots=True)
class Case:
    """A benchmark. `sides` take a fresh folder and return their figures, or raise DeliveryError."""

    name: str
    what: str
    figures: Sequence[Figure]
    sides: Mapping[str, Side]
    runs: int | None = None


@dataclass(slots=True)
class Series:
    """All runs of one side of one case."""

    side: str
    values: dict[str, list[float]] = field(default_factory=dict)
    reason: str = ""

    def median(self, key: str) -> float | None:
        """None when a run failed its check: a number without its check is not a number."""
        return None if self.reason or not self.values.get(key) else statistics.median(self.values[key])


@dataclass(slots=True)
class Outcome:
    """A case that was run."""

    case: Case
    series: dict[str, Series]

    def ratio(self, figure: Figure) -> float | None:
        """Ours divided by the best peer's: the highest rate, or the shortest time."""
        ours = self.series[OURS].median(figure.key)
        peers = [
            series.median(figure.key)
            for side, series in self.series.items()
            if (side == figure.peer if figure.peer else side != OURS)
        ]
        known = [value for value in peers if value]
        if ours is None or not known:
            return None
        return ours / (min(known) if figure.rule in ("of the peer", "at most") else max(known))

    def held(self, figure: Figure) -> bool | None:
        """Whether the limit holds; None when there is no limit, or nothing to compare."""
        ours = self.series[OURS].median(figure.key)
        if figure.rule is None:
            return None
        if ours is None:
            return False
        if figure.rule in ("times the peer", "of the peer"):
            ratio = self.ratio(figure)
            if ratio is None:
                return None
            return ratio >= figure.limit if figure.rule == "times the peer" else ratio <= figure.limit
        return ours >= figure.limit if figure.rule == "at least" else ours <= figure.limit


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """A fresh folder on a disk, never on a memory file system: a commit must cost what a commit costs."""
    base = os.environ.get("BENCH_DIR")
    path = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir=base))
    try:
        yield path
    finally:
        if not os.environ.get("BENCH_KEEP"):
            shutil.rmtree(path, ignore_errors=True)


def measure(case: Case, runs: int) -> Outcome:
    """Run all sides in turn, so that whatever the machine does meanwhile hits them alike."""
    series = {side: Series(side) for side in case.sides}
    for number in range(case.runs or runs):
        for side, function in case.sides.items():
            if series[side].reason:
                continue
            began = time.monotonic()
            try:
                with folder(side) as path:
                    values = function(path)
            except (DeliveryError, Missing) as error:
                series[side].reason = str(error)
                say(f"  {case.name} / {side}, run {number + 1}: no figure: {error}")
                continue
            for key, value in values.items():
                series[side].values.setdefault(key, []).append(value)
            text = ", ".join(f"{key} {value:,.4g}" for key, value in values.items())
            say(f"  {case.name} / {side}, run {number + 1}: {text}  ({time.monotonic() - began:.1f} s)")
    return Outcome(case, series)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * len(ordered) * 1000) // 1000) - 1))]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
