"""RabbitMQ: as Redis before, and what confirms cost beside a loop that does nothing else than wait for them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import ours, rabbitmq_server, redis_server
from benchmarks.cases import wire
from benchmarks.cases.peers import CELERY, DRAMATIQ, TASKIQ
from benchmarks.cases.wire import Peer, Wire
from benchmarks.harness import OURS, Case, Figure, Side
from benchmarks.marks import DeliveryError

PEERS = (CELERY, DRAMATIQ, TASKIQ)
BATCH = 1000
_TIMEOUT = 30.0
_CONFIRMS = {"BENCH_CONFIRMS": "1"}


def _rpc(_url: str) -> AbstractContextManager[str]:
    return nullcontext("rpc://")


def _redis(_url: str) -> AbstractContextManager[str]:
    return redis_server.server()


WIRE = Wire("rabbitmq", "RabbitMQ", rabbitmq_server.server, _rpc)
WITH_REDIS = Wire("rabbitmq", "RabbitMQ", rabbitmq_server.server, _redis)
CONFIRMED = Wire("rabbitmq", "RabbitMQ", rabbitmq_server.server, _rpc, variables=_CONFIRMS)
UNCONFIRMED = Wire(
    "rabbitmq",
    "RabbitMQ",
    rabbitmq_server.server,
    _rpc,
    options={"broker_transport_options": {"confirm_publish": False}},
)


def _at(place: Wire, peer: Peer) -> Wire:
    """Who cannot send results over RabbitMQ keeps them in Redis."""
    return place if peer is CELERY else replace(place, results=_redis)


def sides(
    place: Wire, ours: Side, theirs: Callable[..., Mapping[str, float]], peers: Sequence[Peer] = PEERS
) -> dict[str, Side]:
    return {OURS: ours, **{peer.name: partial(theirs, _at(place, peer), peer) for peer in peers}}


def pools(kind: str) -> dict[str, Side]:
    def ours(folder: Path) -> Mapping[str, float]:
        return wire.burn(WIRE, folder, kind)

    def theirs(place: Wire, peer: Peer, folder: Path) -> Mapping[str, float]:
        return wire.peer_burn(place, peer, folder, kind)

    return sides(WIRE, ours, theirs, [peer for peer in PEERS if kind in peer.kinds])


# --- the floor ----------------------------------------------------------------------------------------------


class Raw:
    """A socket in confirm mode, and the frames of the message that waits in the queue `celery`, made beforehand.

    `send` writes so many of them to a queue of its own and returns when the server has confirmed them all. Nothing is
    looked at but the tag of a confirm: this is what the server takes.
    """

    def __init__(self, url: str) -> None:
        import amqp
        from kernel_lib_amqp import AmqpServer, frames
        from kernel_lib_amqp.channel import Channel

        first = AmqpServer(url, timeout=_TIMEOUT).connect()
        (got,) = Channel(first).get_many("celery", 1)
        first.close()
        at = url.removeprefix("amqp://guest:guest@")
        host, _, vhost = at.partition("/")
        self._connection = amqp.Connection(host=host, virtual_host=vhost, heartbeat=0)
        self._connection.connect()
        self._channel = self._connection.channel(1)
        self._channel.queue_declare("raw", durable=True, auto_delete=False)
        self._channel.confirm_select()
        self._sock: socket.socket = self._connection.transport.sock
        self._sock.settimeout(_TIMEOUT)
        where = frames.address("", "raw", mandatory=True)
        self._frames = b"".join(frames.publish(1, where, got.head, got.body, self._connection.frame_max))
        self._many: dict[int, bytes] = {}
        self._sent = 0

    def send(self, count: int = 1) -> None:
        data = self._many.get(count)
        if data is None:
            data = self._many[count] = self._frames * count
        self._sent += count
        self._sock.sendall(data)
        confirmed = 0
        rest = b""
        while confirmed < self._sent:
            rest += self._sock.recv(65536)
            # basic.ack is the only thing that comes, and it has 21 bytes. Confirms of one channel come in order here.
            whole = len(rest) // 21 * 21
            if whole:
                confirmed = max(confirmed, struct.unpack_from(">Q", rest, whole - 10)[0])
                rest = rest[whole:]

    def close(self, expected: int) -> None:
        """Raises DeliveryError unless so many messages lie in its queue."""
        channel = self._connection.channel(2)
        found = channel.queue_declare("raw", passive=True).message_count
        channel.queue_delete("raw")
        self._connection.close()
        if found != expected:
            raise DeliveryError(f"the raw loop left {found} messages of {expected}")


@contextmanager
def publish_and_wait(app: Any) -> Iterator[Callable[[], None]]:
    raw = Raw(app.conf.broker_url)
    count = 0

    def send() -> None:
        nonlocal count
        count += 1
        raw.send()

    yield send
    raw.close(count)


def batch(folder: Path) -> Mapping[str, float]:
    """Batches of a thousand, in turns with as many frames that were made beforehand."""
    spent = {"batch": 0.0, "floor": 0.0}
    with WIRE.place(folder) as here:
        here.app.tasks["noop"].delay(0)
        raw = Raw(here.app.conf.broker_url)
        here.empty("celery")
        raw.send(BATCH)
        for first in range(0, wire.BURN, BATCH):
            calls = [(number,) for number in range(first, min(first + BATCH, wire.BURN))]
            began = time.perf_counter()
            ours.bulk(here.app, "noop", calls, size=BATCH)
            spent["batch"] += time.perf_counter() - began
            began = time.perf_counter()
            raw.send(len(calls))
            spent["floor"] += time.perf_counter() - began
        raw.close(BATCH + wire.BURN)
        ours.burn_down(here, wire.BURN)
    return {
        "batch": wire.BURN / spent["batch"],
        "floor": wire.BURN / spent["floor"],
        "share": spent["floor"] / spent["batch"],
    }


CASES = [
    Case(
        "rabbitmq-burn",
        f"{wire.BURN:,} no-ops wait; two processes run them",
        [
            Figure("burn", "RabbitMQ, prefork 2: no-op burn-down", "tasks/s", "at least", 6_000),
            Figure("burn", "RabbitMQ, prefork 2: no-op burn-down", "tasks/s", "times the peer", 1.8),
            Figure("burn", "RabbitMQ, prefork 2: no-op burn-down", "tasks/s", "times the peer", 4, "celery"),
        ],
        pools("processes"),
    ),
    Case(
        "rabbitmq-echo",
        f"{wire.ECHO:,} echoes wait; every result is sent over rpc:// (Dramatiq, Taskiq: kept in Redis) and read",
        [Figure("echo", "RabbitMQ, prefork 2: echo with results", "tasks/s", "times the peer", 1)],
        sides(WIRE, partial(wire.echo, WIRE), wire.peer_echo),
    ),
    Case(
        "rabbitmq-trip",
        f"{wire.TRIPS:,} round trips, one after the other, results by rpc:// (Dramatiq, Taskiq: by Redis)",
        [
            Figure("p50", "RabbitMQ: round trip, median", "ms", "at most", 1.3),
            Figure("p50", "RabbitMQ: round trip, median", "ms", "of the peer", 1),
            Figure("p50", "RabbitMQ: round trip, median", "ms", "of the peer", 1 / 3, "celery"),
            Figure("p99", "RabbitMQ: round trip, p99", "ms"),
        ],
        sides(WIRE, partial(wire.round_trip, WIRE), wire.peer_round_trip),
    ),
    Case(
        "rabbitmq-trip-redis",
        "the same, with everybody's results in Redis",
        [
            Figure("p50", "RabbitMQ with Redis: round trip, median", "ms", "of the peer", 1),
            Figure("p50", "RabbitMQ with Redis: round trip, median", "ms", "of the peer", 1 / 3, "celery"),
            Figure("p99", "RabbitMQ with Redis: round trip, p99", "ms"),
        ],
        sides(WITH_REDIS, partial(wire.round_trip, WITH_REDIS), wire.peer_round_trip),
    ),
    Case(
        "rabbitmq-batch",
        f"{wire.BURN:,} no-ops in batch calls of {BATCH:,}, confirmed, in turns with frames that were made beforehand",
        [
            Figure("batch", "RabbitMQ: batch call with confirms", "tasks/s"),
            Figure("floor", "RabbitMQ: pre-built frames with confirms", "messages/s"),
            Figure("share", "RabbitMQ: batch call of pre-built frames", "", "at least", 0.8),
        ],
        {OURS: batch},
    ),
    Case(
        "rabbitmq-single",
        f"{wire.SINGLE:,} calls of delay() with confirms, in turns with frames that are sent and waited for one by one",
        [
            Figure("single", "RabbitMQ: delay() with confirms", "tasks/s", "times the peer", 1),
            Figure("single", "RabbitMQ: delay() with confirms", "tasks/s", "times the peer", 1, "celery"),
            Figure("floor", "RabbitMQ: raw publish and wait", "messages/s"),
            Figure("share", "RabbitMQ: delay() of the raw loop", "", "at least", 0.8),
        ],
        sides(CONFIRMED, partial(wire.single, CONFIRMED, floor=publish_and_wait), wire.peer_single),
    ),
    Case(
        "rabbitmq-single-off",
        f"{wire.SINGLE:,} calls of delay() with confirm_publish off; the peers as shipped",
        [
            Figure("single", "RabbitMQ: delay() without confirms", "tasks/s", "times the peer", 1),
            Figure("single", "RabbitMQ: delay() without confirms", "tasks/s", "times the peer", 1, "celery"),
        ],
        sides(UNCONFIRMED, partial(wire.single, UNCONFIRMED), wire.peer_single),
    ),
    Case(
        "rabbitmq-threads",
        f"{wire.BURN:,} no-ops wait; eight threads of one process run them",
        [Figure("burn", "RabbitMQ, threads 8: no-op burn-down", "tasks/s", "times the peer", 1)],
        pools("threads"),
    ),
    Case(
        "rabbitmq-asyncio",
        f"{wire.BURN:,} no-op coroutines wait; one process runs a hundred at a time",
        [Figure("burn", "RabbitMQ, asyncio 100: no-op burn-down", "tasks/s", "times the peer", 1)],
        pools("asyncio"),
    ),
    Case(
        "rabbitmq-neighbours",
        f"single tasks on one queue while {wire.BURNING:,} no-ops burn down on another",
        [
            Figure("p50", "RabbitMQ: round trip beside a burn-down, median", "ms"),
            Figure("p99", "RabbitMQ: round trip beside a burn-down, p99", "ms", "at most", 10),
            Figure("p99", "RabbitMQ: round trip beside a burn-down, p99", "ms", "of the peer", 1),
        ],
        sides(
            WIRE,
            partial(wire.neighbours, WIRE),
            wire.peer_neighbours,
            [peer for peer in PEERS if peer.neighbours],
        ),
    ),
]
