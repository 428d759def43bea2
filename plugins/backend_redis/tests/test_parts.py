"""How long the parts of chords are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kernel_backend_redis import RedisBackend

from kernel.interfaces.backend import BackendConfig, ChordPart, Record
from kernel.testing.servers import RedisProcess, redis_server

LIFE = 1000.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with redis_server() as server:
        yield server


@pytest.fixture
def client(server: RedisProcess) -> Iterator[Any]:
    client = redis.Redis.from_url(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def backend(server: RedisProcess, client: Any) -> Iterator[RedisBackend]:
    backend = RedisBackend(BackendConfig(url=server.url, expires=60.0, chord_expires=LIFE))
    backend.open()
    yield backend
    backend.close()


def part(index: int, size: int = 3) -> ChordPart:
    return ChordPart("g", size, index, Record(id=f"t{index}", state="SUCCESS", result=b"1"))


def lives(client: Any) -> dict[str, int]:
    """Milliseconds that each key of the chord has left; -1 for ever."""
    return {key.decode()[-2:]: client.pttl(key) for key in client.keys("celery-taskset-meta-g.*")}


def test_everything_of_a_chord_expires(backend: RedisBackend, client: Any) -> None:
    backend.chord_parts([part(0)])
    found = lives(client)
    assert found.keys() == {".j", ".d", ".s"}
    assert all(0 < left <= LIFE * 1000 for left in found.values()), found


def test_so_does_the_size_that_a_later_part_tells(backend: RedisBackend, client: Any) -> None:
    assert backend.chord_parts([part(-1, size=0)])[0].size == 0
    states = backend.chord_parts([part(0), part(1)])
    assert [state.complete for state in states] == [False, True]
    found = lives(client)
    assert found.keys() == {".j", ".d", ".s", ".c"}
    assert all(0 < left <= LIFE * 1000 for left in found.values()), found


def test_a_later_part_lets_all_of_them_live_on(backend: RedisBackend, client: Any) -> None:
    backend.chord_parts([part(0)])
    for key in client.keys("celery-taskset-meta-g.*"):
        client.pexpire(key, round(LIFE * 500))
    backend.chord_parts([part(1)])
    assert all(left > LIFE * 900 for left in lives(client).values())
