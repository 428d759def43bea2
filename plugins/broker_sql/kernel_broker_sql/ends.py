"""Settlements: the ends of claims, with whatever belongs to the same end, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kernel_lib_sql import Transaction

from kernel.interfaces.broker import Delivery, Settled, Settlement, Verdict
from kernel_broker_sql import claims, letters, outbox

_CURRENT: Final = "SELECT id, token FROM kernel_message WHERE "


def has_results(item: Settlement) -> bool:
    """Whether anything of it goes to the tables of results."""
    return bool(item.records or item.parts or item.completes)


def start(tx: Transaction, deliveries: Sequence[Delivery]) -> list[Settled]:
    """Count a start for each claim that is current and has none yet."""
    current = _current(tx, deliveries)
    done = [current.get(item.key) == item.token for item in deliveries]
    if any(done):
        condition, values = tx.any_of("id", [item.key for item, ok in zip(deliveries, done, strict=True) if ok])
        tx.run(
            f"UPDATE kernel_message SET starts = starts + 1, running = 1 WHERE running = 0 AND {condition}",  # noqa: S608
            values,
        )
    return [Settled.DONE if ok else Settled.STALE for ok in done]


def settle(tx: Transaction, settlements: Sequence[Settlement]) -> list[Settled]:
    """One outcome for each. Of those that are STALE nothing is stored and nothing sent."""
    current = _current(tx, [item.delivery for item in settlements])
    outcomes: list[Settled] = []
    for item in settlements:
        is_current = current.get(item.delivery.key) == item.delivery.token
        outcomes.append(Settled.DONE if is_current else Settled.STALE)
        if is_current:
            # Taken out, so that the same claim settled twice in one batch ends once.
            del current[item.delivery.key]
    ours = [at for at, outcome in enumerate(outcomes) if outcome is Settled.DONE]
    if not ours:
        return outcomes
    repeated: set[int] = set()
    if any(has_results(settlements[at]) for at in ours):
        # Imported for those who store results in this database, and for no other worker.
        from kernel_broker_sql import results

        repeated = results.store(tx, settlements, ours, outcomes)
    _apply(tx, [settlements[at] for at in ours if outcomes[at] is Settled.DONE])
    # After the deletes: a retry has the id of the message that it follows.
    publications = [
        each
        for at in ours
        if outcomes[at] is Settled.DONE and at not in repeated
        for each in settlements[at].publications
    ]
    if publications:
        outbox.insert(tx, publications, outbox.prepare(publications))
    return outcomes


def _apply(tx: Transaction, done: Sequence[Settlement]) -> None:
    """The verdicts."""
    _requeue(tx, [item for item in done if item.verdict is Verdict.REQUEUE])
    letters.bury(tx, [item for item in done if item.verdict is Verdict.DEAD])
    delete(tx, [item.delivery.key for item in done if item.verdict is not Verdict.REQUEUE])


def delete(tx: Transaction, ids: Sequence[int]) -> None:
    """Remove messages with their payloads."""
    if not ids:
        return
    condition, values = tx.any_of("id", ids)
    tx.run(f"DELETE FROM kernel_message WHERE {condition}", values)  # noqa: S608
    tx.run(f"DELETE FROM kernel_payload WHERE {condition}", values)  # noqa: S608


def _requeue(tx: Transaction, items: Sequence[Settlement]) -> None:
    if not items:
        return
    now = tx.now()
    tx.many(
        "UPDATE kernel_message SET owner = NULL, token = NULL, due = ?, starts = starts - running + ?, running = 0 "
        "WHERE id = ?",
        [(now + item.delay if item.delay > 0 else None, int(item.charged), item.delivery.key) for item in items],
    )
    for queue in {item.delivery.queue for item in items}:
        tx.ring(outbox.topic(queue))


def _current(tx: Transaction, deliveries: Sequence[Delivery]) -> dict[Any, str]:
    """The token of each claimed message, held against change until the transaction ends."""
    condition, values = tx.any_of("id", [item.key for item in deliveries if isinstance(item.key, int)])
    # In the order of ids, so that two batches never wait for each other in a circle.
    lock = "" if tx.dialect == "sqlite" else " ORDER BY id FOR UPDATE"
    found = tx.query(f"{_CURRENT}{condition} AND owner IS NOT NULL{lock}", values)
    return {key: claims.token_of(batch, key) for key, batch in found}
