"""What a consumer may have now, and making it its own."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kernel_lib_sql import Transaction

from kernel.interfaces.broker import Delivery
from kernel_broker_sql import outbox, rows

_PAYLOAD: Final = ", ".join(f"p.{column.strip()}" for column in rows.PAYLOAD.split(","))
_READY: Final = "owner IS NULL AND due IS NULL"

_CANDIDATES_SQLITE: Final = f"""
SELECT m.id, m.size, m.starts, m.seen, {_PAYLOAD}
FROM kernel_message m INDEXED BY kernel_message_ready LEFT JOIN kernel_payload p ON p.id = m.id
WHERE m.queue = ? AND m.owner IS NULL AND m.due IS NULL AND NOT EXISTS (
    SELECT 1 FROM kernel_queue q WHERE q.name = ? AND q.paused = 1)
ORDER BY m.priority DESC, m.id LIMIT ?"""  # noqa: S608
_TAKE_SQLITE: Final = """
UPDATE kernel_message SET owner = ?, token = ?, seen = 1 WHERE id IN (SELECT value FROM json_each(?))"""

# `before` is the size of what stands in front: the first message is taken whatever its size.
_TAKE_POSTGRESQL: Final = f"""
WITH candidates AS MATERIALIZED (
    SELECT id, size, starts, seen, priority FROM kernel_message
    WHERE queue = ? AND owner IS NULL AND due IS NULL AND NOT EXISTS (
        SELECT 1 FROM kernel_queue q WHERE q.name = ? AND q.paused = 1)
    ORDER BY priority DESC, id LIMIT ? FOR UPDATE SKIP LOCKED
), sized AS (
    SELECT *, sum(size) OVER (ORDER BY priority DESC, id) - size AS before FROM candidates
), taken AS (
    UPDATE kernel_message m SET owner = ?, token = ?, seen = 1 FROM sized s
    WHERE m.id = s.id AND (s.before + s.size <= ? OR (s.before = 0 AND ?))
    RETURNING m.id, s.size, s.starts, s.seen, s.priority
)
SELECT t.id, t.size, t.starts, t.seen, {_PAYLOAD} FROM taken t LEFT JOIN kernel_payload p ON p.id = t.id
ORDER BY t.priority DESC, t.id"""  # noqa: S608

# Jumps from one queue's first entry in the index to the next one's, so that it costs the queues that have
# something and not the messages in them, nor the queues that have nothing.
_BUSY_QUEUES: Final = f"""
WITH RECURSIVE busy (queue) AS (
    SELECT min(queue) FROM kernel_message WHERE {_READY}
    UNION ALL
    SELECT (SELECT min(queue) FROM kernel_message WHERE {_READY} AND queue > busy.queue)
    FROM busy WHERE busy.queue IS NOT NULL
)
SELECT queue FROM busy WHERE queue IS NOT NULL"""  # noqa: S608
_HAS_ONE: Final = f"SELECT 1 FROM kernel_message WHERE queue = ? AND {_READY} LIMIT 1"  # noqa: S608
_NEXT_DUE: Final = "SELECT min(due) FROM kernel_message WHERE owner IS NULL AND due IS NOT NULL"
_PROMOTE: Final = """
UPDATE kernel_message SET due = NULL WHERE id IN (
    SELECT id FROM kernel_message WHERE owner IS NULL AND due IS NOT NULL AND due <= ? ORDER BY due LIMIT ?
) RETURNING queue"""
_PROMOTE_POSTGRESQL: Final = _PROMOTE.replace("LIMIT ?", "LIMIT ? FOR UPDATE SKIP LOCKED")

_FEW: Final = 8
"""Up to so many queues are asked one by one; more are found through the index."""
_PROMOTED_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a look without a lock found: which queues have something, and in how many seconds the next delay ends."""

    queues: Sequence[str]
    due_in: float


