"""The scoreboard of a result: what a program prints to see what became of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kernel import states
from kernel.saferepr import safe_repr

_LIMIT: Final = 200


def scoreboard(
    id: str, *, name: str | None, states: Sequence[Mapping[str, Any]], complete: bool, **fields: Any
) -> dict[str, Any]:
    """A dictionary of JSON values.

    `states` are those that are known, the oldest first, each with `state`, `at` (Unix seconds; None where nobody
    noted it), `info` (its result or meta), `worker` and `retries`. Without `complete`, others may have been between
    them. `fields` are what else is known of the task.
    """
    worker = next((each["worker"] for each in reversed(states) if each["worker"]), None)
    counts = [each["retries"] for each in states if each["retries"] is not None]
    return {
        "id": id,
        "name": name,
        "state": states[-1]["state"] if states else "PENDING",
        "worker": worker,
        "retries": max(counts, default=sum(each["state"] == "RETRY" for each in states)),
        "runtime": _runtime(states),
        "states": [{**each, "info": _shown(each["info"])} for each in states],
        "complete": complete,
        **fields,
    }


def _runtime(seen: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds from the last start to the end, where both are known."""
    if not seen or seen[-1]["state"] not in states.READY_STATES or seen[-1]["at"] is None:
        return None
    starts = [each["at"] for each in seen if each["state"] == states.STARTED and each["at"] is not None]
    return max(0.0, seen[-1]["at"] - starts[-1]) if starts else None


def _shown(info: Any) -> str | None:
    return None if info is None else safe_repr(info, limit=_LIMIT)
