"""What is measured on every broker that is a server: the cases of Redis and RabbitMQ are made of these."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import marks, ours
from benchmarks.harness import percentile, scaled
from benchmarks.marks import DeliveryError
from benchmarks.processes import PEERS, Driver, Process, drive, peer_environment

BURN = scaled(20_000)
ECHO = scaled(10_000)
SINGLE = scaled(5_000)
TRIPS = scaled(1_000)
BURNING = scaled(60_000)
BESIDE = scaled(200)
WARMING = 20
"""Round trips before those that count: connections are made on them."""
BACKLOG = scaled(1_000_000)
POOLS: Mapping[str, tuple[str, int]] = {
    "processes": ("prefork", 2),
    "threads": ("threads", 8),
    "asyncio": ("asyncio", 100),
}
"""Kinds of pool: their names here, and how ours is started."""
RATE_DEADLINE = 240.0
_MANY_STATUSES = range(-64, 256)


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody else's queue. `commands` makes the worker's command lines from a kind of pool.

    `share` of the tasks is enough for the rate of a slow one. `home` names its own environment, if it has one.
    """

    name: str
    commands: Callable[[str], Sequence[Sequence[str]]]
    kinds: Sequence[str] = ("processes",)
    share: float = 1.0
    home: str = ""
    stop: signal.Signals = signal.SIGTERM
    neighbours: bool = False

    def count(self, number: int) -> int:
        return max(20, int(number * self.share))


