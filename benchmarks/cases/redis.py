"""Redis: two prefork children, eight threads, a hundred coroutines, beside everybody who runs tasks on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import redis_server
from benchmarks.cases import wire
from benchmarks.cases.peers import ARQ, CELERY, DRAMATIQ, HUEY, RQ, TASKIQ
from benchmarks.cases.wire import Peer, Wire
from benchmarks.harness import OURS, Case, Figure, Side

WIRE = Wire("redis", "Redis", redis_server.server, nullcontext)
PEERS = (CELERY, DRAMATIQ, TASKIQ, HUEY, ARQ, RQ)


@contextmanager
def lpush(app: Any) -> Iterator[Callable[[], None]]:
    """redis-py's own LPUSH of the very words that `delay()` left in the list."""
    from redis import Redis

    client = Redis.from_url(app.conf.broker_url)
    (raw,) = client.lrange("celery", 0, 0)

    def send() -> None:
        client.lpush("raw", raw)

    try:
        yield send
    finally:
        client.delete("raw")
        client.close()


def sides(ours: Side, theirs: Callable[..., Mapping[str, float]], peers: Sequence[Peer] = PEERS) -> dict[str, Side]:
    return {OURS: ours, **{peer.name: partial(theirs, WIRE, peer) for peer in peers}}


def pools(kind: str) -> dict[str, Side]:
    def ours(folder: Path) -> Mapping[str, float]:
        return wire.burn(WIRE, folder, kind)

    def theirs(_wire: Wire, peer: Peer, folder: Path) -> Mapping[str, float]:
        return wire.peer_burn(WIRE, peer, folder, kind)

    return sides(ours, theirs, [peer for peer in PEERS if kind in peer.kinds])


def payloads(size: int) -> dict[str, Side]:
    def ours(folder: Path) -> Mapping[str, float]:
        return wire.single(WIRE, folder, size, lpush)

    def theirs(_wire: Wire, peer: Peer, folder: Path) -> Mapping[str, float]:
        return wire.peer_single(WIRE, peer, folder, size)

    return sides(ours, theirs)


CASES = [
    Case(
        "redis-burn",
        f"{wire.BURN:,} no-ops wait; two processes run them",
        [
            Figure("burn", "Redis, prefork 2: no-op burn-down", "tasks/s", "at least", 16_700),
            Figure("burn", "Redis, prefork 2: no-op burn-down", "tasks/s", "times the peer", 5),
            Figure("burn", "Redis, prefork 2: no-op burn-down", "tasks/s", "times the peer", 25, "celery"),
            Figure("bulk", "Redis: batch call, batches of 1,000", "tasks/s", "at least", 30_000),
        ],
        pools("processes"),
    ),
    Case(
        "redis-echo",
        f"{wire.ECHO:,} echoes wait; every result is stored, announced and read back",
        [
            Figure("echo", "Redis, prefork 2: echo with results", "tasks/s", "at least", 8_000),
            Figure("echo", "Redis, prefork 2: echo with results", "tasks/s", "times the peer", 4),
            Figure("echo", "Redis, prefork 2: echo with results", "tasks/s", "times the peer", 15, "celery"),
        ],
        sides(partial(wire.echo, WIRE), wire.peer_echo),
    ),
    Case(
        "redis-trip",
        f"{wire.TRIPS:,} round trips, one after the other",
        [
            Figure("p50", "Redis: round trip, median", "ms", "at most", 1),
            Figure("p50", "Redis: round trip, median", "ms", "of the peer", 0.5),
            Figure("p50", "Redis: round trip, median", "ms", "of the peer", 0.25, "celery"),
            Figure("p99", "Redis: round trip, p99", "ms", "of the peer", 0.5),
            Figure("p99", "Redis: round trip, p99", "ms", "of the peer", 0.25, "celery"),
        ],
        sides(partial(wire.round_trip, WIRE), wire.peer_round_trip),
    ),
    Case(
        "redis-single",
        f"{wire.SINGLE:,} calls of delay(), in turns with redis-py's own LPUSH of the same message",
        [
            Figure("single", "Redis: delay() one by one", "tasks/s", "times the peer", 1),
            Figure("single", "Redis: delay() one by one", "tasks/s", "times the peer", 2.5, "celery"),
            Figure("floor", "Redis: redis-py's own LPUSH", "calls/s"),
            Figure("share", "Redis: delay() of redis-py's LPUSH", "", "at least", 0.8),
        ],
        payloads(0),
    ),
    Case(
        "redis-single-1k",
        "the same with 1 KB of text",
        [
            Figure("single", "Redis: delay() with 1 KB", "tasks/s", "times the peer", 1),
            Figure("share", "Redis: delay() of redis-py's LPUSH, 1 KB", ""),
        ],
        payloads(1024),
    ),
    Case(
        "redis-single-64k",
        "the same with 64 KB of text",
        [
            Figure("single", "Redis: delay() with 64 KB", "tasks/s", "times the peer", 1),
            Figure("share", "Redis: delay() of redis-py's LPUSH, 64 KB", ""),
        ],
        payloads(64 * 1024),
    ),
    Case(
        "redis-threads",
        f"{wire.BURN:,} no-ops wait; eight threads of one process run them",
        [Figure("burn", "Redis, threads 8: no-op burn-down", "tasks/s", "times the peer", 1)],
        pools("threads"),
    ),
    Case(
        "redis-asyncio",
        f"{wire.BURN:,} no-op coroutines wait; one process runs a hundred at a time",
        [Figure("burn", "Redis, asyncio 100: no-op burn-down", "tasks/s", "times the peer", 1)],
        pools("asyncio"),
    ),
    Case(
        "redis-neighbours",
        f"single tasks on one queue while {wire.BURNING:,} no-ops burn down on another",
        [
            Figure("p50", "Redis: round trip beside a burn-down, median", "ms"),
            Figure("p99", "Redis: round trip beside a burn-down, p99", "ms", "at most", 10),
            Figure("p99", "Redis: round trip beside a burn-down, p99", "ms", "of the peer", 1),
        ],
        sides(partial(wire.neighbours, WIRE), wire.peer_neighbours, [peer for peer in PEERS if peer.neighbours]),
    ),
    Case(
        "redis-backlog",
        f"{wire.BACKLOG:,} no-ops wait; two processes run them all",
        [
            Figure("resident", "Redis: engine at the end of a million", "MB"),
            Figure("growth", "Redis: engine, growth from the first tenth to the last", "MB", "at most", 10),
            Figure("start", "Redis: rate of the first tenth", "tasks/s"),
            Figure("end", "Redis: rate of the last tenth", "tasks/s"),
            Figure("ratio", "Redis: last tenth of the first", "", "at least", 0.9),
        ],
        {OURS: partial(wire.backlog, WIRE)},
        runs=1,
    ),
]
