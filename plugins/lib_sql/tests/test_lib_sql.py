"""URLs, turns, bells, forks and transactions."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_lib_sql import Database, Part, ReadOnly, database_for, urls
from kernel_lib_sql.sqlite import SqliteDatabase
from kernel_lib_sql.turn import Turn

from kernel.errors import ImproperlyConfigured, OperationalError

PART = Part("test", [{"sqlite": ["CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT)"]}])
LATER = Part("test", [*PART.steps, {"sqlite": ["ALTER TABLE thing ADD COLUMN age INTEGER"]}])


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = database_for(f"sqlite:///{tmp_path}/x.db")
    database.open()
    database.ensure(PART)
    yield database
    database.close()


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child, and give its exit status: 0 unless it raised."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    for _ in range(600):
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(code)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -9


# --- URLs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqla+sqlite:////a/b%20c.db", "/a/b c.db"),
        ("db+sqlite:////a/b.db?x=1", "/a/b.db"),
        ("sqlite:///b.db", os.path.abspath("b.db")),
    ],
)
def test_paths_of_sqlite(url: str, path: str) -> None:
    assert urls.parse(url).path == path


def test_a_password_is_in_no_text() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        urls.parse("mysql://me:secret@host/x")
    assert "secret" not in str(caught.value)
    assert "MariaDB are not supported" in str(caught.value)


def test_one_server_has_one_domain() -> None:
    spellings = ("postgresql://a:b@LOCALHOST/x", "postgresql+psycopg://c@127.0.0.1:5432/x", "postgres://localhost/x")
    assert len({urls.server_domain(urls.parse(url)) for url in spellings}) == 1
    assert urls.server_domain(urls.parse("postgresql://localhost:5433/x")) != urls.server_domain(
        urls.parse(spellings[0])
    )


def test_one_file_has_one_domain(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    direct, linked = (database_for(f"sqlite:///{tmp_path}/{name}x.db") for name in ("", "link/"))
    assert direct.domain == linked.domain


def test_sqlite_needs_no_sqlalchemy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom kernel_lib_sql import database_for\n"
        f"database_for('sqlite:///{tmp_path}/x.db').open()\n"
        "assert not [name for name in sys.modules if name.startswith(('sqlalchemy', 'psycopg'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- transactions -------------------------------------------------------------------------------------------------


def test_an_exception_rolls_back(database: Database) -> None:
    with contextlib.suppress(KeyError), database.write() as tx:
        tx.execute("INSERT INTO thing (name) VALUES (?)", ("a",))
        raise KeyError
    with database.read() as tx:
        assert tx.query("SELECT * FROM thing") == []


def test_a_failed_statement_is_an_operational_error(database: Database) -> None:
    with pytest.raises(OperationalError, match=r"x\.db failed: no such table"), database.write() as tx:
        tx.execute("INSERT INTO nowhere VALUES (1)")
    with database.write() as tx:
        assert tx.execute("INSERT INTO thing (name) VALUES (?)", ("a",)) == 1


def test_a_reader_sees_one_state_and_cannot_write(database: Database) -> None:
    with database.read() as tx:
        assert tx.query("SELECT count(*) FROM thing") == [(0,)]
        with database.write() as other:
            other.execute("INSERT INTO thing (name) VALUES ('a')")
        assert tx.query("SELECT count(*) FROM thing") == [(0,)]
    with pytest.raises(ReadOnly), database.read() as tx:
        tx.execute("DELETE FROM thing")


def test_any_of_takes_any_number_and_any_text(database: Database) -> None:
    names = ["a", "b'; DROP TABLE thing; --", "ü\u2028", '"', ""]
    with database.write() as tx:
        tx.many("INSERT INTO thing (name) VALUES (?)", [(name,) for name in names])
        for wanted in (names, names[1:3], []):
            condition, values = tx.any_of("name", wanted)
            found = tx.query(f"SELECT name FROM thing WHERE {condition} ORDER BY id", values)
            assert [name for (name,) in found] == wanted


def test_durable_or_not(database: Database) -> None:
    """What the pragma says is what SQLite does; that it then survives a power cut is the broker's test."""
    for durable, level in ((True, 2), (False, 1), (True, 2)):
        with database.write(durable=durable) as tx:
            assert tx.query("PRAGMA synchronous") == [(level,)]


