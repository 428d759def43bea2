"""Many processes that meet at a file which is not a database yet."""

from __future__ import annotations

import multiprocessing
import re
import sqlite3
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from kernel_lib_sql import Part, database_for

from kernel.errors import OperationalError

PART = Part("test", [{"sqlite": ["CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT)"]}])
PROCESSES = 8
ROUNDS = 25


def open_each(folder: str, name: str, together: Barrier) -> None:
    """Open one fresh file after another, each at the same moment as the other processes."""
    try:
        for number in range(ROUNDS):
            together.wait(60)
            database = database_for(f"sqlite:///{folder}/{number}.db", timeout=30)
            database.open()
            database.ensure(PART)
            with database.write(durable=False) as tx:
                tx.execute("INSERT INTO thing (name) VALUES (?)", (name,))
            database.close()
    except BaseException:
        together.abort()
        raise


def test_processes_that_start_together_share_a_fresh_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(PROCESSES)
    crowd = [
        context.Process(target=open_each, args=(str(tmp_path), f"process {n}", together)) for n in range(PROCESSES)
    ]
    for process in crowd:
        process.start()
    try:
        for process in crowd:
            process.join(60)
    finally:
        for process in crowd:
            if process.is_alive():
                process.kill()
                process.join(10)
    assert [process.exitcode for process in crowd] == [0] * PROCESSES
    for number in range(ROUNDS):
        connection = sqlite3.connect(tmp_path / f"{number}.db")
        assert connection.execute("SELECT count(DISTINCT name) FROM thing").fetchone() == (PROCESSES,)
        connection.close()


def outsider(path: Path, begin: str) -> sqlite3.Connection:
    """Somebody who takes no turns with us, in a transaction on a file that has no write-ahead log yet."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("CREATE TABLE theirs (id INTEGER PRIMARY KEY)")
    connection.execute(begin)
    connection.execute("SELECT count(*) FROM theirs").fetchone()
    return connection


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_an_outsider_at_a_fresh_file_is_waited_for(tmp_path: Path, begin: str) -> None:
    theirs = outsider(tmp_path / "x.db", begin)
    timer = threading.Timer(0.1, theirs.execute, ["COMMIT"])
    timer.start()
    database = database_for(f"sqlite:///{tmp_path}/x.db", timeout=30)
    try:
        database.open()
        assert not theirs.in_transaction
    finally:
        timer.join(30)
        theirs.close()
        database.close()
    connection = sqlite3.connect(tmp_path / "x.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_an_outsider_who_stays_is_told_with_the_time_that_was_waited(tmp_path: Path, begin: str) -> None:
    theirs = outsider(tmp_path / "x.db", begin)
    database = database_for(f"sqlite:///{tmp_path}/x.db", timeout=0.3)
    started = time.monotonic()
    with pytest.raises(OperationalError, match="is locked by another process for ") as caught:
        database.open()
    took = time.monotonic() - started
    theirs.close()
    told = re.search(r"for ([\d.]+) s;", str(caught.value))
    assert told is not None
    assert 0.25 <= float(told[1]) <= took + 0.05
    database.open()
    database.close()


def test_the_time_that_a_call_allows_bounds_the_opening_too(tmp_path: Path) -> None:
    theirs = outsider(tmp_path / "x.db", "BEGIN IMMEDIATE")
    database = database_for(f"sqlite:///{tmp_path}/x.db", timeout=60)
    with (
        pytest.raises(OperationalError, match=r"is locked by another process for [0-5]\.\d s"),
        database.write(timeout=0.1),
    ):
        pass
    theirs.close()
    with database.write(timeout=5) as tx:
        assert tx.query("SELECT count(*) FROM theirs") == [(0,)]
    database.close()
