"""What most of these tests have: a server for each file, empty for each test, and a broker on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kernel_broker_redis import RedisBroker

from kernel.interfaces.broker import BrokerConfig
from kernel.testing.servers import RedisProcess


@pytest.fixture(scope="module")
def server(redis_of_file: RedisProcess) -> RedisProcess:
    return redis_of_file


@pytest.fixture
def client(redis_client: Any) -> Any:
    return redis_client


@pytest.fixture
def broker(server: RedisProcess, client: Any) -> Iterator[RedisBroker]:
    broker = RedisBroker(BrokerConfig(url=server.url))
    broker.open()
    yield broker
    broker.close()
