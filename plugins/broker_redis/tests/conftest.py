"""What most of these tests have: a server for each file, empty for each test, and a broker on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kernel_broker_redis import RedisBroker

from kernel.interfaces.broker import BrokerConfig
from kernel.testing.servers import RedisProcess, redis_server


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
def broker(server: RedisProcess, client: Any) -> Iterator[RedisBroker]:
    broker = RedisBroker(BrokerConfig(url=server.url))
    broker.open()
    yield broker
    broker.close()
