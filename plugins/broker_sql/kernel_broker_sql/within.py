"""Messages that are published inside a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kernel_lib_sql import Database
from kernel_lib_sql.borrowed import BorrowedTransaction, is_same

from kernel.message import Publication
from kernel_broker_sql import outbox, queues

if TYPE_CHECKING:
    import sqlalchemy


def publish(
    database: Database, connection: sqlalchemy.Connection, batch: Sequence[Publication]
) -> Callable[[], None] | None:
    """Store them in the transaction of `connection`; what is to be called after its commit. None: another database."""
    if not is_same(database, connection, table="kernel_message"):
        return None
    prepared = outbox.prepare(batch)
    names = {item.queue for item in batch}
    tx = BorrowedTransaction(connection, database.dialect)
    if database.dialect == "sqlite":
        # First of all, and always: it takes the lock of the writer, so that what is read next does not change.
        queues.declare(tx, names)
    else:
        # In a transaction of ours: the caller's may last, and others who publish to a new queue would wait for it.
        with database.write() as own:
            queues.declare(own, names)
    outbox.insert(tx, batch, prepared)
    tx.notify()
    topics = frozenset(tx.topics)
    return lambda: None if database.dialect == "postgresql" else database.ring(topics)
