"""States in between: kept beside Celery's table, told to whoever watches, and gone with the record."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_backend_sql import SqlBackend
from kernel_lib_sql import history

from kernel.interfaces.backend import Backend, BackendConfig, Record, Remembering
from kernel.testing.servers import postgres_server


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    url = f"sqlite:///{tmp_path}/r.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
    # Tables of each test's own, since all share a server.
    names = {"task": f"tasks_{abs(hash(request.node.name))}", "group": f"groups_{abs(hash(request.node.name))}"}
    made = SqlBackend(BackendConfig(url=url, timeout=30.0, settings={"database_table_names": names}))
    made.open()
    yield made
    made.close()


def told(watch: Any) -> list[tuple[str, bytes]]:
    return [(record.state, record.result) for record in watch.wait(0)]


def step(id: str, number: int, state: str = "PROGRESS") -> Record:
    return Record(id=id, state=state, result=b"%d" % number)


def test_whoever_looks_late_is_told_of_everything_once(backend: SqlBackend) -> None:
    for number in range(3):
        backend.store([step("a", number)])
    with_states = backend.watch(["a", "b"])
    assert told(with_states) == [("PROGRESS", b"0"), ("PROGRESS", b"1"), ("PROGRESS", b"2")]
    backend.store([step("b", 7, "SUCCESS"), step("a", 3)])
    backend.store([step("a", 4), step("a", 5, "SUCCESS")])
    found: list[tuple[str, bytes]] = []
    while len(found) < 4:
        records = with_states.wait(20)
        assert records, "nothing came"
        found += [(record.state, record.result) for record in records]
    assert sorted(found) == [("PROGRESS", b"3"), ("PROGRESS", b"4"), ("SUCCESS", b"5"), ("SUCCESS", b"7")]
    assert found.index(("PROGRESS", b"3")) < found.index(("PROGRESS", b"4")) < found.index(("SUCCESS", b"5"))
    assert told(with_states) == []


def test_the_past_of_a_task(backend: SqlBackend) -> None:
    assert isinstance(backend, Remembering)
    first = Record(id="a", state="STARTED", result=b"1", parent_id="p", content_type="application/x-kit", worker="w")
    backend.store([first])
    backend.store([Record(id="a", state="FAILURE", result=b"2", date_done=1e9)])
    backend.store([step("a", 3, "STARTED")])  # stands: the end of a first attempt is not taken back
    again = Record(id="a", state="SUCCESS", result=b"4", attempt=1, date_done=1e9 + 1, group_id="g")
    backend.store([again, step("other", 9)])
    past, nothing = backend.past(["a", "unknown"])
    assert nothing == []
    assert [(record.state, record.result, record.attempt) for _, record in past] == [
        ("STARTED", b"1", 0),
        ("FAILURE", b"2", 0),
        ("SUCCESS", b"4", 1),
    ]
    assert (past[0][1].parent_id, past[0][1].content_type, past[0][1].worker) == ("p", "application/x-kit", "w")
    assert [at for at, _ in past][1:] == [1e9, 1e9 + 1]
    assert past[2][1].group_id == "g"
    backend.forget(["a"])
    assert backend.past(["a"]) == [[]]


def test_a_record_made_anew_is_told_from_its_beginning(backend: SqlBackend) -> None:
    backend.store([step("a", 0)])
    backend.store([step("a", 1)])
    watch = backend.watch(["a"])
    assert len(told(watch)) == 2
    backend.forget(["a"])
    backend.store([step("a", 2, "SUCCESS")])
    records = watch.wait(20)
    assert [record.result for record in records] == [b"2"]


def test_the_newest_states_are_kept(backend: SqlBackend) -> None:
    count = history.KEPT + 250
    for start in range(0, count, 50):
        backend.store([step("a", number) for number in range(start, start + 50)])
    backend.store([step("a", count, "SUCCESS")])
    (past,) = backend.past(["a"])
    numbers = [int(record.result) for _, record in past]
    assert numbers[-1] == count
    assert numbers == list(range(numbers[0], count + 1))
    assert history.KEPT <= len(numbers) <= history.KEPT + 150


def test_states_go_when_records_do(tmp_path: Path) -> None:
    backend = SqlBackend(BackendConfig(url=f"sqlite:///{tmp_path}/r.db", expires=100.0))
    backend.open()
    for task_id in ("old", "new", "celerys"):
        backend.store([step(task_id, 0)])
        backend.store([step(task_id, 1)])
        backend.store([step(task_id, 2, "SUCCESS")])
    backend.store([Record(id="plain", state="SUCCESS", date_done=2e9)])
    connection = sqlite3.connect(tmp_path / "r.db")
    rows = "SELECT task_id, count(*) FROM kernel_taskmeta_history GROUP BY task_id ORDER BY task_id"
    assert connection.execute(rows).fetchall() == [("celerys", 2), ("new", 2), ("old", 2)], "and none of a plain one"
    with connection:
        connection.execute("UPDATE celery_taskmeta SET date_done = '2001-01-01 00:00:00.000000' WHERE task_id = 'old'")
        # What Celery deletes, or who reports for longer than results are kept.
        connection.execute("DELETE FROM celery_taskmeta WHERE task_id = 'celerys'")
        connection.execute(
            "UPDATE kernel_taskmeta_history SET date_done = '2001-01-01 00:00:00.000000' WHERE task_id = 'celerys'"
        )
    assert backend.cleanup() == 1
    assert connection.execute(rows).fetchall() == [("new", 2)]
    connection.close()
    backend.close()


def test_tables_from_before_get_the_one_that_is_new(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/r.db"
    backend = SqlBackend(BackendConfig(url=url))
    backend.open()
    backend.store([step("a", 0)])
    backend.close()
    connection = sqlite3.connect(tmp_path / "r.db")
    with connection:
        connection.execute("DROP TABLE kernel_taskmeta_history")
        connection.execute("UPDATE kernel_schema SET version = 1 WHERE part = 'records'")
    connection.close()
    backend = SqlBackend(BackendConfig(url=url))
    backend.open()
    backend.store([step("a", 1)])
    assert [record.result for _, record in backend.past(["a"])[0]] == [b"0", b"1"]
    backend.close()


@pytest.mark.parametrize("at_setup", [True, False])
def test_when_tables_are_made(tmp_path: Path, at_setup: bool) -> None:
    settings = {"database_create_tables_at_setup": at_setup, "database_table_names": {"task": "my_tasks"}}
    backend = SqlBackend(BackendConfig(url=f"sqlite:///{tmp_path}/r.db", settings=settings))
    backend.open()
    connection = sqlite3.connect(tmp_path / "r.db")
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%my_tasks%'"
    assert bool(connection.execute(names).fetchall()) is at_setup
    backend.store([step("a", 1)])
    assert {name for (name,) in connection.execute(names)} >= {"my_tasks", "kernel_my_tasks_history"}
    connection.close()
    backend.close()
