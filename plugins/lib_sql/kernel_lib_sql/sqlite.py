"""SQLite as a `Database`: one file, WAL, durable commits, writers that take turns."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from kernel import errors
from kernel_lib_sql import faults
from kernel_lib_sql.bell import Bell
from kernel_lib_sql.database import Database
from kernel_lib_sql.doorbell import Doorbell
from kernel_lib_sql.forks import forks
from kernel_lib_sql.transaction import Dialect, Transaction
from kernel_lib_sql.turn import Turn

_CACHE_KIB: Final = 4000
_WAL_PAGES: Final = 1000
"""How long the log may grow before it is copied into the database, about."""
_TIDY_FIRST: Final = 320000
_TIDY_LAST: Final = 512
_TIDY_SECONDS: Final = 0.05
_COPY: Final = "PRAGMA wal_checkpoint(PASSIVE)"
_WAL_LIMIT: Final = 64 * 1024 * 1024
_SPARE_READERS: Final = 2
_STATEMENTS: Final = 256
_AGAIN: Final = 0.005
"""Seconds between attempts where SQLite answers "locked" without having waited."""


class SqliteTransaction:
    """A `Transaction` on one connection."""

    __slots__ = ("_connection", "topics")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.topics: set[str] = set()

    @property
    def dialect(self) -> Dialect:
        return "sqlite"

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, params).fetchall()

    def stream(self, sql: str, params: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows one by one, so that a reader who has enough leaves the rest unread."""
        return self._connection.execute(sql, params)

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, params).rowcount

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._connection.execute(sql, params)

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        return max(0, self._connection.executemany(sql, rows).rowcount)

    def any_of(self, column: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        return f"{column} IN (SELECT value FROM json_each(?))", [json.dumps(list(values))]  # noqa: S608

    def now(self) -> float:
        return time.time()

    def ring(self, topic: str) -> None:
        self.topics.add(topic)


class SqliteDatabase(Database):
    """The database of one file; `domain` is its real path."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: str, *, timeout: float = 4.0, options: Mapping[str, Any] | None = None) -> None:
        self.path = os.path.realpath(path)
        super().__init__(domain=f"sqlite:{self.path}", timeout=timeout)
        self._options = dict(options or {})
        self._reset()
        forks().watch(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._readers_changed = threading.Condition()
        self._reading = 0
        self._forking = False
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._synchronous = ""
        self._identity: tuple[int, int] | None = None
        self._turn: Turn | None = None
        self._doorbell: Doorbell | None = None
        self._suspect = False
        self._commits = 0
        self._commits_until_tidy = _TIDY_FIRST

    # --- opening and closing ------------------------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """Where the turn lock and the bells live."""
        return f"{self.path}-wake"

    def open(self) -> None:
        deadline = time.monotonic() + self.timeout
        with self._held(deadline):
            self._connect(deadline)

    def close(self) -> None:
        with self._held(time.monotonic() + self.timeout):
            self._disconnect()
            if self._doorbell is not None:
                self._doorbell.close()
                self._doorbell = None
        self._ready.clear()

    def _connect(self, deadline: float) -> None:
        if self._writer is not None:
            return
        self._prepare_files()
        self._writer = self._new_connection(wait=0.0)
        try:
            self._set_up(self._writer, deadline)
            found = os.stat(self.path)
        except BaseException:
            self._disconnect()
            raise
        self._identity = (found.st_dev, found.st_ino)
        self.generation += 1

    def _prepare_files(self) -> None:
        parent = os.path.dirname(self.path)
        try:
            os.makedirs(parent, mode=0o700, exist_ok=True)
            # Made by us and not by SQLite, whose files anyone may read; the -wal and -shm files copy the mode.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise errors.ImproperlyConfigured(f"{self.path} is no regular file; name a file that may be made")
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder, 0o700)
            if self._doorbell is None:
                self._doorbell = Doorbell(self.folder)
            self._turn = self._turn or Turn(self.folder)
        except (PermissionError, NotADirectoryError, FileExistsError) as exc:
            raise faults.read_only(self.path, str(exc)) from exc
        except OSError as exc:
            if exc.errno == 30:  # EROFS has no class of its own
                raise faults.read_only(self.path, str(exc)) from exc
            raise errors.OperationalError(f"cannot make the database {self.path}: {exc}") from exc

    def _new_connection(self, wait: float) -> sqlite3.Connection:
        try:
            return sqlite3.connect(
                self.path, timeout=wait, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
            )
        except sqlite3.Error as exc:
            raise faults.sqlite_fault(exc, self.path) from exc

    def _set_up(self, connection: sqlite3.Connection, deadline: float) -> None:
        started = time.monotonic()
        try:
            connection.execute(f"PRAGMA busy_timeout={_milliseconds_until(deadline)}")
            if not os.access(self.path, os.W_OK) or not os.access(os.path.dirname(self.path), os.W_OK):
                raise faults.read_only(self.path, "no permission to write")
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self._begin_log(connection, deadline, started)
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            # Done by `_tidy` long before that: SQLite would do it inside of a commit, and all others would wait.
            connection.execute(f"PRAGMA wal_autocheckpoint={8 * _WAL_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT}")
            connection.execute("PRAGMA temp_store=MEMORY")
            # Still with SQLite's waiting: the last one to close the file locks it until the log is in it.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.execute("PRAGMA busy_timeout=0")
        except sqlite3.Error as exc:
            raise faults.sqlite_fault(exc, self.path, waited=time.monotonic() - started) from exc
        self._synchronous = ""

    def _begin_log(self, connection: sqlite3.Connection, deadline: float, started: float) -> None:
        """Give a fresh file its write-ahead log, which every process that meets it wants to do.

        SQLite does not wait here: of two who do it at once, each would wait for the other to stop reading, so one is
        told "locked" at that moment. Ours take turns; where somebody else is in the way, it is tried again.
        """
        turn = self._turn
        assert turn is not None
        if not turn.acquire(deadline):
            raise faults.locked(self.path, time.monotonic() - started)
        try:
            while (mode := self._try_log(connection)) is None:
                if time.monotonic() >= deadline:
                    raise faults.locked(self.path, time.monotonic() - started)
                time.sleep(_AGAIN)
                connection.execute(f"PRAGMA busy_timeout={_milliseconds_until(deadline)}")
        finally:
            turn.release()
        if mode != "wal":
            raise errors.ImproperlyConfigured(
                f"the database {self.path} cannot use a write-ahead log (its journal mode stays {mode!r}); put "
                "it on a local file system"
            )

    def _try_log(self, connection: sqlite3.Connection) -> str | None:
        """The journal mode after asking for a log; None if the file is locked."""
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as exc:
            if not faults.is_busy(exc):
                raise
            return None

    def _disconnect(self) -> None:
        with self._readers_changed:
            connections = [*self._readers, *([self._writer] if self._writer is not None else [])]
            self._readers = []
        self._writer = None
        self._identity = None
        for connection in connections:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def _check_identity(self) -> None:
        """A file that was renamed over or unlinked would split the world: its old users would go on without a word."""
        try:
            found = os.stat(self.path)
            same = (found.st_dev, found.st_ino) == self._identity
        except FileNotFoundError:
            same = False
        if not same:
            self._disconnect()
            self._ready.clear()
            raise errors.OperationalError(
                f"the database {self.path} was replaced or removed while it was in use; what was claimed from the old "
                "file is lost to this process, and the next call opens the new one"
            )

    # --- transactions -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def write(self, *, durable: bool = True, timeout: float | None = None) -> Iterator[Transaction]:
        allowed = self.timeout if timeout is None else timeout
        started = time.monotonic()
        deadline = started + allowed
        with self._held(deadline):
            self._connect(deadline)
            self._check_identity()
            turn = self._turn
            assert turn is not None
            if not turn.acquire(deadline):
                raise faults.locked(self.path, time.monotonic() - started)
            try:
                tx = self._run_begin(durable, deadline, started)
                try:
                    yield tx
                    self._run_commit()
                except sqlite3.Error as exc:
                    raise self._failed(exc, started) from exc
                finally:
                    self._roll_back()
            finally:
                if self._turn is turn:
                    turn.release()
            self._tidy()
        if tx.topics:
            self.ring(tx.topics)

    def _run_begin(self, durable: bool, deadline: float, started: float) -> SqliteTransaction:
        connection = self._writer
        assert connection is not None
        try:
            self._mend(connection)
            wanted = "FULL" if durable else "NORMAL"
            if self._synchronous != wanted:
                connection.execute(f"PRAGMA synchronous={wanted}")
                self._synchronous = wanted
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if not faults.is_busy(exc):
                    raise
                # Somebody who takes no turns with us: SQLite's own waiting, for what is left of the time.
                connection.execute(f"PRAGMA busy_timeout={_milliseconds_until(deadline)}")
                try:
                    connection.execute("BEGIN IMMEDIATE")
                finally:
                    connection.execute("PRAGMA busy_timeout=0")
        except sqlite3.Error as exc:
            raise self._failed(exc, started) from exc
        return SqliteTransaction(connection)

    def _mend(self, connection: sqlite3.Connection) -> None:
        """After a failed fsync the log may have a hole that later frames do not survive: start a new one."""
        if self._suspect:
            connection.execute("PRAGMA synchronous=FULL")
            self._synchronous = "FULL"
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                raise errors.OperationalError(
                    f"the database {self.path} had an error of its disk, and readers keep its log from being renewed; "
                    "nothing is stored until they are done"
                )
            self._suspect = False

    def _run_commit(self) -> None:
        connection = self._writer
        if connection is not None and connection.in_transaction:
            connection.execute("COMMIT")

    def _tidy(self) -> None:
        """Now and then copy the log into the database: the bulk of it beside other writers, and what they added
        meanwhile in a turn of our own, because a log that is copied whole is begun anew.

        SQLite tells how long the log is only when it is copied, so how often that is follows from what was found.
        """
        self._commits += 1
        writer, turn = self._writer, self._turn
        if self._commits < self._commits_until_tidy or writer is None or turn is None:
            return
        self._commits = 0
        try:
            _, pages, copied = writer.execute(_COPY).fetchone()
            if copied > 0 and turn.acquire(time.monotonic() + _TIDY_SECONDS):
                try:
                    writer.execute(_COPY).fetchone()
                finally:
                    turn.release()
        except sqlite3.Error as exc:
            # What was committed stands in the log; only the next transaction has to look after the disk first.
            self._failed(exc, 0.0)
            return
        ratio = min(4.0, max(0.25, _WAL_PAGES / pages)) if pages > 0 else 1.0
        self._commits_until_tidy = min(_TIDY_LAST, max(1, round(self._commits_until_tidy * ratio)))

    def _roll_back(self) -> None:
        connection = self._writer
        if connection is not None and connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def _failed(self, exc: sqlite3.Error, started: float) -> errors.KernelError:
        name = getattr(exc, "sqlite_errorname", None) or ""
        if name.startswith("SQLITE_IOERR"):
            self._suspect = True
        return faults.sqlite_fault(exc, self.path, waited=time.monotonic() - started)

    @contextlib.contextmanager
    def read(self, *, timeout: float | None = None) -> Iterator[Transaction]:
        allowed = self.timeout if timeout is None else timeout
        started = time.monotonic()
        connection = self._take_reader(started + allowed)
        try:
            connection.execute("BEGIN")
            yield SqliteTransaction(connection)
        except sqlite3.Error as exc:
            raise self._failed(exc, started) from exc
        finally:
            self._return_reader(connection)

    def _take_reader(self, deadline: float) -> sqlite3.Connection:
        with self._readers_changed:
            if self._readers and not self._forking and self._is_same_file():
                self._reading += 1
                return self._readers.pop()
        with self._held(deadline):
            self._connect(deadline)
            self._check_identity()
            connection = self._new_connection(wait=self.timeout)
            with self._readers_changed:
                self._reading += 1
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA query_only=1")
            connection.execute("PRAGMA cache_size=-1000")
        return connection

    def _return_reader(self, connection: sqlite3.Connection) -> None:
        usable = True
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            usable = False
        with self._readers_changed:
            if usable and self._writer is not None and not self._forking and len(self._readers) < _SPARE_READERS:
                self._readers.append(connection)
            else:
                connection.close()
            self._reading -= 1
            if not self._reading:
                self._readers_changed.notify_all()

    def _is_same_file(self) -> bool:
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _has_table(self, tx: Transaction, name: str) -> bool:
        return bool(tx.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)))

    @contextlib.contextmanager
    def _held(self, deadline: float) -> Iterator[None]:
        """This process's own queue for the one connection that writes."""
        mutex = self._mutex
        if not mutex.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise errors.OperationalError(
                f"the database {self.path} is busy with another thread of this process; allow more time"
            )
        try:
            yield
        finally:
            mutex.release()

    # --- bells --------------------------------------------------------------------------------------------------

    def listen(self, topics: Iterable[str] = ()) -> Bell:
        return self._bells().listen(topics)

    def ring(self, topics: Iterable[str]) -> None:
        # What was committed stays committed, whatever becomes of the bells: waiters also look by themselves.
        with contextlib.suppress(OSError):
            self._bells().ring(topics)

    def heard(self, topic: str) -> bool:
        return self._bells().heard(topic)

    def is_dead(self, address: str) -> bool:
        return bool(address) and self._bells().is_dead(address)

    def _bells(self) -> Doorbell:
        doorbell = self._doorbell
        if doorbell is None:
            self.open()
            doorbell = self._doorbell
            assert doorbell is not None
        return doorbell

    # --- forks --------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        # SQLite keeps its locks in memory and in the process: a child that inherits an open connection believes
        # it holds locks that it does not. So there is none while a fork happens; both sides open again.
        # Transactions of other threads are waited for; one of the thread that forks can only be left behind.
        self._forking = self._mutex.acquire(timeout=self.timeout)
        with self._readers_changed:
            self._readers_changed.wait_for(lambda: not self._reading, self.timeout)
        if self._forking:
            self._disconnect()

    def after_fork_in_parent(self) -> None:
        if self._forking:
            self._forking = False
            self._mutex.release()

    def after_fork_in_child(self) -> list[object]:
        """Forget everything; what must not even be closed here is returned, to be kept until the process ends."""
        left: list[object] = [self._writer, self._readers, self._turn]
        if self._doorbell is not None:
            self._doorbell.abandon()
        self._reset()
        self._ready.clear()
        return left


def _milliseconds_until(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000))
