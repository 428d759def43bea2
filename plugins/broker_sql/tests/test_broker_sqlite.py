"""The conformance kit on SQLite."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from kernel_broker_sql import SqlBroker

from kernel.interfaces.backend import Backend, BackendConfig
from kernel.interfaces.broker import Broker, BrokerConfig
from kernel.testing.conformance.broker import BrokerConformance


class TestSqlite(BrokerConformance):
    def make_broker(self, tmp_path: Path) -> Broker:
        self.url = f"sqlite:///{tmp_path}/jobs.db"
        return SqlBroker(BrokerConfig(url=self.url))

    def second(self, broker: Broker) -> Broker:
        return SqlBroker(BrokerConfig(url=self.url))

    def make_backend(self, broker: Broker) -> Backend:
        from kernel_backend_sql import SqlBackend

        backend: Backend = SqlBackend(BackendConfig(url=self.url))
        return backend

    def raw_depth(self, broker: Broker, queue: str) -> int:
        with sqlite3.connect(self.url.removeprefix("sqlite:///")) as connection:
            counts = connection.execute("SELECT count(*) FROM kernel_message WHERE queue = ?", (queue,)).fetchone()
        connection.close()
        return int(counts[0])
