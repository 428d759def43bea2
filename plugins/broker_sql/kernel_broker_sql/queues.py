"""Queues as an operator sees them: their names, numbers and contents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from kernel_lib_sql import Transaction

from kernel.interfaces.broker import Bound, QueueSpec, QueueStats
from kernel.message import Message
from kernel_broker_sql import ends, outbox, rows

_INSERT: Final = "INSERT INTO kernel_queue (name) VALUES (?) ON CONFLICT DO NOTHING"
_BIND: Final = """
INSERT INTO kernel_binding (exchange, queue, routing_key, type) VALUES (?, ?, ?, ?)
ON CONFLICT (exchange, queue, routing_key) DO UPDATE SET type = excluded.type"""
_BOUND: Final = "SELECT queue, routing_key, type FROM kernel_binding WHERE exchange = ? ORDER BY queue, routing_key"
# The oldest has the smallest id, save where clocks of publishers differ; either way it is one look-up.
_OLDEST: Final = """
SELECT min(sent) FROM (
    SELECT * FROM (SELECT sent FROM kernel_message WHERE id = (
        SELECT min(id) FROM kernel_message WHERE queue = ? AND owner IS NULL AND due IS NULL)) AS waiting
    UNION ALL
    SELECT min(sent) AS sent FROM kernel_message WHERE queue = ? AND owner IS NULL AND due IS NOT NULL
) AS oldest"""
_PURGED_AT_ONCE: Final = 2000
_PEEK: Final = f"""
SELECT m.priority, m.id, {", ".join(f"p.{column.strip()}" for column in rows.PAYLOAD.split(","))}
FROM kernel_message m JOIN kernel_payload p ON p.id = m.id WHERE m.owner IS NULL"""  # noqa: S608
_PEEK_READY: Final = f"{_PEEK} AND m.due IS NULL AND m.queue = ? ORDER BY m.priority DESC, m.id LIMIT ?"
_PEEK_DUE: Final = f"{_PEEK} AND m.due <= ? AND m.queue = ? ORDER BY m.due LIMIT ?"


def declare(tx: Transaction, names: Iterable[str]) -> None:
    tx.many(_INSERT, [(name,) for name in sorted(set(names))])


def bind(tx: Transaction, specs: Iterable[QueueSpec]) -> None:
    """Remember what queues are bound to; the last word on an exchange's type counts."""
    words = {
        (binding.exchange.name, spec.name, binding.key): binding.exchange.type
        for spec in specs
        for binding in spec.bindings
    }
    tx.many(_BIND, [(exchange, queue, key, words[exchange, queue, key]) for exchange, queue, key in sorted(words)])


def bindings(tx: Transaction, exchange: str) -> list[Bound]:
    found = tx.query(_BOUND, (exchange,))
    return [Bound(queue, key, kind) for queue, key, kind in found]


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


def newest(tx: Transaction) -> int:
    """Up to which number messages exist."""
    return tx.query("SELECT max(id) FROM kernel_message")[0][0] or 0


def purge_some(tx: Transaction, queue: str, last: int) -> int:
    """Delete a part of what waits up to number `last`; 0 when nothing does. In parts, so that nobody waits for a
    million deletes."""
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"
    # One after the other, because each has its index.
    for kind in ("due IS NULL", "due IS NOT NULL"):
        found = tx.query(
            f"SELECT id FROM kernel_message WHERE owner IS NULL AND {kind} AND queue = ? AND id <= ? LIMIT ?{lock}",  # noqa: S608
            (queue, last, _PURGED_AT_ONCE),
        )
        if found:
            ends.delete(tx, [row[0] for row in found])
            return len(found)
    return 0


def peek(tx: Transaction, queue: str, limit: int) -> list[Message]:
    # Two look-ups, each along its index: what waits, and what came due since anybody claimed.
    found = tx.query(_PEEK_READY, (queue, limit)) + tx.query(_PEEK_DUE, (tx.now(), queue, limit))
    found.sort(key=lambda row: (-row[0], row[1]))
    return [rows.message_of(row[2:]) for row in found[:limit]]


def pause(tx: Transaction, queue: str, *, paused: bool) -> None:
    declare(tx, [queue])
    tx.execute("UPDATE kernel_queue SET paused = ? WHERE name = ?", (int(paused), queue))
    tx.ring(outbox.topic(queue))
