"""Canvases from their making to their value in hand, with a worker of two processes: on Redis beside Celery, and on
SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks import canvases, marks, ours
from benchmarks.cases.peers import CELERY
from benchmarks.cases.redis import WIRE
from benchmarks.harness import OURS, Case, Figure, Side, scaled
from benchmarks.marks import DeliveryError
from benchmarks.processes import drive
from kernel import canvas

WARMING = 20
CELERY_MOST = 2_500
"""So many members show Celery's rate; more take it minutes, and do not make it faster."""


def run(place: AbstractContextManager[ours.Place], verb: str, count: int) -> Mapping[str, float]:
    with place as here, here.worker() as worker:
        tasks = here.app.tasks
        canvases.warm(tasks, count, WARMING)
        try:
            taken = canvases.run(canvas, tasks, verb, count)
        except RuntimeError as exc:
            raise DeliveryError(str(exc)) from exc
        worker.check()
        here.settled()
        marks.span(here.marks, count + WARMING)
    return {"rate": count / taken}


def on_redis(verb: str, count: int, folder: Path) -> Mapping[str, float]:
    return run(WIRE.place(folder), verb, count)


def on_sqlite(verb: str, count: int, folder: Path) -> Mapping[str, float]:
    return run(ours.place(folder), verb, count)


def on_celery(verb: str, count: int, folder: Path) -> Mapping[str, float]:
    count = min(count, CELERY_MOST)
    with WIRE.guest(folder, CELERY, wants_results=True) as guest, guest.worker():
        taken = drive("canvas", [verb, str(count), str(WARMING)], guest.environment)["seconds"]
        marks.wait(folder / "marks", count + WARMING, seconds=30, check=lambda: None)
    marks.span(folder / "marks", count + WARMING)
    return {"rate": count / taken}


def case(name: str, what: str, verb: str, count: int) -> Case:
    sides: dict[str, Side] = {OURS: partial(on_redis, verb, count), "celery": partial(on_celery, verb, count)}
    return Case(
        f"redis-{name}",
        f"{what}; Celery's has at most {CELERY_MOST:,} tasks",
        [Figure("rate", f"Redis, prefork 2: {what}", "tasks/s", "times the peer", 10, "celery")],
        sides,
    )


def alone(name: str, what: str, verb: str, count: int) -> Case:
    figures = [Figure("rate", f"SQLite, prefork 2: {what}", "tasks/s")]
    return Case(f"sqlite-{name}", what, figures, {OURS: partial(on_sqlite, verb, count)})


THOUSAND, TEN_THOUSAND, HUNDRED = scaled(1_000), scaled(10_000), scaled(100)
SHAPES = (
    ("chord", f"chord of {THOUSAND:,}", "chord", THOUSAND),
    ("chord-10k", f"chord of {TEN_THOUSAND:,}", "chord", TEN_THOUSAND),
    ("chain", f"chain of {HUNDRED:,}", "chain", HUNDRED),
    ("chains", f"{canvases.TOGETHER} chains of {HUNDRED:,} at once", "chains", canvases.TOGETHER * HUNDRED),
    ("group", f"group of {TEN_THOUSAND:,}, joined", "group", TEN_THOUSAND),
)
CASES = [*(case(*shape) for shape in SHAPES), *(alone(*shape) for shape in SHAPES)]