def test_parts_are_brought_forward(database: Database, tmp_path: Path) -> None:
    other = database_for(f"sqlite:///{tmp_path}/x.db")
    other.ensure(LATER)
    with other.write() as tx:
        tx.execute("INSERT INTO thing (name, age) VALUES ('a', 1)")
        assert tx.query("SELECT version FROM kernel_schema WHERE part = 'test'") == [(2,)]
    other.close()


def test_writers_of_one_process_wait_for_each_other(database: Database) -> None:
    inside = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with database.write():
            inside.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    with pytest.raises(OperationalError, match="another thread"), database.write(timeout=0.05):
        pass
    release.set()
    with database.write(timeout=20):
        pass
    thread.join(20)


def test_a_failed_sync_renews_the_log_before_anything_else(database: Database) -> None:
    with database.write() as tx:
        tx.execute("INSERT INTO thing (name) VALUES ('a')")
    assert isinstance(database, SqliteDatabase)
    fault = sqlite3.OperationalError("disk I/O error")
    fault.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    database._failed(fault, time.monotonic())
    with database.read() as reader:
        reader.query("SELECT 1 FROM thing")
        with pytest.raises(OperationalError, match="error of its disk"), database.write():
            pass
    with database.write() as tx:
        tx.execute("INSERT INTO thing (name) VALUES ('b')")
    assert not database._suspect


# --- turns --------------------------------------------------------------------------------------------------------


def test_a_turn_is_one_process_at_a_time_and_has_a_deadline(tmp_path: Path) -> None:
    first, second = Turn(str(tmp_path)), Turn(str(tmp_path))
    assert first.acquire(time.monotonic() + 10)
    assert not second.acquire(time.monotonic() + 0.1)
    got = threading.Event()

    def wait() -> None:
        if second.acquire(time.monotonic() + 20):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.2)
    first.release()
    assert got.wait(20)
    thread.join(20)
    second.release()
    assert first.acquire(time.monotonic() + 10)
    first.close()
    second.close()


