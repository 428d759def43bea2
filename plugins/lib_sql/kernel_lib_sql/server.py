"""Databases behind a network: PostgreSQL through psycopg, found and pooled by SQLAlchemy.

SQLAlchemy reads the URL and keeps the pool; statements go to the DBAPI's own cursors, because the layers between
cost more than the statements of a queue do. A write transaction is one pipeline: BEGIN, whatever needs no answer,
the notifications and COMMIT travel together.
"""

from __future__ import annotations

import contextlib
import re
import select
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from kernel import errors
from kernel_lib_sql import clock, faults, urls
from kernel_lib_sql.bell import Bell
from kernel_lib_sql.database import Database
from kernel_lib_sql.forks import forks
from kernel_lib_sql.notify import NotifyBell, channel
from kernel_lib_sql.transaction import Dialect, Transaction
from kernel_lib_sql.watchdog import Watchdog

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy

_CLOCK_GOOD_FOR: Final = 10.0
_POOL: Final = 8
_NOW: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
_NOTIFY: Final = "SELECT count(pg_notify(name, '')) FROM unnest(%b::text[]) AS name"
_ARRAY_MARK: Final = re.compile(r"\?(::[a-z0-9_]+\[\])")


class ServerTransaction:
    """A `Transaction` on one connection of PostgreSQL, in pipeline mode."""

    __slots__ = ("_connection", "_database", "_pipeline", "topics")

    def __init__(self, database: ServerDatabase, connection: psycopg.Connection[Any], pipeline: Any) -> None:
        self._database = database
        self._connection = connection
        self._pipeline = pipeline
        self.topics: set[str] = set()

    @property
    def dialect(self) -> Dialect:
        return "postgresql"

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._cursor(sql, params).fetchall()

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        cursor = self._cursor(sql, params)
        self._pipeline.sync()
        return max(0, cursor.rowcount)

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._cursor(sql, params)

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        cursor = self._connection.cursor(binary=True)
        cursor.executemany(self._database.translate(sql), list(rows))
        self._pipeline.sync()
        return max(0, cursor.rowcount)

    def any_of(self, column: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        if not values:
            return "1 = 0", []
        kind = "bigint" if isinstance(values[0], int) else "text"
        return f"{column} = ANY(?::{kind}[])", [list(values)]

    def now(self) -> float:
        return self._database.server_time(self)

    def ring(self, topic: str) -> None:
        self.topics.add(topic)

    def _cursor(self, sql: str, params: Sequence[Any]) -> psycopg.Cursor[Any]:
        cursor = self._connection.cursor(binary=True)
        cursor.execute(self._database.translate(sql), params)
        return cursor


class ServerDatabase(Database):
    """A PostgreSQL database; `domain` is its host, port and name, whoever logs in."""

    dialect: Dialect = "postgresql"

    def __init__(self, target: urls.Target, *, timeout: float = 4.0, options: Mapping[str, Any] | None = None) -> None:
        self._target = target
        self._options = dict(options or {})
        super().__init__(domain=urls.server_domain(target), timeout=timeout)
        self.name = urls.mask(target.url)
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        self._reset()
        forks().watch(self)

    def _reset(self) -> None:
        self._engine: sqlalchemy.Engine | None = None
        self._bells: set[NotifyBell] = set()
        self._watchdog = Watchdog()
        self._offset: tuple[float, float] = (0.0, -_CLOCK_GOOD_FOR)

    # --- opening and closing ------------------------------------------------------------------------------------

    def open(self) -> None:
        if self._engine is None:
            with self.read() as tx:
                tx.query("SELECT 1")

    def close(self) -> None:
        with self._lock:
            engine, self._engine = self._engine, None
            bells = tuple(self._bells)
        for bell in bells:
            bell.close()
        self._watchdog.stop()
        if engine is not None:
            engine.dispose()
        self._ready.clear()

    def _pool(self) -> sqlalchemy.Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine()
            return self._engine

    def _make_engine(self) -> sqlalchemy.Engine:
        try:
            import psycopg
            import sqlalchemy
        except ImportError as exc:
            raise errors.DriverNotInstalled(
                f"PostgreSQL needs psycopg and SQLAlchemy ({exc}): pip install 'kernel[postgresql]'"
            ) from exc
        url = sqlalchemy.make_url(self._target.url).set(drivername="postgresql+psycopg")
        patience = max(1, round(self.timeout))
        engine = sqlalchemy.create_engine(
            url,
            pool_size=_POOL,
            max_overflow=_POOL,
            pool_timeout=self.timeout,
            pool_reset_on_return=None,
            connect_args={
                "connect_timeout": patience,
                "tcp_user_timeout": patience * 1000,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "application_name": "kernel",
                "autocommit": True,
                # One connection is used by one thread at a time, and statements that repeat are worth preparing.
                "prepare_threshold": 3,
            },
        )
        assert psycopg.pq.version() > 0
        return engine

    def connect(self) -> psycopg.Connection[Any]:
        """A connection outside the pool, which the caller closes."""
        engine = self._pool()
        try:
            proxied = engine.raw_connection()
            connection: Any = proxied.driver_connection
            proxied.detach()
        except Exception as exc:
            raise self._fault(exc) from exc
        return cast("psycopg.Connection[Any]", connection)

    # --- transactions -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def write(self, *, durable: bool = True, timeout: float | None = None) -> Iterator[Transaction]:
        begin = "BEGIN" if durable else "BEGIN; SET LOCAL synchronous_commit = off"
        with self._transaction(begin.split("; "), timeout) as tx:
            yield tx

    @contextlib.contextmanager
    def read(self, *, timeout: float | None = None) -> Iterator[Transaction]:
        with self._transaction(["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"], timeout) as tx:
            yield tx

    @contextlib.contextmanager
    def _transaction(self, begin: Sequence[str], timeout: float | None) -> Iterator[ServerTransaction]:
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        import psycopg

        proxied = self._checkout()
        connection: psycopg.Connection[Any] = proxied.driver_connection
        committing = False
        try:
            with self._watchdog.guard(connection.fileno(), deadline), connection.pipeline() as pipeline:
                for statement in begin:
                    connection.execute(statement)
                tx = ServerTransaction(self, connection, pipeline)
                yield tx
                if tx.topics:
                    connection.execute(_NOTIFY, ([channel(topic) for topic in tx.topics],))
                committing = True
                connection.execute("COMMIT")
                pipeline.sync()
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                raise errors.OperationalError(f"{self.name} did not commit; nothing of this was stored")
        except psycopg.Error as exc:
            raise self._fault(exc, unknown=committing and connection.broken) from exc
        finally:
            self._checkin(proxied, connection)

    def _checkout(self) -> Any:
        engine = self._pool()
        for _ in range(2 * _POOL + 1):
            try:
                proxied = engine.raw_connection()
            except Exception as exc:
                raise self._fault(exc) from exc
            connection: Any = proxied.driver_connection
            if not connection.closed and not _has_news(connection.fileno()):
                return proxied
            proxied.invalidate()
        raise errors.OperationalError(f"{self.name} closes every connection at once")

    def _checkin(self, proxied: Any, connection: psycopg.Connection[Any]) -> None:
        try:
            if not connection.broken and connection.info.transaction_status.name != "IDLE":
                with self._watchdog.guard(connection.fileno(), time.monotonic() + self.timeout):
                    connection.execute("ROLLBACK")
        except Exception:
            proxied.invalidate()
            return
        if connection.broken or connection.closed:
            proxied.invalidate()
        else:
            proxied.close()

    def _fault(self, exc: BaseException, *, unknown: bool = False) -> errors.KernelError:
        return faults.server_fault(exc, self.name, unknown=unknown)

    def translate(self, sql: str) -> str:
        """Our parameter marks as psycopg's."""
        text = self._texts.get(sql)
        if text is None:
            # Arrays in binary: psycopg writes arrays of texts with a regular expression for each element.
            text = _ARRAY_MARK.sub(r"%b\1", sql.replace("%", "%%")).replace("?", "%s")
            self._texts[sql] = text
        return text

    def server_time(self, tx: ServerTransaction) -> float:
        """The server's clock. Asked for every few seconds, and followed by the uptime in between, which neither a
        step of this host's wall clock nor its sleep disturbs."""
        uptime = clock.uptime()
        offset, asked = self._offset
        if not 0 <= uptime - asked < _CLOCK_GOOD_FOR:
            offset = tx.query(_NOW)[0][0] - clock.uptime()
            self._offset = (offset, uptime)
        return clock.uptime() + offset

    def _has_table(self, tx: Transaction, name: str) -> bool:
        return bool(tx.query("SELECT to_regclass(?) IS NOT NULL", (name,))[0][0])

    def _serialize_migrations(self, tx: Transaction) -> None:
        tx.query("SELECT pg_advisory_xact_lock(7164, 1)")

    # --- bells --------------------------------------------------------------------------------------------------

    def listen(self, topics: Iterable[str] = ()) -> Bell:
        bell = NotifyBell(self, self._bells.discard)
        self._bells.add(bell)
        bell.add(topics)
        return bell

    def ring(self, topics: Iterable[str]) -> None:
        with self.write(durable=False) as tx:
            for topic in topics:
                tx.ring(topic)

    def before_fork(self) -> None:
        """Nothing: threads of the parent may go on."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> list[object]:
        # The parent's connections are forgotten, not closed: psycopg ends a session in the process that began it only.
        self._lock = threading.Lock()
        self._reset()
        return []


def _has_news(fd: int) -> bool:
    """Whether a connection that should be silent has something to say, which is that it was closed."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLERR | select.POLLHUP)
    return bool(poll.poll(0))
