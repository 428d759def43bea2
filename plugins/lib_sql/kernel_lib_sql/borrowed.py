"""A transaction of the caller's, on a connection of SQLAlchemy's, as our statements see it.

SQLAlchemy itself is not imported before a connection of it is there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel_lib_sql.database import Database
from kernel_lib_sql.transaction import Dialect

if TYPE_CHECKING:
    import sqlalchemy

_MARK: Final = re.compile(r"\?(?:::([a-z0-9_]+\[\]))?")
_NOTIFY: Final = "SELECT count(pg_notify(name, '')) FROM unnest(?::text[]) AS name"
# A server is the one that started then; a table is the one that the connection's search path leads to.
_IDENTITY: Final = """
SELECT CAST(extract(epoch FROM pg_postmaster_start_time()) AS text), CAST(oid AS text),
    coalesce(CAST(CAST(to_regclass(?) AS oid) AS text), '')
FROM pg_database WHERE datname = current_database()"""


class BorrowedTransaction:
    """A `Transaction` that somebody else began and will commit. What is rung is kept in `topics`."""

    def __init__(self, connection: sqlalchemy.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect: Dialect = dialect
        self.topics: set[str] = set()

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._connection.execute(_text(sql), _named(params))]

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return max(0, self._connection.execute(_text(sql), _named(params)).rowcount)

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._connection.execute(_text(sql), _named(params))

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        found = [_named(row) for row in rows]
        return max(0, self._connection.execute(_text(sql), found).rowcount) if found else 0

    def any_of(self, column: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        marks = ", ".join("?" * len(values))
        return (f"{column} IN ({marks})", list(values)) if values else ("1 = 0", [])

    def now(self) -> float:
        return time.time()

    def ring(self, topic: str) -> None:
        self.topics.add(topic)

    def notify(self) -> None:
        """On PostgreSQL, ring with the commit. Elsewhere `Database.ring(topics)` is called after it."""
        if self._dialect == "postgresql" and self.topics:
            from kernel_lib_sql.notify import channel

            self.query(_NOTIFY, ([channel(topic) for topic in sorted(self.topics)],))


def is_same(database: Database, connection: sqlalchemy.Connection, *, table: str) -> bool:
    """Whether the connection leads to the very `table` that `database` has."""
    if connection.dialect.name != database.dialect:
        return False
    tx = BorrowedTransaction(connection, database.dialect)
    if database.dialect == "sqlite":
        files = [row[2] for row in tx.query("PRAGMA database_list") if row[1] == "main"]
        return bool(files and files[0]) and f"sqlite:{os.path.realpath(files[0])}" == database.domain
    theirs = tx.query(_IDENTITY, (table,))
    with database.read() as own:
        return bool(theirs) and theirs == own.query(_IDENTITY, (table,))


def _text(sql: str) -> sqlalchemy.TextClause:
    """Our parameter marks as named ones, which SQLAlchemy translates for every driver."""
    import sqlalchemy

    count = iter(range(sql.count("?")))

    def mark(found: re.Match[str]) -> str:
        name = f":p{next(count)}"
        return f"CAST({name} AS {found[1]})" if found[1] else name

    return sqlalchemy.text(_MARK.sub(mark, sql))


def _named(params: Sequence[Any]) -> dict[str, Any]:
    return {f"p{number}": value for number, value in enumerate(params)}
