"""Drives one peer for one run on a broker that is a server; prints one JSON object. Run with the peer's Python.

`BENCH_PEER` names the peer, whose module `wire_<peer>` has `noop`, `anoop`, `echo` (send one, return it), `get` (wait
for one), `name` (of one, as text) and `named` (the reverse). They may be coroutine functions.
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
    sent = await every(peer.echo, [(number, "") for number in range(count)])
    return {"ids": [peer.name(each) for each in sent]}


async def check(peer: Any) -> dict[str, Any]:
    """Whether every result that `echo` announced (its ids are on standard input) came back as it was sent."""
    found = await every(peer.get, [(peer.named(text), TIMEOUT) for text in json.load(sys.stdin)])
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
        return await {"echo": echo, "check": check, "trip": trip}[verb](peer, *numbers)
    finally:
        if hasattr(peer, "stop"):
            await peer.stop()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], [int(word) for word in sys.argv[2:]]))))
