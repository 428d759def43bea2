"""How a task proves that it ran: sixteen bytes in a file, its number and the moment.

Ours and the peers' tasks do exactly this and nothing else, so that every run can be checked for exact delivery
(each number once) and timed inside the tasks. Standard library only: the peers' environment loads it too.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

_MARK = struct.Struct("<qd")


class DeliveryError(Exception):
    """A run did not deliver every task exactly once, so it has no figure."""


@functools.cache
def _descriptor() -> int:
    # Appends of this size are atomic, so all processes of a worker share the file.
    return os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def mark(number: int) -> None:
    """Write down that task `number` runs now, on the clock that all processes share."""
    os.write(_descriptor(), _MARK.pack(number, time.monotonic()))


def count(path: Path) -> int:
    return path.stat().st_size // _MARK.size if path.exists() else 0


def wait(path: Path, expected: int, *, seconds: float, check: Callable[[], None]) -> None:
    """Return when `expected` marks are there. `check` may raise: it is asked whether the worker is alive."""
    deadline = time.monotonic() + seconds
    while count(path) < expected:
        check()
        if time.monotonic() > deadline:
            raise DeliveryError(f"{count(path)} of {expected} tasks had run after {seconds:.0f} s")
        time.sleep(0.02)


def span(path: Path, expected: int) -> tuple[float, float]:
    """The moments of the first and the last mark. Raises DeliveryError unless each number is there once."""
    return check(list(_MARK.iter_unpack(path.read_bytes())), expected)


def moments(path: Path) -> list[float]:
    """The moments of all marks, in order."""
    return sorted(moment for _, moment in _MARK.iter_unpack(path.read_bytes()))


def check(marks: Sequence[tuple[int, float]], expected: int) -> tuple[float, float]:
    """The same for marks that were kept elsewhere."""
    times = Counter(number for number, _ in marks)
    missing = expected - sum(1 for number in range(expected) if times[number])
    doubled = sum(1 for seen in times.values() if seen > 1)
    if missing or doubled or len(times) != expected:
        raise DeliveryError(f"of {expected} tasks {missing} never ran and {doubled} ran more than once")
    moments = [moment for _, moment in marks]
    return min(moments), max(moments)
