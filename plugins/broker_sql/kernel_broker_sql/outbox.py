"""Messages into their queues."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, Final

from kernel_lib_sql import Transaction

from kernel.message import Publication
from kernel_broker_sql import rows

_MESSAGE_SQLITE: Final = (
    "INSERT INTO kernel_message (id, task_id, queue, priority, size, sent, due) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_PAYLOAD_SQLITE: Final = f"INSERT OR REPLACE INTO kernel_payload (id, {rows.PAYLOAD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608

# One statement for a batch of any size: the columns travel as arrays.
_BOTH_POSTGRESQL: Final = f"""
WITH given AS MATERIALIZED (
    SELECT nextval('kernel_message_id_seq') AS id, u.* FROM unnest(
        ?::text[], ?::text[], ?::int[], ?::bigint[], ?::float8[], ?::float8[],
        ?::text[], ?::bytea[], ?::text[], ?::text[], ?::text[], ?::bigint[], ?::bytea[]
    ) AS u (task_id, queue, priority, size, sent, due, {rows.PAYLOAD})
), messages AS (
    INSERT INTO kernel_message (id, task_id, queue, priority, size, sent, due)
    SELECT id, task_id, queue, priority, size, sent, due FROM given
)
INSERT INTO kernel_payload (id, {rows.PAYLOAD}) SELECT id, {rows.PAYLOAD} FROM given"""  # noqa: S608

Row = tuple[str, str, int, int, float, float | None, tuple[Any, ...]]


def topic(queue: str) -> str:
    """What rings when `queue` has changed."""
    return f"queue:{queue}"


def prepare(publications: Sequence[Publication]) -> list[Row]:
    """All that can be computed before the transaction, so that the lock is held for the writing alone."""
    now = time.time()
    prepared: list[Row] = []
    for item in publications:
        message = item.message
        payload = rows.payload_row(message)
        size = len(message.body) + len(payload[0]) + 64
        priority = min(255, max(0, item.priority))
        due = item.due if item.due is not None and item.due > now else None
        prepared.append((rows.id_of(message), item.queue, priority, size, now, due, payload))
    return prepared


def insert(
    tx: Transaction, publications: Sequence[Publication], prepared: list[Row], doubtful: Collection[str] = ()
) -> None:
    """Store what `prepare` made of `publications`, and ring their queues. What says that it is a repeat, or has one of
    the `doubtful` ids, is left out if it waits already."""
    repeats = [
        index
        for index, item in enumerate(publications)
        if rows.is_repeat(item) or (doubtful and prepared[index][0] in doubtful)
    ]
    if repeats:
        prepared = _without_waiting(tx, prepared, repeats)
    if not prepared:
        return
    if tx.dialect == "sqlite":
        _insert_sqlite(tx, prepared)
    else:
        _insert_postgresql(tx, prepared)
    for queue in {row[1] for row in prepared}:
        tx.ring(topic(queue))


def _without_waiting(tx: Transaction, prepared: list[Row], repeats: list[int]) -> list[Row]:
    """Leave out repeats that still wait in their queue. Claimed ones do not count: the message that is just ending
    may be publishing its own retry, under its own id, before it is settled.

    No index serves this, because keeping one costs every publish and repeats come after a crash alone.
    """
    queues = sorted({prepared[index][1] for index in repeats})
    in_queues, queue_values = tx.any_of("queue", queues)
    in_ids, id_values = tx.any_of("task_id", [prepared[index][0] for index in repeats if prepared[index][0]])
    found = tx.query(
        f"SELECT queue, task_id FROM kernel_message WHERE owner IS NULL AND {in_queues} AND {in_ids}",  # noqa: S608
        [*queue_values, *id_values],
    )
    waiting = {(queue, task_id) for queue, task_id in found}
    candidates = set(repeats)
    return [row for index, row in enumerate(prepared) if index not in candidates or (row[1], row[0]) not in waiting]


def _insert_sqlite(tx: Transaction, prepared: list[Row]) -> None:
    first = 1 + (tx.query("SELECT max(id) FROM kernel_message")[0][0] or 0)
    tx.many(_MESSAGE_SQLITE, [(number, *row[:6]) for number, row in enumerate(prepared, first)])
    tx.many(_PAYLOAD_SQLITE, [(number, *row[6]) for number, row in enumerate(prepared, first)])


def _insert_postgresql(tx: Transaction, prepared: list[Row]) -> None:
    flat = [(*row[:6], *row[6]) for row in prepared]
    tx.run(_BOTH_POSTGRESQL, [list(column) for column in zip(*flat, strict=True)])
