"""The conformance kit on Redis."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import redis
from kernel_backend_redis import RedisBackend
from kernel_broker_redis import RedisBroker

from kernel.interfaces.backend import Backend, BackendConfig
from kernel.interfaces.broker import Broker, BrokerConfig
from kernel.testing.conformance.broker import BrokerConformance
from kernel.testing.servers import RedisProcess


class TestRedis(BrokerConformance):
    url = ""
    prefix = ""

    @pytest.fixture(autouse=True)
    def _on_server(self, server: RedisProcess) -> None:
        self.url = server.url

    def make_broker(self, tmp_path: Path) -> Broker:
        self.prefix = f"{uuid.uuid4().hex[:8]}."
        return RedisBroker(BrokerConfig(url=self.url, options={"global_keyprefix": self.prefix}))

    def second(self, broker: Broker) -> Broker:
        return RedisBroker(BrokerConfig(url=self.url, options={"global_keyprefix": self.prefix}))

    def make_backend(self, broker: Broker) -> Backend:
        return RedisBackend(BackendConfig(url=self.url))

    def raw_depth(self, broker: Broker, queue: str) -> int:
        client = redis.Redis.from_url(self.url)
        counts = 0
        for key in client.scan_iter("*"):
            kind = client.type(key)
            if queue.encode() not in key:
                continue
            if kind == b"list":
                counts += client.llen(key)
            elif b":held:" in key or key.endswith(b":dead"):
                counts += client.hlen(key)
            elif key.endswith(b":delayed"):
                counts += client.zcard(key)
        client.close()
        return counts

    def kill_connections(self, broker: Broker) -> bool:
        client = redis.Redis.from_url(self.url)
        client.client_kill_filter(skipme=True, _type="normal")
        client.client_kill_filter(skipme=True, _type="pubsub")
        client.close()
        return True