@dataclass(frozen=True, slots=True)
class Wire:
    """A broker under measurement: what starts a fresh server, and where results go."""

    name: str
    label: str
    server: Callable[[], AbstractContextManager[str]]
    results: Callable[[str], AbstractContextManager[str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ours."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What the peers' side is told in its environment."""

    @contextlib.contextmanager
    def place(self, folder: Path) -> Iterator[ours.Place]:
        """Ours, on a fresh server."""
        with (
            self.server() as url,
            self.results(url) as results,
            ours.place(folder, url, results) as here,
        ):
            here.app.conf.update(self.options)
            here.waiting()  # opens the connection, which is not what is measured
            yield here

    @contextlib.contextmanager
    def guest(
        self, folder: Path, peer: Peer, kind: str = "processes", *, wants_results: bool = False
    ) -> Iterator[Guest]:
        """A peer, on a fresh server. Without `wants_results` nobody keeps any, as ours does not for no-ops."""
        with self.server() as url, self.results(url) as results:
            environment = {**peer_environment(folder, url), **self.variables}
            environment |= {"BENCH_RESULTS": results, "BENCH_PEER": peer.name, "BENCH_KIND": kind}
            environment |= {"BENCH_WANTS_RESULTS": "1"} if wants_results else {}
            yield Guest(peer, kind, folder, environment)


# --- ours ---------------------------------------------------------------------------------------------------


def burn(wire: Wire, folder: Path, kind: str = "processes") -> Mapping[str, float]:
    """No-ops that wait already; and how fast they were sent in batches."""
    pool, slots = POOLS[kind]
    name = "anoop" if kind == "asyncio" else "noop"
    with wire.place(folder) as here:
        began = time.perf_counter()
        ours.bulk(here.app, name, [(number,) for number in range(BURN)])
        sent = time.perf_counter() - began
        return {"burn": ours.burn_down(here, BURN, pool=pool, concurrency=slots), "bulk": BURN / sent}


def echo(wire: Wire, folder: Path) -> Mapping[str, float]:
    """Results stored and announced, each read back."""
    with wire.place(folder) as here:
        results = ours.bulk(here.app, "echo", [(number, "") for number in range(ECHO)])
        rate = ours.burn_down(here, ECHO)
        right = sum(result.get(timeout=10) == [number, ""] for number, result in enumerate(results))
        if right != ECHO:
            raise DeliveryError(f"{ECHO - right} of {ECHO} results were not what was sent")
        return {"echo": rate}


def round_trip(wire: Wire, folder: Path) -> Mapping[str, float]:
    taken = []
    with wire.place(folder) as here, here.worker() as worker:
        task = here.app.tasks["echo"]
        for number in range(-50, TRIPS):
            began = time.perf_counter()
            if task.delay(number).get(timeout=20) != [number, ""]:
                raise DeliveryError(f"task {number} brought back something else")
            taken.append(time.perf_counter() - began)
            worker.check()
        here.settled()
    if marks.count(here.marks) != TRIPS + 50:
        raise DeliveryError(f"{TRIPS + 50} tasks ran {marks.count(here.marks)} times")
    return trips(taken[50:])


def trips(seconds: Sequence[float]) -> Mapping[str, float]:
    milliseconds = [each * 1000 for each in seconds]
    return {"p50": percentile(milliseconds, 0.5), "p99": percentile(milliseconds, 0.99)}


Floor = Callable[[Any], AbstractContextManager[Callable[[], None]]]
"""Of an app: what sends the message of its last `delay()` once more, as fast as the client library itself can."""


@contextlib.contextmanager
def _no_floor(_app: Any) -> Iterator[Callable[[], None]]:
    yield lambda: None


def single(wire: Wire, folder: Path, size: int = 0, floor: Floor | None = None) -> Mapping[str, float]:
    """`delay()` one by one; with a `floor`, in turns with what the client library does by itself."""
    count = SINGLE if size < 10_000 else SINGLE // 5
    text = "x" * size
    with wire.place(folder) as here:
        task = here.app.tasks["noop"]
        task.delay(0, text)
        spent = {"single": 0.0, "floor": 0.0}
        with (floor or _no_floor)(here.app) as send:
            here.empty("celery")
            for first in range(0, count, 500):
                began = time.perf_counter()
                for number in range(first, min(first + 500, count)):
                    task.delay(number, text)
                spent["single"] += time.perf_counter() - began
                began = time.perf_counter()
                for _ in range(first, min(first + 500, count)) if floor else ():
                    send()
                spent["floor"] += time.perf_counter() - began
        ours.burn_down(here, count)
    rates = {"single": count / spent["single"]}
    if floor:
        rates |= {"floor": count / spent["floor"], "share": spent["floor"] / spent["single"]}
    return rates


def neighbours(wire: Wire, folder: Path) -> Mapping[str, float]:
    """Round trips on one queue while another burns down in the same worker."""
    with wire.place(folder) as here:
        ours.bulk(here.app, "noop", [(number,) for number in range(BURNING)], queue="burning")
        taken = []
        with here.worker(queues=("single", "burning")) as worker:
            marks.wait(here.marks, 100, seconds=30, check=worker.check)
            task = here.app.tasks["echo"]
            for number in range(BURNING, BURNING + WARMING + BESIDE):
                began = time.perf_counter()
                if task.apply_async((number,), queue="single").get(timeout=20) != [number, ""]:
                    raise DeliveryError(f"task {number} brought back something else")
                taken.append(time.perf_counter() - began)
                if marks.count(here.marks) >= BURNING:
                    break
            marks.wait(here.marks, BURNING + len(taken), seconds=120, check=worker.check)
            here.settled()
        marks.span(here.marks, BURNING + len(taken))
    if len(taken) < WARMING + min(50, BESIDE):
        raise DeliveryError(f"the queue had burned down after {len(taken)} round trips; too few for a p99")
    return trips(taken[WARMING:])


def backlog(wire: Wire, folder: Path) -> Mapping[str, float]:
    """A million waiting: the engine's memory, and the rate of the last tenth beside that of the first."""
    with wire.place(folder) as here:
        for first in range(0, BACKLOG, 10_000):
            ours.bulk(here.app, "noop", [(number,) for number in range(first, min(first + 10_000, BACKLOG))])
        with here.worker() as worker:
            marks.wait(here.marks, BACKLOG // 20, seconds=60, check=worker.check)
            early = worker.resident()
            marks.wait(here.marks, BACKLOG - BACKLOG // 20, seconds=900, check=worker.check)
            late = worker.resident()
            marks.wait(here.marks, BACKLOG, seconds=120, check=worker.check)
            here.settled()
        marks.span(here.marks, BACKLOG)
        moments = marks.moments(here.marks)
    # The first twentieth warms up: children learn how fast the tasks are.
    tenth, skip = BACKLOG // 10, BACKLOG // 20
    start = tenth / (moments[skip + tenth] - moments[skip])
    end = tenth / (moments[-1] - moments[-tenth - 1])
    return {"growth": late - early, "resident": late, "start": start, "end": end, "ratio": end / start}


# --- peers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guest:
    """A peer in its place for one run."""

    peer: Peer
    kind: str
    folder: Path
    environment: Mapping[str, str]

    def driver(self, verb: str, *numbers: int) -> Driver:
        words = [verb, *map(str, numbers)]
        return Driver("wire", words, self.environment, log=self.folder / "driver.log", home=self.peer.home)

    def ask(self, verb: str, *numbers: int) -> dict[str, Any]:
        return drive("wire", [verb, *map(str, numbers)], self.environment, home=self.peer.home)

    @contextlib.contextmanager
    def worker(self) -> Iterator[Callable[[], None]]:
        """What raises DeliveryError when it is gone."""
        with contextlib.ExitStack() as stack:
            running = []
            for number, command in enumerate(self.peer.commands(self.kind)):
                program = str(PEERS / self.peer.home / "bin" / command[0])
                log = self.folder / f"{self.peer.name}-{number}.log"
                process = Process(
                    [program, *command[1:]],
                    log=log,
                    environment=self.environment,
                    stop_signal=self.peer.stop,
                    statuses=_MANY_STATUSES,
                )
                running.append(stack.enter_context(process))

            def check() -> None:
                for process in running:
                    process.check()

            yield check

    def rate(self, count: int) -> float:
        with self.worker() as check:
            marks.wait(self.folder / "marks", count, seconds=RATE_DEADLINE, check=check)
            time.sleep(0.3)
        first, last = marks.span(self.folder / "marks", count)
        return count / (last - first)


def peer_burn(wire: Wire, peer: Peer, folder: Path, kind: str = "processes") -> Mapping[str, float]:
    count = peer.count(BURN)
    with wire.guest(folder, peer, kind) as guest:
        # None of them has a batch call that runs such tasks: what they do one by one is what a program gets.
        sent = guest.ask("anoop" if kind == "asyncio" else "noop", count, 0)["seconds"]
        return {"burn": guest.rate(count), "bulk": count / sent}


def peer_echo(wire: Wire, peer: Peer, folder: Path) -> Mapping[str, float]:
    count = peer.count(ECHO)
    # One process sends and reads: rpc:// brings results to nobody else.
    with wire.guest(folder, peer, wants_results=True) as guest, guest.driver("echo", count) as driver:
        driver.answer()
        rate = guest.rate(count)
        driver.go_on()
        right = driver.answer()["right"]
    if right != count:
        raise DeliveryError(f"{count - right} of {count} results were not what was sent")
    return {"echo": rate}


def peer_round_trip(wire: Wire, peer: Peer, folder: Path) -> Mapping[str, float]:
    count = max(50, peer.count(TRIPS) // 4)
    with wire.guest(folder, peer, wants_results=True) as guest:
        with guest.worker():
            taken = guest.ask("trip", count + 20, 0)["taken"]
        marks.span(folder / "marks", count + 20)
    return trips(taken[20:])


def peer_single(wire: Wire, peer: Peer, folder: Path, size: int = 0) -> Mapping[str, float]:
    count = peer.count(SINGLE if size < 10_000 else SINGLE // 5)
    with wire.guest(folder, peer) as guest:
        sent = guest.ask("noop", count, size)["seconds"]
        guest.rate(count)
        return {"single": count / sent}


def peer_neighbours(wire: Wire, peer: Peer, folder: Path) -> Mapping[str, float]:
    # So many that they last as long as the round trips do.
    count, beside = peer.count(BURNING), WARMING + min(BESIDE, 100)
    with wire.guest(folder, peer, wants_results=True) as guest:
        guest.ask("noop", count, 0)
        with guest.worker() as check:
            marks.wait(folder / "marks", 20, seconds=60, check=check)
            taken = guest.ask("trip", beside, count)["taken"]
            during = marks.count(folder / "marks") < count + beside
            marks.wait(folder / "marks", count + beside, seconds=RATE_DEADLINE, check=check)
            time.sleep(0.3)
        marks.span(folder / "marks", count + beside)
    if not during:
        raise DeliveryError("the queue had burned down before the round trips were over")
    return trips(taken[WARMING:])
