"""What is done to workers alike on Redis and on RabbitMQ: the tests say with which app, and how often."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable
from typing import Final

from kernel.testing.workers import Project, WorkerProcess, wait_for
from tests.faults.fleet import Rebooted, send
from tests.faults.oracle import judge
from tests.faults.table import Tally

_ENDS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def storm_of_signals(
    project: Project, tally: Tally, rounds: int, *, ended: Callable[[], object] = lambda: None
) -> None:
    """D1: two of the signals that end a worker, in any order. It ends in time, and nothing is lost. `ended` looks each
    time at what it left behind."""
    storms = [*itertools.product(_ENDS, repeat=2)]
    dice = random.Random(1)
    dice.shuffle(storms)
    keys = []
    for number, storm in enumerate((storms * 4)[:rounds]):
        keys += send(project, 40, 0.02, first=100 * number)
        worker = WorkerProcess(project, "-c", "2").wait_ready()
        time.sleep(dice.uniform(0.0, 0.3))
        for each in storm:
            worker.signal(each)
            time.sleep(dice.uniform(0.0, 0.05))
        worker.process.wait(15)
        worker.stop()
        ended()
        tally.runs += 1
    with WorkerProcess(project, "-c", "2"):
        judge(project, keys, tally, within=30, again=2 * tally.runs)


def rolling_restarts(project: Project, tally: Tally, rounds: int) -> None:
    """D2: three workers, each restarted in turn while work comes in: nothing is lost, and nothing runs twice."""
    fleet = [WorkerProcess(project, "-c", "1") for _ in range(3)]
    for worker in fleet:
        worker.wait_ready()
    keys: list[str] = []
    try:
        for number in range(rounds):
            keys += send(project, 50, 0.01, first=50 * number)
            assert fleet[number % 3].stop(timeout=20) == 0
            fleet[number % 3] = WorkerProcess(project, "-c", "1").wait_ready()
            tally.runs += 1
        judge(project, keys, tally, within=20)
    finally:
        for worker in fleet:
            worker.stop()


def children_killed(project: Project, tally: Tally, kills: int) -> None:
    """X1: at random moments. Each takes one task along, which runs again; the worker stays, with as many children."""
    with WorkerProcess(project, "-c", "2") as worker:
        keys = send(project, 20 * kills, 0.01)
        dice = random.Random(24)
        for _ in range(kills):
            time.sleep(dice.uniform(0.0, 0.12))
            tally.runs += worker.kill_child(dice)
        judge(project, keys, tally, within=20 + kills / 2, again=kills)
        assert worker.process.poll() is None
        wait_for(lambda: len(worker.children()) == 2, 5)
        assert not project.app.broker.dead_letters()


def rebooted(project: Project, tally: Tally, offset: int, *, again: int) -> None:
    """F11: what a worker had in hand comes to one whose monotonic clock began elsewhere, and what is due runs."""
    keys = send(project, 60, 0.02)
    project.task("work").apply_async(("due",), countdown=3)
    before = WorkerProcess(project, "-c", "2").wait_ready()
    wait_for(lambda: len(project.counts("COMMIT")) >= 10, 10)
    before.kill()
    with Rebooted(project, "-c", "2", offset=offset):
        judge(project, [*keys, "due"], tally, within=15, again=again)
    tally.runs += 1
