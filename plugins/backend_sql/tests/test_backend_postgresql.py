"""The conformance kit on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from kernel_backend_sql import SqlBackend

from kernel.interfaces.backend import Backend, BackendConfig, Record
from kernel.testing.conformance.backend import BackendConformance
from kernel.testing.servers import Server, postgres_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


class TestPostgresql(BackendConformance):
    url = ""

    @pytest.fixture(autouse=True)
    def _on_server(self, server: Server) -> None:
        self.url = server.url

    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> Backend:
        return SqlBackend(BackendConfig(url=self.url, expires=expires))

    def second(self, backend: Backend) -> Backend:
        return SqlBackend(BackendConfig(url=self.url))

    def kill_connections(self, backend: Backend) -> bool:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return True


def test_tables_in_schemas_of_their_own(server: Server) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA results")
    schemas = {"task": "results", "group": "results"}
    backend = SqlBackend(BackendConfig(url=server.url, settings={"database_table_schemas": schemas}))
    backend.open()
    try:
        backend.store([Record(id="a", state="SUCCESS", group_id="g")])
        backend.save_group("g", "[]")
        assert backend.transaction_domain is None
        assert backend.load_group("g") == "[]"
    finally:
        backend.close()
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT task_id, id FROM results.celery_taskmeta").fetchall() == [("a", 1)]


def test_a_column_that_an_older_celery_did_not_make_is_added(server: Server) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE old_tasks (id INTEGER NOT NULL PRIMARY KEY, task_id VARCHAR(155) UNIQUE, "
            "status VARCHAR(50), result BYTEA, date_done TIMESTAMP WITHOUT TIME ZONE, traceback TEXT)"
        )
    names = {"task": "old_tasks", "group": "old_groups"}
    backend = SqlBackend(BackendConfig(url=server.url, settings={"database_table_names": names}))
    backend.open()
    try:
        backend.store([Record(id="a", state="SUCCESS", children="[]", retries=2)])
        (record,) = backend.load(["a"])
    finally:
        backend.close()
    assert record is not None
    assert (record.children, record.retries) == ("[]", 2)
