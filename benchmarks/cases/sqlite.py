"""The embedded default with two prefork children, beside Huey on SQLite with two processes; both commit durably."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import marks, ours
from benchmarks.harness import OURS, Case, Figure, percentile, scaled
from benchmarks.marks import DeliveryError
from benchmarks.processes import PEERS, Process, drive, peer_environment

BURN = scaled(10_000)
ECHO = scaled(5_000)
SINGLE = scaled(1_000)
TRIPS = scaled(300)
HUEY_TRIPS = scaled(50)


# --- ours ---------------------------------------------------------------------------------------------------


def burn(folder: Path) -> Mapping[str, float]:
    with ours.place(folder) as here:
        here.waiting()  # opens the connection and makes the schema, which is not what is measured
        began = time.perf_counter()
        ours.bulk(here.app, "noop", [(number,) for number in range(BURN)])
        sent = time.perf_counter() - began
        return {"burn": ours.burn_down(here, BURN), "bulk": BURN / sent}


def echo(folder: Path, size: int = 0) -> Mapping[str, float]:
    text = "x" * size
    with ours.place(folder) as here:
        results = ours.bulk(here.app, "echo", [(number, text) for number in range(ECHO)])
        rate = ours.burn_down(here, ECHO)
        right = sum(result.get(timeout=10) == [number, text] for number, result in enumerate(results))
        if right != ECHO:
            raise DeliveryError(f"{ECHO - right} of {ECHO} results were not what was sent")
        return {"echo": rate}


def single(folder: Path) -> Mapping[str, float]:
    with ours.place(folder) as here:
        task = here.app.tasks["noop"]
        task.delay(0)
        here.app.broker.purge("celery")
        began = time.perf_counter()
        for number in range(SINGLE):
            task.delay(number)
        rate = SINGLE / (time.perf_counter() - began)
        ours.burn_down(here, SINGLE)
        return {"single": rate}


def round_trip(folder: Path) -> Mapping[str, float]:
    taken = []
    with ours.place(folder) as here, here.worker() as worker:
        task = here.app.tasks["echo"]
        for number in range(-20, TRIPS):
            began = time.perf_counter()
            if task.delay(number).get(timeout=20) != [number, ""]:
                raise DeliveryError(f"task {number} brought back something else")
            taken.append(time.perf_counter() - began)
            worker.check()
        here.settled()
    if marks.count(here.marks) != TRIPS + 20:
        raise DeliveryError(f"{TRIPS + 20} tasks ran {marks.count(here.marks)} times")
    return trips([seconds * 1000 for seconds in taken[20:]])


def trips(milliseconds: list[float]) -> Mapping[str, float]:
    return {"p50": percentile(milliseconds, 0.5), "p99": percentile(milliseconds, 0.99)}


# --- Huey ---------------------------------------------------------------------------------------------------


def consumer(folder: Path, environment: Mapping[str, str]) -> Process:
    """As shipped, with two processes and its log in a file; SIGINT is its graceful stop."""
    command = [str(PEERS / "bin/huey_consumer"), "huey_app.huey", "-k", "process", "-w", "2"]
    command += ["-l", str(folder / "huey.log")]
    return Process(command, log=folder / "out.log", environment=environment, stop_signal=signal.SIGINT)


def huey_rate(folder: Path, environment: Mapping[str, str], count: int) -> float:
    with consumer(folder, environment) as worker:
        marks.wait(folder / "marks", count, seconds=180, check=worker.check)
        time.sleep(0.3)
    first, last = marks.span(folder / "marks", count)
    return count / (last - first)


def huey_burn(folder: Path) -> Mapping[str, float]:
    environment = peer_environment(folder, str(folder / "huey.db"))
    sent = drive("huey", ["send_noop", str(BURN)], environment)["seconds"]
    # Huey has no batch call: what it does one by one is what a program gets.
    return {"burn": huey_rate(folder, environment, BURN), "bulk": BURN / sent}


def huey_echo(folder: Path, size: int = 0) -> Mapping[str, float]:
    environment = peer_environment(folder, str(folder / "huey.db"))
    ids = drive("huey", ["send_echo", str(ECHO), str(size)], environment)["ids"]
    rate = huey_rate(folder, environment, ECHO)
    right = drive("huey", ["check_echo", str(size)], environment, given=json.dumps(ids))["right"]
    if right != ECHO:
        raise DeliveryError(f"{ECHO - right} of {ECHO} results were not what was sent")
    return {"echo": rate}


def huey_single(folder: Path) -> Mapping[str, float]:
    environment = peer_environment(folder, str(folder / "huey.db"))
    sent = drive("huey", ["send_noop", str(SINGLE)], environment)["seconds"]
    huey_rate(folder, environment, SINGLE)
    return {"single": SINGLE / sent}


def huey_round_trip(folder: Path) -> Mapping[str, float]:
    environment = peer_environment(folder, str(folder / "huey.db"))
    with consumer(folder, environment):
        taken = drive("huey", ["round_trip", str(HUEY_TRIPS)], environment)["taken"]
    marks.span(folder / "marks", HUEY_TRIPS)
    return trips([seconds * 1000 for seconds in taken])


CASES = [
    Case(
        "sqlite-burn",
        f"{BURN:,} no-ops wait; two processes run them",
        [
            Figure("burn", "SQLite, prefork 2: no-op burn-down", "tasks/s", "times the peer", 4),
            Figure("bulk", "SQLite: bulk enqueue, batches of 1,000", "tasks/s", "at least", 20_000),
        ],
        {OURS: burn, "huey": huey_burn},
    ),
    Case(
        "sqlite-echo",
        f"{ECHO:,} echoes wait; every result is read back",
        [Figure("echo", "SQLite, prefork 2: echo with results", "tasks/s")],
        {OURS: echo, "huey": huey_echo},
    ),
    Case(
        "sqlite-echo-1k",
        f"the same with 1 KB of text there and back, {ECHO:,} times",
        [Figure("echo", "SQLite, prefork 2: echo of 1 KB", "tasks/s")],
        {OURS: lambda folder: echo(folder, 1024), "huey": lambda folder: huey_echo(folder, 1024)},
    ),
    Case(
        "sqlite-single",
        f"{SINGLE:,} calls of delay(), each durable when it returns",
        [Figure("single", "SQLite: single enqueue", "tasks/s")],
        {OURS: single, "huey": huey_single},
    ),
    Case(
        "sqlite-trip",
        f"{TRIPS} round trips, one after the other",
        [
            Figure("p50", "SQLite: round trip, median", "ms", "at most", 5),
            Figure("p99", "SQLite: round trip, p99", "ms"),
        ],
        {OURS: round_trip, "huey": huey_round_trip},
    ),
]
