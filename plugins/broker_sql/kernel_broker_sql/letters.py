"""Dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from kernel_lib_sql import Transaction

from kernel.interfaces.broker import DeadLetter, Settlement
from kernel.message import Message, Publication
from kernel_broker_sql import outbox, rows

_BURY: Final = f"""
INSERT INTO kernel_dead (letter, task, queue, reason, died_at, starts, priority, {rows.PAYLOAD})
SELECT ?, ?, m.queue, ?, ?, m.starts - m.running + ?, m.priority, {rows.PAYLOAD}
FROM kernel_message m JOIN kernel_payload p ON p.id = m.id WHERE m.id = ?"""  # noqa: S608
_LETTER: Final = f"SELECT letter, task, queue, reason, died_at, starts, {rows.PAYLOAD} FROM kernel_dead"  # noqa: S608
_MAX_REASON: Final = 4000


def bury(tx: Transaction, items: Sequence[Settlement]) -> None:
    """Copy messages to the dead letters; the caller deletes them in the same transaction."""
    if not items:
        return
    now = time.time()
    names = _names(tx, [rows.id_of(item.delivery.message) or "unreadable" for item in items])
    values = [
        (name, rows.task_of(item.delivery.message), _text(item.reason), now, int(item.charged), item.delivery.key)
        for name, item in zip(names, items, strict=True)
    ]
    tx.many(_BURY, values)


def _text(reason: str) -> str:
    clean = reason.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= _MAX_REASON else clean[: _MAX_REASON - 3] + "..."


def _names(tx: Transaction, wanted: Sequence[str]) -> list[str]:
    """A name for each letter that no other has: the id of its task, or that with a number behind it."""
    condition, values = tx.any_of("letter", sorted(set(wanted)))
    taken = {row[0] for row in tx.query(f"SELECT letter FROM kernel_dead WHERE {condition}", values)}  # noqa: S608
    number = 0
    names: list[str] = []
    for name in wanted:
        if name in taken:
            number = number or 1 + (tx.query("SELECT max(id) FROM kernel_dead")[0][0] or 0)
            name = f"{name}.{number}"
            number += 1
        taken.add(name)
        names.append(name)
    return names


def list_letters(tx: Transaction, queue: str | None, limit: int) -> list[DeadLetter]:
    if queue is None:
        found = tx.query(f"{_LETTER} ORDER BY id DESC LIMIT ?", (limit,))
    else:
        found = tx.query(f"{_LETTER} WHERE queue = ? ORDER BY id DESC LIMIT ?", (queue, limit))
    return [
        DeadLetter(
            id=row[0],
            task=row[1],
            queue=row[2],
            reason=row[3],
            died_at=row[4],
            starts=row[5],
            message=rows.message_of(row[6:]),
        )
        for row in found
    ]


def retry(tx: Transaction, names: Iterable[str]) -> int:
    """Put letters back as new messages."""
    condition, values = tx.any_of("letter", list(dict.fromkeys(names)))
    found = tx.query(
        f"SELECT id, queue, priority, {rows.PAYLOAD} FROM kernel_dead WHERE {condition} ORDER BY id",  # noqa: S608
        values,
    )
    publications = [_publication(row) for row in found]
    outbox.insert(tx, publications, outbox.prepare(publications))
    return _drop(tx, [row[0] for row in found])


def _publication(row: Sequence[Any]) -> Publication:
    message: Message = rows.message_of(row[3:])
    return Publication(message.replayed(), row[1], priority=row[2])


def _drop(tx: Transaction, ids: Sequence[int]) -> int:
    condition, values = tx.any_of("id", ids)
    return tx.execute(f"DELETE FROM kernel_dead WHERE {condition}", values)  # noqa: S608


def drop(tx: Transaction, names: Iterable[str]) -> int:
    condition, values = tx.any_of("letter", list(dict.fromkeys(names)))
    return tx.execute(f"DELETE FROM kernel_dead WHERE {condition}", values)  # noqa: S608
