"""PostgreSQL with two prefork children, beside Procrastinate with two slots, on a fresh server for each run."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import marks, ours
from benchmarks.harness import OURS, Case, Figure, scaled
from benchmarks.postgresql import Server
from benchmarks.processes import PEERS, Process, drive, peer_environment

BURN = scaled(10_000)
SINGLE = scaled(500)


def burn(folder: Path) -> Mapping[str, float]:
    server = Server()
    with server, ours.place(folder, server.url) as here:
        here.waiting()  # opens the connection and makes the schema, which is not what is measured
        began = time.perf_counter()
        ours.bulk(here.app, "noop", [(number,) for number in range(BURN)])
        sent = time.perf_counter() - began
        return {"burn": ours.burn_down(here, BURN), "bulk": BURN / sent}


def single(folder: Path) -> Mapping[str, float]:
    server = Server()
    with server, ours.place(folder, server.url) as here:
        task = here.app.tasks["noop"]
        task.delay(0)
        here.app.broker.purge("celery")
        began = time.perf_counter()
        for number in range(SINGLE):
            task.delay(number)
        rate = SINGLE / (time.perf_counter() - began)
        ours.burn_down(here, SINGLE)
        return {"single": rate}


def procrastinate(folder: Path, verb: str, count: int) -> tuple[float, float]:
    """Tasks a second as they were sent, and as they were run."""
    with Server() as database:
        environment = peer_environment(folder, database)
        drive("procrastinate", ["schema"], environment)
        sent = drive("procrastinate", [verb, str(count)], environment)["seconds"]
        # One process with two slots was the faster of its two forms of two slots.
        command = [str(PEERS / "bin/procrastinate"), "-a", "procrastinate_app.app", "worker", "-c", "2"]
        log = folder / "procrastinate.log"
        with Process(command, log=log, environment=environment, stop_signal=signal.SIGINT) as worker:
            marks.wait(folder / "marks", count, seconds=240, check=worker.check)
            time.sleep(0.3)
        first, last = marks.span(folder / "marks", count)
        return count / sent, count / (last - first)


def procrastinate_burn(folder: Path) -> Mapping[str, float]:
    bulk, rate = procrastinate(folder, "send_bulk", BURN)
    return {"burn": rate, "bulk": bulk}


def procrastinate_single(folder: Path) -> Mapping[str, float]:
    return {"single": procrastinate(folder, "send_single", SINGLE)[0]}


CASES = [
    Case(
        "postgresql-burn",
        f"{BURN:,} no-ops wait; two slots run them",
        [
            Figure("burn", "PostgreSQL, prefork 2: no-op burn-down", "tasks/s", "times the peer", 20),
            Figure("bulk", "PostgreSQL: bulk enqueue, batches of 1,000", "tasks/s"),
        ],
        {OURS: burn, "procrastinate": procrastinate_burn},
    ),
    Case(
        "postgresql-single",
        f"{SINGLE} calls of delay()",
        [Figure("single", "PostgreSQL: single enqueue", "tasks/s")],
        {OURS: single, "procrastinate": procrastinate_single},
    ),
]
