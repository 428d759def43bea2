"""Queues as an operator sees them: their names, numbers and contents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from kernel_lib_sql import Transaction

from kernel.interfaces.broker import QueueStats
from kernel.message import Message
from kernel_broker_sql import ends, outbox, rows

_INSERT: Final = "INSERT INTO kernel_queue (name) VALUES (?) ON CONFLICT DO NOTHING"
# The oldest has the smallest id, save where clocks of publishers differ; either way it is one look-up.
_OLDEST: Final = """
SELECT min(sent) FROM (
    SELECT * FROM (SELECT sent FROM kernel_message WHERE id = (
        SELECT min(id) FROM kernel_message WHERE queue = ? AND owner IS NULL AND due IS NULL)) AS waiting
    UNION ALL
    SELECT min(sent) AS sent FROM kernel_message WHERE queue = ? AND owner IS NULL AND due IS NOT NULL
) AS oldest"""
_PURGED_AT_ONCE: Final = 2000


def declare(tx: Transaction, names: Iterable[str]) -> None:
    tx.many(_INSERT, [(name,) for name in sorted(set(names))])


def stats(tx: Transaction, queues: Sequence[str]) -> list[QueueStats]:
    now = tx.now()
    paused = {name: bool(flag) for name, flag in tx.query("SELECT name, paused FROM kernel_queue")}
    ready = _count(tx, "kernel_message WHERE owner IS NULL AND due IS NULL")
    delayed = _count(tx, "kernel_message WHERE owner IS NULL AND due IS NOT NULL")
    claimed = _count(tx, "kernel_message WHERE owner IS NOT NULL")
    dead = _count(tx, "kernel_dead")
    readers: Counter[str] = Counter()
    for (names,) in tx.query("SELECT queues FROM kernel_consumer"):
        with suppress(ValueError):
            readers.update(json.loads(names))
    return [
        QueueStats(
            name,
            ready=ready.get(name, 0),
            delayed=delayed.get(name, 0),
            claimed=claimed.get(name, 0),
            dead=dead.get(name, 0),
            oldest=_age(tx, name, now) if ready.get(name) or delayed.get(name) else None,
            paused=paused.get(name, False),
            consumers=readers[name],
        )
        for name in sorted(set(queues or paused))
    ]


def _count(tx: Transaction, where: str) -> dict[str, int]:
    table, _, condition = where.partition(" WHERE ")
    condition = f" WHERE {condition}" if condition else ""
    return dict(tx.query(f"SELECT queue, count(*) FROM {table}{condition} GROUP BY queue"))  # noqa: S608


def _age(tx: Transaction, queue: str, now: float) -> float | None:
    sent = tx.query(_OLDEST, (queue, queue))[0][0]
    return None if sent is None else max(0.0, now - sent)


def purge_some(tx: Transaction, queue: str) -> int:
    """Delete a part of what waits; 0 when nothing does. In parts, so that nobody waits for a million deletes."""
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"
    found = tx.query(
        f"SELECT id FROM kernel_message WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT ?{lock}",  # noqa: S608
        (queue, _PURGED_AT_ONCE),
    )
    ends.delete(tx, [row[0] for row in found])
    return len(found)


def peek(tx: Transaction, queue: str, limit: int) -> list[Message]:
    columns = ", ".join(f"p.{column.strip()}" for column in rows.PAYLOAD.split(","))
    found = tx.query(
        f"SELECT {columns} FROM kernel_message m JOIN kernel_payload p ON p.id = m.id "  # noqa: S608
        "WHERE m.queue = ? AND m.owner IS NULL AND (m.due IS NULL OR m.due <= ?) "
        "ORDER BY m.priority DESC, m.id LIMIT ?",
        (queue, tx.now(), limit),
    )
    return [rows.message_of(row) for row in found]


def pause(tx: Transaction, queue: str, *, paused: bool) -> None:
    declare(tx, [queue])
    tx.execute("UPDATE kernel_queue SET paused = ? WHERE name = ?", (int(paused), queue))
    tx.ring(outbox.topic(queue))
