"""A worker at rest, a worker whose neighbour queue burns down, and one with a million tasks waiting."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import marks, ours
from benchmarks.harness import OURS, Case, Figure, percentile, scaled
from benchmarks.marks import DeliveryError

IDLE_SECONDS = 10.0
BACKLOG = scaled(1_000_000)
BURNING = scaled(100_000)
TRIPS = scaled(200)
HOLD = 3600.0


def at_rest(folder: Path) -> Mapping[str, float]:
    with ours.place(folder) as here, here.worker() as worker:
        worker.wait_for_tree(4)
        # It has done something, as every worker that matters has.
        if here.app.tasks["echo"].delay(0).get(timeout=20) != [0, ""]:
            raise DeliveryError("the worker brought back something else")
        time.sleep(2)
        before, began = worker.processor_seconds(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        used = (worker.processor_seconds() - before) / (time.monotonic() - began)
        return {"cpu": used * 100, "pss": worker.proportional()}


def neighbours(folder: Path) -> Mapping[str, float]:
    """Round trips on one queue while another burns down in the same worker."""
    with ours.place(folder) as here:
        ours.bulk(here.app, "noop", [(number,) for number in range(BURNING)], queue="burning")
        taken = []
        with here.worker(queues=("single", "burning")) as worker:
            marks.wait(here.marks, 100, seconds=30, check=worker.check)
            task = here.app.tasks["echo"]
            for number in range(TRIPS):
                began = time.perf_counter()
                result = task.apply_async((BURNING + number,), queue="single")
                if result.get(timeout=20) != [BURNING + number, ""]:
                    raise DeliveryError(f"task {number} brought back something else")
                taken.append((time.perf_counter() - began) * 1000)
                if marks.count(here.marks) >= BURNING:
                    break
            during = len(taken)
            marks.wait(here.marks, BURNING + during, seconds=120, check=worker.check)
            here.settled()
        marks.span(here.marks, BURNING + during)
    if during < min(50, TRIPS):
        raise DeliveryError(f"the queue had burned down after {during} round trips; that is too few for a p99")
    return {"p50": percentile(taken, 0.5), "p99": percentile(taken, 0.99)}


def resident_behind(folder: Path, waiting: int) -> float:
    """The engine's resident memory while two tasks hold both children and `waiting` others wait."""
    with ours.place(folder) as here:
        ours.bulk(here.app, "hold", [(HOLD,), (HOLD,)])
        step = 10_000
        for first in range(0, waiting, step):
            calls = [(number,) for number in range(first, min(first + step, waiting))]
            here.app.tasks["noop"].map_delay(calls)
        # Both children will sleep for an hour: only the cold stop ends them.
        with here.worker(stop_signal=signal.SIGQUIT, statuses=(0, 1)) as worker:
            worker.wait_for_tree(4)
            time.sleep(10)
            found = here.waiting()
            resident = worker.resident()
        if found != waiting + 2:
            raise DeliveryError(f"{waiting + 2} messages were to wait or be claimed, and {found} did")
        return resident


def backlog(folder: Path) -> Mapping[str, float]:
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    empty = resident_behind(folder / "empty", 0)
    full = resident_behind(folder / "full", BACKLOG)
    return {"empty": empty, "full": full, "growth": full - empty}


CASES = [
    Case(
        "rest",
        f"prefork 2 on SQLite, nothing to do for {IDLE_SECONDS:.0f} s",
        [
            Figure("cpu", "idle worker, of one core", "%", "at most", 2),
            Figure("pss", "worker tree at rest, proportional", "MB", "at most", 70),
        ],
        {OURS: at_rest},
    ),
    Case(
        "neighbours",
        f"single tasks on one queue while {BURNING:,} no-ops burn down on another",
        [
            Figure("p50", "round trip beside a burn-down, median", "ms"),
            Figure("p99", "round trip beside a burn-down, p99", "ms", "at most", 15),
        ],
        {OURS: neighbours},
    ),
    Case(
        "backlog",
        f"{BACKLOG:,} tasks wait in SQLite",
        [
            Figure("empty", "engine, nothing waiting", "MB"),
            Figure("full", "engine, a million waiting", "MB"),
            Figure("growth", "engine, growth", "MB", "at most", 10),
        ],
        {OURS: backlog},
        runs=1,
    ),
]
