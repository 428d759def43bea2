"""Drives one peer for one run on a broker that is a server. Run with the peer's Python.

It prints a JSON object, and one before it where it waits for a line. `BENCH_PEER` names the peer, whose module
`wire_<peer>` has `noop`, `anoop`, `echo` (send one, return it) and `get` (wait for one). They may be coroutines.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

TIMEOUT = 20


async def every(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
    """One after the other, as a program of that peer's kind would call it."""
    if inspect.iscoroutinefunction(function):
        return [await function(*call) for call in calls]
    return [function(*call) for call in calls]


async def send(peer: Any, verb: str, count: int, size: int) -> dict[str, Any]:
    text = "x" * size
    function = getattr(peer, verb)
    calls = [(number, text) for number in range(count)]
    began = time.perf_counter()
    await every(function, calls)
    return {"seconds": time.perf_counter() - began}


async def echo(peer: Any, count: int) -> dict[str, Any]:
    """Send; when told to go on, see whether every result came back as it was sent."""
    sent = await every(peer.echo, [(number, "") for number in range(count)])
    print(json.dumps({"sent": count}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    found = await every(peer.get, [(each, TIMEOUT) for each in sent])
    return {"right": sum(list(value) == [number, ""] for number, value in enumerate(found))}


async def trip(peer: Any, count: int, first: int) -> dict[str, Any]:
    """Seconds of each round trip, one after the other."""
    taken = []
    for number in range(first, first + count):
        began = time.perf_counter()
        (sent,) = await every(peer.echo, [(number, "")])
        (value,) = await every(peer.get, [(sent, TIMEOUT)])
        taken.append(time.perf_counter() - began)
        if list(value) != [number, ""]:
            raise SystemExit(f"task {number} brought back something else")
    return {"taken": taken}


async def main(verb: str, numbers: list[int]) -> dict[str, Any]:
    peer = importlib.import_module(f"wire_{os.environ['BENCH_PEER']}")
    if hasattr(peer, "start"):
        await peer.start()
    try:
        if verb in ("noop", "anoop"):
            return await send(peer, verb, *numbers)
        return await {"echo": echo, "trip": trip}[verb](peer, *numbers)
    finally:
        if hasattr(peer, "stop"):
            await peer.stop()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], [int(word) for word in sys.argv[2:]]))))
