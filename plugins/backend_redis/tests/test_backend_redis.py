"""The conformance kit on Redis."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from kernel_backend_redis import RedisBackend

from kernel.interfaces.backend import Backend, BackendConfig
from kernel.testing.conformance.backend import BackendConformance
from kernel.testing.servers import RedisProcess


class TestRedis(BackendConformance):
    url = ""

    @pytest.fixture(autouse=True)
    def _on_server(self, redis_of_file: RedisProcess) -> None:
        self.url = redis_of_file.url

    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> Backend:
        return RedisBackend(BackendConfig(url=self.url, expires=expires))

    def second(self, backend: Backend) -> Backend:
        return RedisBackend(BackendConfig(url=self.url))

    def kill_connections(self, backend: Backend) -> bool:
        client = redis.Redis.from_url(self.url)
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(skipme=True, _type=kind)
        client.close()
        return True
