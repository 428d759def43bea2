"""Servers that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel.testing.servers import RedisProcess, redis_server
from tests.faults.redis_fleet import client_of


@pytest.fixture(scope="module")
def redis_of_file() -> Iterator[RedisProcess]:
    with redis_server() as server:
        yield server


@pytest.fixture
def empty_redis(redis_of_file: RedisProcess) -> RedisProcess:
    """Without a key."""
    with client_of(redis_of_file) as client:
        client.flushall()
    return redis_of_file
