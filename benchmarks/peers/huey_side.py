"""Drives Huey for one run; prints one JSON object. Run with the peers' Python."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from huey_app import echo, huey, noop


def send_noop(count: int) -> dict[str, Any]:
    began = time.perf_counter()
    for number in range(count):
        noop(number)
    return {"seconds": time.perf_counter() - began}


def send_echo(count: int, size: int) -> dict[str, Any]:
    text = "x" * size
    return {"ids": [echo(number, text).id for number in range(count)]}


def check_echo(size: int) -> dict[str, Any]:
    """Whether every result that `send_echo` announced (its ids are on standard input) came back as it was sent."""
    text = "x" * size
    ids = json.load(sys.stdin)
    return {"right": sum(huey.result(key, blocking=True, timeout=10) == [n, text] for n, key in enumerate(ids))}


def round_trip(count: int) -> dict[str, Any]:
    """Seconds of each round trip, one after the other; `get` polls as Huey ships it."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        if echo(number).get(blocking=True, timeout=20) != [number, ""]:
            raise SystemExit(f"task {number} brought back something else")
        taken.append(time.perf_counter() - began)
    return {"taken": taken}


VERBS = {"send_noop": send_noop, "send_echo": send_echo, "check_echo": check_echo, "round_trip": round_trip}

if __name__ == "__main__":
    print(json.dumps(VERBS[sys.argv[1]](*map(int, sys.argv[2:]))))
