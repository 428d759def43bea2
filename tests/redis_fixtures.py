"""A private Redis, for the tests of whatever speaks with one: a plugin that the root's conftest loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from kernel.testing.servers import RedisProcess, redis_server


@pytest.fixture(scope="module")
def redis_of_file() -> Iterator[RedisProcess]:
    """One for all tests of a file, with whatever those before left there."""
    with redis_server() as server:
        yield server


@pytest.fixture
def redis_client(redis_of_file: RedisProcess) -> Iterator[Any]:
    """A plain client of it, for looking and for breaking things. It empties the server first."""
    with redis.Redis.from_url(redis_of_file.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def empty_redis(redis_of_file: RedisProcess, redis_client: Any) -> RedisProcess:
    """Without a key."""
    return redis_of_file
