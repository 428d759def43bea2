"""The canvases that are measured, for our primitives and for Celery's. Standard library alone: the peers' environment
loads this, too."""

from __future__ import annotations

import time
from typing import Any

SECONDS = 300
TOGETHER = 20
"""Chains that run at once, where they do."""


def run(primitives: Any, tasks: Any, verb: str, count: int) -> float:
    """Make a canvas of `count` tasks, publish it and wait for its value; the seconds that all of it took.

    Raises RuntimeError for another value than it must have.
    """
    began = time.perf_counter()
    if verb == "chord":
        made = primitives.chord([tasks["echo"].s(number) for number in range(count)], tasks["collect"].s())
        expected: Any = [count, count * (count - 1) // 2]
    elif verb == "chain":
        made = chain(primitives, tasks, count)
        expected = count
    elif verb == "chains":
        return at_once(primitives, tasks, count)
    else:
        made = primitives.group([tasks["echo"].s(number) for number in range(count)])
        expected = [[number, ""] for number in range(count)]
    found = made.apply_async().get(timeout=SECONDS)
    taken = time.perf_counter() - began
    if found != expected:
        raise RuntimeError(f"a {verb} of {count} came to {str(found)[:200]}")
    return taken


def chain(primitives: Any, tasks: Any, count: int, first: int = 0) -> Any:
    """Its value is the number after that of its last task."""
    return primitives.chain(tasks["step"].s(first), *(tasks["step"].s() for _ in range(count - 1)))


def at_once(primitives: Any, tasks: Any, count: int) -> float:
    """The same for `TOGETHER` chains that have so many tasks between them."""
    length = count // TOGETHER
    began = time.perf_counter()
    results = [chain(primitives, tasks, length, first).apply_async() for first in range(0, count, length)]
    found = [result.get(timeout=SECONDS) for result in results]
    taken = time.perf_counter() - began
    if found != [*range(length, count + 1, length)]:
        raise RuntimeError(f"{TOGETHER} chains of {length} came to {str(found)[:200]}")
    return taken


def warm(tasks: Any, first: int, count: int) -> None:
    """Round trips before: connections are made on them."""
    for number in range(first, first + count):
        tasks["echo"].delay(number).get(timeout=SECONDS)
