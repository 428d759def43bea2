"""The app that the benchmarks' workers load, as shipped, with one observing plugin bound.

`BENCH_URL` names broker and backend, `BENCH_RESULTS` another backend; without them the app uses the embedded default,
whose place is `KERNEL_DATA`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.marks import mark
from kernel import Kernel


def make() -> Kernel:
    """A new app with the tasks below; a benchmark makes one for each run."""
    url = os.environ.get("BENCH_URL")
    made = Kernel(
        "benchmarks.tasks",
        broker=url,
        backend=os.environ.get("BENCH_RESULTS", url),
        plugins=["benchmarks.observer:plugin"],
    )
    made.task(name="noop", ignore_result=True)(noop)
    made.task(name="anoop", ignore_result=True)(anoop)
    made.task(name="echo")(echo)
    made.task(name="hold", ignore_result=True)(hold)
    made.task(name="step")(step)
    made.task(name="collect")(collect)
    return made


def noop(number: int, text: str = "") -> None:
    mark(number)


async def anoop(number: int) -> None:
    mark(number)


def echo(number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]


def step(number: int) -> int:
    mark(number)
    return number + 1


def collect(values: list[list[Any]]) -> list[int]:
    """How many there are, and whether they are all there: the sum of their numbers."""
    return [len(values), sum(number for number, _ in values)]


def hold(seconds: float) -> None:
    """Keep a child busy, so that what follows waits."""
    time.sleep(seconds)


app = make()