def test_nobody_takes_every_turn(tmp_path: Path) -> None:
    """Two who want it all the time both get it, though either could always be faster."""
    counts = [0, 0]
    stop = threading.Event()

    def want(number: int) -> None:
        turn = Turn(str(tmp_path))
        while not stop.is_set() and turn.acquire(time.monotonic() + 10):
            counts[number] += 1
            turn.release()
        turn.close()

    threads = [threading.Thread(target=want, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while min(counts) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert min(counts) >= 20, counts


def test_those_in_line_may_be_frozen(tmp_path: Path) -> None:
    mine, frozen = Turn(str(tmp_path)), Turn(str(tmp_path))
    frozen._stand_in_line()
    for _ in range(10):
        assert mine.acquire(time.monotonic() + 10)
        mine.release()
    mine.close()
    frozen.close()


# --- bells --------------------------------------------------------------------------------------------------------


def test_a_bell_hears_its_topics_after_the_commit(database: Database, tmp_path: Path) -> None:
    other = database_for(f"sqlite:///{tmp_path}/x.db")
    bell = database.listen(["a", "b"])
    with other.write() as tx:
        tx.ring("a")
        assert not bell.wait(0.05)
    assert bell.wait(20)
    assert not bell.wait(0)
    other.ring(["c"])
    assert not bell.wait(0.05)
    bell.add(["c"])
    bell.discard(["a"])
    other.ring(["a"])
    assert not bell.wait(0.05)
    other.ring(["c"])
    assert bell.wait(20)
    with contextlib.suppress(KeyError), other.write() as tx:
        tx.ring("b")
        raise KeyError
    assert not bell.wait(0.05)
    assert database.heard("b")
    bell.close()
    assert not database.heard("b")
    other.close()


def test_a_ring_before_the_wait_ends_it(database: Database) -> None:
    bell = database.listen(["a"])
    database.ring(["a"])
    assert bell.wait(20)
    bell.wake()
    assert bell.wait(20)
    thread = threading.Timer(0.1, bell.wake)
    thread.start()
    assert bell.wait(20)
    thread.join()


def test_a_thousand_rings_are_as_good_as_one(database: Database) -> None:
    bell = database.listen(["a"])
    for _ in range(70_000):
        bell.wake()
    assert bell.wait(20)
    assert not bell.wait(0)


def test_bells_return_when_their_folder_is_swept(database: Database, tmp_path: Path) -> None:
    bell = database.listen(["a"])
    other = database_for(f"sqlite:///{tmp_path}/x.db")
    other.open()
    shutil.rmtree(tmp_path / "x.db-wake")
    # It noticed, and says that it may have missed something.
    assert bell.wait(20)
    other.ring(["a"])
    assert bell.wait(20)
    assert not bell.wait(0)
    other.close()


def test_a_dead_process_is_told_from_a_living_one(database: Database, tmp_path: Path) -> None:
    assert isinstance(database, SqliteDatabase)
    code = (
        "import os, sys\nfrom kernel_lib_sql import database_for\n"
        f"bell = database_for('sqlite:///{tmp_path}/x.db').listen(['a'])\n"
        "print(bell.address, flush=True)\nsys.stdin.read()\nos._exit(1)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        assert address
        assert not database.is_dead(address)
        bell = database.listen()
        bell.watch([address])
        assert not bell.wait(0.1)
        process.kill()
        assert bell.wait(20)
        process.wait(20)
    assert database.is_dead(address)
    assert not database.is_dead("bell.unknown")
    assert not database.is_dead("")
    # What it listened to is not heard by anybody, and the next ring takes its name away.
    database.ring(["a"])
    assert not database.heard("a")


# --- forks --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parent_and_child_go_on_after_a_fork(database: Database) -> None:
    bell = database.listen(["a"])

    def work() -> None:
        for _ in range(20):
            with database.write() as tx:
                tx.execute("INSERT INTO thing (name) VALUES ('child')")
                tx.ring("a")

    with database.write() as tx:
        tx.execute("INSERT INTO thing (name) VALUES ('parent')")
    assert in_child(work) == 0
    assert bell.wait(20)
    with database.write() as tx:
        assert tx.query("SELECT count(*) FROM thing") == [(21,)]
        assert tx.query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forks_while_other_threads_work(database: Database) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                with database.write(durable=False) as tx:
                    tx.execute("INSERT INTO thing (name) VALUES ('x')")
                with database.read() as tx:
                    tx.query("SELECT count(*) FROM thing")
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child() -> None:
        with database.write() as tx:
            tx.execute("INSERT INTO thing (name) VALUES ('child')")

    codes = [in_child(child) for _ in range(5)]
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failed == []
    assert codes == [0] * 5
    with database.read() as tx:
        assert tx.query("SELECT count(*) FROM thing WHERE name = 'child'") == [(5,)]
        assert tx.query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_inside_a_transaction_harms_neither_side(tmp_path: Path) -> None:
    database = database_for(f"sqlite:///{tmp_path}/x.db", timeout=0.3)
    database.ensure(PART)
    with database.write() as tx:
        tx.execute("INSERT INTO thing (name) VALUES ('parent')")
        assert in_child(lambda: None) == 0
    with database.read() as tx:
        assert tx.query("SELECT name FROM thing") == [("parent",)]
    database.close()


def test_databases_that_are_gone_leave_nothing_that_forks_would_ask(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[object] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **handlers: registered.append(handlers))
    told: list[str] = []
    monkeypatch.setattr(type(database), "before_fork", lambda self: told.append(self.domain))
    gone = {database_for(f"sqlite:///{tmp_path}/{number}.db").domain for number in range(100)}
    gc.collect()
    assert in_child(lambda: None) == 0
    assert registered == []
    assert database.domain in told
    assert gone.isdisjoint(told)
