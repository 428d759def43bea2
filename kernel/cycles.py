"""Signatures that lead back to themselves: what comes after a call travels with its message, and so has an end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def cycle_of(path: Sequence[Any]) -> ValueError:
    """The error for signatures of which each leads to the next, and the last to the first."""
    names = [str(item.get("task")) if isinstance(item, Mapping) else type(item).__name__ for item in (*path, path[0])]
    return ValueError(
        f"a cycle of signatures: {' -> '.join(names)}. What comes after a task travels with its message, and so has an "
        "end: let the last task call the first one itself. Nothing was published"
    )


def leads_to(start: Any, target: Any) -> bool:
    """Whether `target` itself, not one like it, is `start` or anywhere in it."""
    left, seen = [start], set()
    while left:
        item = left.pop()
        if item is target:
            return True
        if id(item) in seen or not isinstance(item, Mapping):
            continue
        seen.add(id(item))
        left += _within(item)
    return False


def circle_of(start: Mapping[str, Any]) -> list[Any] | None:
    """Signatures of which each holds the next, and the last the first; None where none of those that `start` is made of
    do. As deep as it is."""
    path: list[Any] = []
    done: set[int] = set()
    left: list[tuple[Any, bool]] = [(start, False)]
    while left:
        item, is_done = left.pop()
        if is_done:
            done.add(id(path.pop()))
        if id(item) in done:
            continue
        for place, other in enumerate(path):
            if item is other:
                return path[place:]
        if isinstance(item, Mapping):
            path.append(item)
            left.append((item, True))
            left += [(part, False) for part in _within(item)]
    return None


def _within(item: Mapping[str, Any]) -> list[Any]:
    """The signatures that one is made of, and those that are linked to it."""
    options, kwargs = item.get("options") or {}, item.get("kwargs") or {}
    values = [options.get(name) for name in ("link", "link_error", "chain", "chord")]
    values += [kwargs.get(name) for name in ("tasks", "header", "body")]
    found: list[Any] = []
    for value in values:
        found += value if isinstance(value, list | tuple) else [] if value is None else [value]
    return found
