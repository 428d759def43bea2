"""One lease for each consumer, and taking over from those who no longer have one.

A claim carries no deadline of its own: it is good while its consumer's row is. Renewing is one narrow row, however
much is claimed, and the claims of a consumer end together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kernel_lib_sql import Database, Transaction, clock

from kernel_broker_sql import outbox

_RELEASE: Final = "UPDATE kernel_message SET owner = NULL, token = NULL, running = 0"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another consumer, with the seconds that its lease has left."""

    id: int
    bell: str
    left: float


def _clock(tx: Transaction) -> tuple[float, str]:
    """The time that leases are compared with, and the era it belongs to."""
    if tx.dialect == "sqlite":
        # All owners share this host, and its uptime takes no part in steps of the wall clock.
        return clock.uptime(), clock.boot_id()
    return tx.now(), ""


def register(tx: Transaction, *, owner: str, queues: Sequence[str], bell: str, lease: float) -> int:
    now, boot = _clock(tx)
    rows = tx.query(
        "INSERT INTO kernel_consumer (owner, queues, bell, boot, lease, since) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (owner, json.dumps(list(queues)), bell, boot, now + lease, tx.now()),
    )
    return int(rows[0][0])


def renew(tx: Transaction, consumer: int, lease: float) -> bool:
    """Extend it; whether it was still running. One that others took over from stays away."""
    now, boot = _clock(tx)
    in_time = tx.execute(
        "UPDATE kernel_consumer SET lease = ? WHERE id = ? AND boot = ? AND lease > ?",
        (now + lease, consumer, boot, now),
    )
    if not in_time:
        tx.execute("UPDATE kernel_consumer SET lease = ? WHERE id = ? AND boot = ?", (now + lease, consumer, boot))
    return bool(in_time)


def is_registered(tx: Transaction, consumer: int) -> bool:
    """Whether its claims are still its own; if so, nobody takes over from it before this transaction ends."""
    lock = "" if tx.dialect == "sqlite" else " FOR SHARE"
    return bool(tx.query(f"SELECT 1 FROM kernel_consumer WHERE id = ?{lock}", (consumer,)))  # noqa: S608


def peers(tx: Transaction, consumer: int) -> list[Peer]:
    """All consumers but this one; those of an earlier start of the host have nothing left."""
    now, boot = _clock(tx)
    rows = tx.query("SELECT id, bell, boot, lease FROM kernel_consumer WHERE id <> ?", (consumer,))
    return [Peer(row[0], row[1], row[3] - now if row[2] == boot else 0.0) for row in rows]


def take_over(tx: Transaction, database: Database, consumer: int) -> None:
    """Free the claims of every consumer whose lease ran out or whose process is gone."""
    # Asked again inside this transaction: since the look that led here, they may have been renewed.
    gone = [peer.id for peer in peers(tx, consumer) if peer.left <= 0 or database.is_dead(peer.bell)]
    if gone:
        release(tx, gone, expired_only=tx.dialect != "sqlite")


def release(tx: Transaction, consumers: Sequence[int], *, keep_starts: bool = True, expired_only: bool = False) -> None:
    """Forget these consumers and give back what they have claimed.

    With `keep_starts` what they recorded as started stays counted, which is right for the dead alone.
    """
    condition, values = tx.any_of("id", consumers)
    late = " AND lease <= ?" if expired_only else ""
    deleted = tx.query(
        f"DELETE FROM kernel_consumer WHERE {condition}{late} RETURNING id",  # noqa: S608
        [*values, *([tx.now()] if expired_only else [])],
    )
    # Only now: a claim that was under way held the consumer's row, and is visible to this statement.
    if not deleted:
        return
    condition, values = tx.any_of("owner", [row[0] for row in deleted])
    recorded = "" if keep_starts else ", starts = starts - running"
    for queue in {row[0] for row in tx.query(f"{_RELEASE}{recorded} WHERE {condition} RETURNING queue", values)}:
        tx.ring(outbox.topic(queue))


def give_back(tx: Transaction, consumer: int, tokens: Sequence[str]) -> None:
    """Give back what this consumer claimed in these fetches, uncharged: nothing of it was started."""
    condition, values = tx.any_of("token", tokens)
    rows = tx.query(f"{_RELEASE} WHERE owner = ? AND {condition} RETURNING queue", [consumer, *values])
    for queue in {row[0] for row in rows}:
        tx.ring(outbox.topic(queue))
