"""Results inside somebody else's transaction."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from kernel_lib_sql import Database, database_for, records
from kernel_lib_sql.record_tables import Tables

from kernel.interfaces.backend import Record, StoreState

WON, STANDING = StoreState.WON, StoreState.STANDING


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = database_for(f"sqlite:///{tmp_path}/jobs.db")
    database.open()
    records.prepare(database)
    yield database
    database.close()


def ended(id: str, state: str = "SUCCESS", **fields: object) -> Record:
    return Record(id=id, state=state, date_done=time.time(), **fields)  # type: ignore[arg-type]


def test_a_transaction_that_fails_stores_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as tx:
            records.store(tx, [ended("a")])
            raise RuntimeError("the settlement failed")

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as tx:
        assert records.load(tx, ["a"]) == [None]


def test_watchers_are_rung_at_the_commit_and_not_before(database: Database) -> None:
    bell = database.listen([records.topic_of("a")])
    try:
        with database.write() as tx:
            records.store(tx, [ended("a")])
            assert not bell.wait(0)
        assert bell.wait(5)
        with database.write() as tx:
            records.store(tx, [ended("a", "FAILURE")])
        assert not bell.wait(0), "a record that was not stored is no news"
    finally:
        bell.close()


def test_a_thousand_in_one_batch(database: Database) -> None:
    batch = [ended(f"id-{n}", result=b"%d" % n, **({"children": "[]"} if n % 3 else {})) for n in range(1000)]
    with database.write() as tx:
        assert {outcome.state for outcome in records.store(tx, batch)} == {WON}
    with database.read() as tx:
        found = records.load(tx, [record.id for record in batch])
    assert [(record.result, record.children) for record in found if record] == [
        (record.result, record.children) for record in batch
    ]


def test_extra_columns_follow_the_record_that_stands(database: Database) -> None:
    for record in (
        Record(id="a", state="STARTED", content_type="application/x-kit", group_id="g"),
        Record(id="a", state="PROGRESS"),
        ended("a", "FAILURE", attempt=0, parent_id="p"),
        ended("a", attempt=1),
    ):
        with database.write() as tx:
            records.store(tx, [record])
        with database.read() as tx:
            (found,) = records.load(tx, ["a"])
        assert found is not None
        fields = ("state", "content_type", "group_id", "parent_id", "attempt")
        assert [getattr(found, name) for name in fields] == [getattr(record, name) for name in fields]


def test_versions_change_with_every_store(database: Database) -> None:
    seen = set()
    for _ in range(5):
        with database.write() as tx:
            records.store(tx, [Record(id="a", state="PROGRESS")])
        with database.read() as tx:
            versions = records.load_versions(tx, ["a", "b"])
        assert [*versions] == ["a"]
        seen.add(versions["a"])
    assert len(seen) == 5


def test_ids_longer_than_the_column_do_not_meet() -> None:
    keys = {records.key_of("x" * 200), records.key_of("x" * 201), records.key_of("half \ud800"), records.key_of("\0")}
    assert len(keys) == 4
    assert all(len(key) <= 155 for key in keys)
    assert records.key_of("žluť") == "žluť"


def test_cleanup_takes_a_thousand_at_a_time_from_the_oldest(database: Database) -> None:
    old = [Record(id=f"old-{n}", state="SUCCESS", date_done=1000.0 + n, group_id="g") for n in range(1500)]
    with database.write() as tx:
        records.store(tx, [*old, ended("new")])
    counts = []
    for _ in range(3):
        with database.write() as tx:
            counts.append(records.cleanup(tx, time.time() - 60))
    assert counts == [1000, 500, 0]
    with database.read() as tx:
        assert [record and record.id for record in records.load(tx, ["old-0", "old-1499", "new"])] == [
            None,
            None,
            "new",
        ]


def test_tables_of_other_names_are_apart(database: Database) -> None:
    mine = Tables.named({"task": "my_tasks"}, dialect="sqlite")
    records.prepare(database, mine)
    with database.write() as tx:
        records.store(tx, [ended("a")], mine)
        assert records.load(tx, ["a"]) == [None]
        assert records.load(tx, ["a"], mine) != [None]


def end_them(url: str, state: str, ids: list[str], go: Event) -> None:
    database = database_for(url, timeout=30)
    database.open()
    records.prepare(database)
    go.wait(30)
    won = 0
    for start in range(0, len(ids), 10):
        with database.write() as tx:
            outcomes = records.store(tx, [ended(each, state) for each in ids[start : start + 10]])
        won += sum(outcome.state is WON for outcome in outcomes)
    with database.write() as tx:
        records.store(tx, [Record(id=f"won by {state}", state="SUCCESS", result=b"%d" % won)])
    database.close()


def test_two_processes_end_the_same_ids(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    ids = [f"id-{n}" for n in range(1000)]
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    sides = [
        context.Process(target=end_them, args=(url, "SUCCESS", ids, go)),
        context.Process(target=end_them, args=(url, "FAILURE", ids[::-1], go)),
    ]
    for side in sides:
        side.start()
    go.set()
    for side in sides:
        side.join(60)
        if side.is_alive():
            side.kill()
        assert side.exitcode == 0
    connection = sqlite3.connect(tmp_path / "jobs.db")
    counts = dict(
        connection.execute("SELECT status, count(*) FROM celery_taskmeta WHERE task_id LIKE 'id-%' GROUP BY status")
    )
    told = dict(connection.execute("SELECT task_id, result FROM celery_taskmeta WHERE task_id LIKE 'won%'").fetchall())
    connection.close()
    assert sum(counts.values()) == 1000
    for state in ("SUCCESS", "FAILURE"):
        assert int(told[f"won by {state}"]) == counts.get(state, 0)
