"""Messages that are published inside a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kernel_lib_sql import Database
from kernel_lib_sql.borrowed import BorrowedTransaction, is_same

from kernel.message import Publication
from kernel_broker_sql import outbox, queues

if TYPE_CHECKING:
    import sqlalchemy


_KEY: Final = "kernel_broker_sql"


def publish(
    database: Database,
    connection: sqlalchemy.Connection,
    batch: Sequence[Publication],
    *,
    declare: Callable[[frozenset[str]], None],
) -> Callable[[], None] | None:
    """Store them in the transaction of `connection`; what is to be called after its commit. None: another database.

    `declare` makes queues exist in a transaction of the broker's own."""
    if not _leads_here(database, connection):
        return None
    prepared = outbox.prepare(batch)
    names = frozenset(item.queue for item in batch)
    tx = BorrowedTransaction(connection, database.dialect)
    if database.dialect == "sqlite":
        # First of all, and always: it takes the lock of the writer, so that what is read next does not change.
        queues.declare(tx, names)
    else:
        # Not in the caller's transaction: it may last, and others who publish to a new queue would wait for it.
        declare(names)
    outbox.insert(tx, batch, prepared)
    tx.notify()
    topics = frozenset(tx.topics)
    return lambda: None if database.dialect == "postgresql" else database.ring(topics)


def _leads_here(database: Database, connection: sqlalchemy.Connection) -> bool:
    """Whether it leads to the broker's own tables; found out once for each transaction."""
    current = connection.get_transaction()
    known = connection.info.get(_KEY)
    if current is not None and known is not None and known[:2] == (current, database):
        return bool(known[2])
    same = is_same(database, connection, table="kernel_message")
    connection.info[_KEY] = (connection.get_transaction(), database, same)
    return same
