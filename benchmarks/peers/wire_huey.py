"""Huey on Redis, as shipped. Its consumer loads this module."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey
from marks import mark

huey: Any = RedisHuey("wire", url=os.environ["BENCH_DATABASE"])


@huey.task(name="noop")
def noop(number: int, text: str = "") -> None:
    """Huey stores no result for None, as ours stores none for a task that ignores it."""
    mark(number)


@huey.task(name="echo")
def echo(number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]


def get(sent: Any, timeout: float) -> Any:
    # As shipped it looks with growing pauses; the shortest it can do is fairer.
    return sent.get(blocking=True, timeout=timeout, backoff=1.0, max_delay=0.001)
