"""The conformance kit on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from kernel_broker_sql import SqlBroker

from kernel.interfaces.backend import Backend, BackendConfig
from kernel.interfaces.broker import Broker, BrokerConfig
from kernel.testing.conformance.broker import BrokerConformance
from kernel.testing.servers import Server, postgres_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


class TestPostgresql(BrokerConformance):
    url = ""

    @pytest.fixture(autouse=True)
    def _on_server(self, server: Server) -> None:
        self.url = server.url

    def make_broker(self, tmp_path: Path) -> Broker:
        return SqlBroker(BrokerConfig(url=self.url))

    def second(self, broker: Broker) -> Broker:
        return SqlBroker(BrokerConfig(url=self.url))

    def make_backend(self, broker: Broker) -> Backend:
        from kernel_backend_sql import SqlBackend

        backend: Backend = SqlBackend(BackendConfig(url=self.url))
        return backend

    def raw_depth(self, broker: Broker, queue: str) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT count(*) FROM kernel_message WHERE queue = %s", (queue,)).fetchone()
        assert row is not None
        return int(row[0])

    def kill_connections(self, broker: Broker) -> bool:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return True
