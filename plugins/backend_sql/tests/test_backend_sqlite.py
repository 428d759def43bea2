"""The conformance kit on SQLite, and what belongs to this backend alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernel_backend_sql import SqlBackend

from kernel import errors
from kernel.interfaces.backend import Backend, BackendConfig, ChordPart, Record
from kernel.testing.conformance.backend import BackendConformance


def backend_at(path: Path, **config: object) -> SqlBackend:
    return SqlBackend(BackendConfig(url=f"sqlite:///{path}/results.db", **config))  # type: ignore[arg-type]


class TestSqlite(BackendConformance):
    path: Path

    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> Backend:
        self.path = tmp_path
        return backend_at(tmp_path, expires=expires)

    def second(self, backend: Backend) -> Backend:
        return backend_at(self.path)


class TestTablesOfOtherNames(BackendConformance):
    path: Path

    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> Backend:
        self.path = tmp_path
        names = {"task": "my_tasks", "group": "my_groups"}
        return backend_at(tmp_path, expires=expires, settings={"database_table_names": names})

    def second(self, backend: Backend) -> Backend:
        return backend_at(self.path, settings={"database_table_names": {"task": "my_tasks", "group": "my_groups"}})

    def test_a_broker_must_not_store_here(self, backend: Backend) -> None:
        assert backend.transaction_domain is None


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path / "results.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_the_table_is_celerys(tmp_path: Path) -> None:
    backend = backend_at(tmp_path)
    backend.open()
    backend.store([Record(id="a", state="SUCCESS", result=b"42", date_done=1_700_000_000.5)])
    backend.save_group("g", '[["g", null], []]')
    backend.close()
    assert rows(tmp_path, "SELECT task_id, status, result, date_done FROM celery_taskmeta") == [
        ("a", "SUCCESS", b"42", "2023-11-14 22:13:20.500000")
    ]
    assert rows(tmp_path, "SELECT taskset_id, result FROM celery_tasksetmeta") == [("g", b'[["g", null], []]')]
    # Records that fit Celery's table need nothing beside it.
    assert rows(tmp_path, "SELECT count(*) FROM kernel_taskmeta") == [(0,)]
    columns = [row[1] for row in rows(tmp_path, "PRAGMA table_info(celery_taskmeta)")]
    assert columns[:6] == ["id", "task_id", "status", "result", "date_done", "traceback"]


def test_an_older_table_gets_its_columns_and_its_pickles_are_told(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "results.db")
    connection.executescript(
        """CREATE TABLE celery_taskmeta (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(155) UNIQUE,
        status VARCHAR(50), result BLOB, date_done DATETIME, traceback TEXT);
        INSERT INTO celery_taskmeta (task_id, status, result, date_done) VALUES
        ('old', 'SUCCESS', x'80049506', '2024-01-02 03:04:05.000006'), ('bare', NULL, NULL, NULL);"""
    )
    connection.close()
    backend = backend_at(tmp_path)
    backend.open()
    old, bare = backend.load(["old", "bare"])
    assert old is not None
    assert bare is not None
    assert (old.content_type, old.result) == ("application/x-python-serialize", b"\x80\x04\x95\x06")
    assert old.date_done == pytest.approx(1704164645.000006, abs=1e-5)
    assert (bare.state, bare.result, bare.date_done) == ("PENDING", b"null", None)
    backend.store([Record(id="new", state="FAILURE", children="[]", queue="q", date_done=time.time())])
    (new,) = backend.load(["new"])
    assert new is not None
    assert (new.children, new.queue) == ("[]", "q")
    backend.close()


def test_texts_that_no_database_takes_are_kept_readable(tmp_path: Path) -> None:
    backend = backend_at(tmp_path)
    backend.open()
    ids = ["half \ud800 a character", "zero \0 byte", "x" * 4000, "x" * 4001]
    odd = "file \udcff and \0"
    records = [Record(id=each, state="FAILURE", traceback=odd, name=odd, group_id=odd) for each in ids]
    backend.store(records)
    loaded = backend.load(ids)
    assert [record.id for record in loaded if record] == ids
    assert {record.traceback for record in loaded if record} == {"file \\udcff and \\0"}
    backend.close()


def test_cleanup_takes_chords_and_groups_along(tmp_path: Path) -> None:
    backend = backend_at(tmp_path, expires=0.5)
    backend.open()
    backend.store([Record(id=str(n), state="SUCCESS", group_id="g") for n in range(2500)])
    backend.save_group("g", "[]")
    backend.chord_parts([ChordPart("c", 2, 0, Record(id="0", state="SUCCESS"))])
    time.sleep(0.6)
    assert backend.cleanup() == 2500
    assert backend.load_group("g") is None
    assert backend.chord_parts([ChordPart("c", 2, 1, Record(id="1", state="SUCCESS"))])[0].arrived == 1
    assert rows(tmp_path, "SELECT count(*) FROM kernel_taskmeta") == [(0,)]
    backend.close()


def test_tables_are_made_at_first_use_if_asked(tmp_path: Path) -> None:
    backend = backend_at(tmp_path, settings={"database_create_tables_at_setup": False})
    backend.open()
    assert rows(tmp_path, "SELECT name FROM sqlite_master WHERE name LIKE 'celery%' AND type = 'table'") == []
    backend.store([Record(id="a", state="SUCCESS")])
    assert len(rows(tmp_path, "SELECT name FROM sqlite_master WHERE name LIKE 'celery%' AND type = 'table'")) == 2
    backend.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"database_table_names": {"task": "a; DROP TABLE x"}}, "a; DROP TABLE x"),
        ({"database_table_names": {"tasks": "a"}}, "'tasks'"),
        ({"database_table_schemas": {"task": "other"}}, "SQLite has no schemas"),
    ],
)
def test_names_that_cannot_be_are_told(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    with pytest.raises(errors.ImproperlyConfigured, match=told):
        backend_at(tmp_path, settings=settings)


@pytest.mark.parametrize("prefix", ["", "db+", "sqla+"])
def test_a_url_may_be_celerys(tmp_path: Path, prefix: str) -> None:
    backend = SqlBackend(BackendConfig(url=f"{prefix}sqlite:///{tmp_path}/results.db"))
    backend.open()
    assert backend.transaction_domain
    backend.close()


def test_sqlite_does_without_sqlalchemy(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from kernel_backend_sql import SqlBackend\n"
        "from kernel.interfaces.backend import BackendConfig, Record\n"
        f"backend = SqlBackend(BackendConfig(url='sqlite:///{tmp_path}/results.db'))\n"
        "backend.open(); backend.store([Record(id='a', state='SUCCESS')]); backend.close()\n"
        "print(sorted(name for name in sys.modules if name.startswith(('sqlalchemy', 'psycopg'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
