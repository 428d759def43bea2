"""The conformance kit on rpc, as far as a backend goes that keeps no records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from kernel_backend_rpc import RpcBackend

from kernel.interfaces.backend import Backend, BackendConfig, Record, StoreOutcome
from kernel.interfaces.broker import BrokerConfig
from kernel.testing.conformance.backend import BackendConformance
from kernel.testing.rabbitmq import RabbitProcess


class Addressed(RpcBackend):
    """Records that name no caller go to `to`, by default to itself."""

    to: str | None = None

    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        to = self.to or self.address
        self.expect([])
        sent = [(record, record.reply_to) for record in batch]
        for record in batch:
            record.reply_to = to
        try:
            return super().store(batch)
        finally:
            for record, before in sent:
                record.reply_to = before


class TestRpc(BackendConformance):
    server: RabbitProcess
    url = ""

    @pytest.fixture(autouse=True)
    def _on_server(self, kernel_rabbitmq: RabbitProcess, kernel_rabbitmq_url: str) -> None:
        self.server, self.url = kernel_rabbitmq, kernel_rabbitmq_url

    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> Backend:
        return Addressed(BackendConfig(url="rpc://", expires=expires, broker=BrokerConfig(url=self.url)))

    def second(self, backend: Backend) -> Backend:
        assert isinstance(backend, Addressed)
        twin = Addressed(BackendConfig(url="rpc://", broker=BrokerConfig(url=self.url)))
        twin.to = backend.address
        return twin

    def kill_connections(self, backend: Backend) -> bool:
        self.server.close_connections()
        return True
