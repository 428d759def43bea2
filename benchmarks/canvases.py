"""The canvases that are measured, for our primitives and for Celery's. Standard library alone: the peers' environment
loads this, too."""

from __future__ import annotations

import time
from typing import Any

SECONDS = 300


def run(primitives: Any, tasks: Any, verb: str, count: int) -> float:
    """Make a canvas of `count` tasks, publish it and wait for its value; the seconds that all of it took.

    Raises RuntimeError for another value than it must have.
    """
    began = time.perf_counter()
    if verb == "chord":
        made = primitives.chord([tasks["echo"].s(number) for number in range(count)], tasks["collect"].s())
        expected: Any = [count, count * (count - 1) // 2]
    elif verb == "chain":
        made = primitives.chain(tasks["step"].s(0), *(tasks["step"].s() for _ in range(count - 1)))
        expected = count
    else:
        made = primitives.group([tasks["echo"].s(number) for number in range(count)])
        expected = [[number, ""] for number in range(count)]
    found = made.apply_async().get(timeout=SECONDS)
    taken = time.perf_counter() - began
    if found != expected:
        raise RuntimeError(f"a {verb} of {count} came to {str(found)[:200]}")
    return taken


def warm(tasks: Any, first: int, count: int) -> None:
    """Round trips before: connections are made on them."""
    for number in range(first, first + count):
        tasks["echo"].delay(number).get(timeout=SECONDS)
