"""Huey on SQLite, as durable as ours is: `fsync=True` is `synchronous=FULL`. Its consumer loads this module."""

from __future__ import annotations

import os
from typing import Any

from huey import SqliteHuey
from marks import mark

huey: Any = SqliteHuey("bench", filename=os.environ["BENCH_DATABASE"], fsync=True)


@huey.task()
def noop(number: int) -> None:
    """Huey stores no result for None, as ours stores none for a task that ignores it."""
    mark(number)


@huey.task()
def echo(number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]