def look(tx: Transaction, queues: Sequence[str]) -> Outlook:
    """`queues` in their order, without those that are paused or have nothing to give."""
    next_due = tx.query(_NEXT_DUE)[0][0]
    return Outlook(_busy(tx, queues), math.inf if next_due is None else next_due - tx.now())


def _busy(tx: Transaction, queues: Sequence[str]) -> list[str]:
    if len(queues) <= _FEW:
        busy = [name for name in queues if tx.query(_HAS_ONE, (name,))]
    else:
        found = {row[0] for row in tx.query(_BUSY_QUEUES)}
        busy = [name for name in queues if name in found]
    if not busy:
        return busy
    paused = {row[0] for row in tx.query("SELECT name FROM kernel_queue WHERE paused = 1")}
    return [name for name in busy if name not in paused]


def promote(tx: Transaction) -> None:
    """Let delays end, in all queues: what is due now waits like any other message, and its consumers are told."""
    statement = _PROMOTE if tx.dialect == "sqlite" else _PROMOTE_POSTGRESQL
    for queue in {row[0] for row in tx.query(statement, (tx.now(), _PROMOTED_AT_ONCE))}:
        tx.ring(outbox.topic(queue))


class Claim:
    """One fetch: what is left to take, and what was taken."""

    def __init__(self, *, token: str, limit: int, max_bytes: int) -> None:
        self._consumer = 0
        self._token = token
        self._limit = limit
        self._bytes = max_bytes
        self._at = time.time()
        self.taken: list[Delivery] = []

    def take(self, tx: Transaction, consumer: int, queues: Sequence[str]) -> None:
        """Claim from each queue its share, in their order, and then whatever the others left over."""
        self._consumer = consumer
        busy = queues if len(queues) <= _FEW else _busy(tx, queues)
        again: list[str] = []
        for index, queue in enumerate(busy):
            share = -(-self._left() // (len(busy) - index))
            if self._take_from(tx, queue, share) == share > 0:
                again.append(queue)
        for queue in again:
            self._take_from(tx, queue, self._left())

    def _left(self) -> int:
        return self._limit - len(self.taken) if self._bytes > 0 or not self.taken else 0

    def _take_from(self, tx: Transaction, queue: str, share: int) -> int:
        if share <= 0:
            return 0
        before = len(self.taken)
        if tx.dialect == "sqlite":
            self._take_sqlite(tx, queue, share)
        else:
            first = not self.taken
            values = (queue, queue, share, self._consumer, self._token, self._bytes, first)
            for row in tx.query(_TAKE_POSTGRESQL, values):
                self._add(queue, row)
        return len(self.taken) - before

    def _take_sqlite(self, tx: Transaction, queue: str, share: int) -> None:
        ids: list[int] = []
        for row in _stream(tx, queue, share):
            if self.taken and row[1] > self._bytes:
                self._bytes = 0
                break
            self._add(queue, row)
            ids.append(row[0])
        if ids:
            tx.execute(_TAKE_SQLITE, (self._consumer, self._token, json.dumps(ids)))

    def _add(self, queue: str, row: Sequence[Any]) -> None:
        message = rows.message_of(row[4:])
        self._bytes -= row[1]
        token = token_of(self._token, row[0])
        self.taken.append(
            Delivery(message, queue, token, key=row[0], starts=row[2], seen=bool(row[3]), claimed_at=self._at)
        )


def token_of(batch: str, key: int) -> str:
    """The token of one claim: that of its fetch, which is what the row keeps, and the message's number."""
    return f"{batch}.{key}"


def _stream(tx: Transaction, queue: str, share: int) -> Iterator[tuple[Any, ...]]:
    """Candidates in small steps, so that a queue of large messages is not read whole to take one."""
    seen, step = 0, min(share, 100)
    while seen < share:
        found = tx.query(_CANDIDATES_SQLITE + " OFFSET ?", (queue, queue, min(step, share - seen), seen))
        yield from found
        seen += len(found)
        if len(found) < step:
            return
