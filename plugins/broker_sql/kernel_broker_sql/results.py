"""What of a settlement goes to the tables of results: records, and parts of chords."""

from __future__ import annotations

from collections.abc import Sequence

from kernel_lib_sql import Database, Transaction, chords, record_tables, records

from kernel import states
from kernel.interfaces.backend import ChordPart, Record
from kernel.interfaces.broker import Settled, Settlement


def prepare(database: Database) -> None:
    """Make the tables, which this process may never have had a backend for."""
    record_tables.prepare(database)


def store(tx: Transaction, settlements: Sequence[Settlement], ours: Sequence[int], outcomes: list[Settled]) -> set[int]:
    """Store the records and parts of chords of those at `ours`, and write down the outcomes that these decide. Returns
    the places of those whose chord was over before."""
    sizes = {part.chord_id: part.size for at in ours for part in settlements[at].parts}
    ending = [at for at in ours if settlements[at].completes]
    repeated: set[int] = set()
    locked: chords.Chords = {}
    if sizes or ending:
        ids = [settlements[at].completes for at in ending]
        locked = chords.lock(tx, sizes, ids)
        repeated = {at for at, first in zip(ending, chords.end(tx, locked, ids), strict=True) if not first}
    given = [(at, record) for at in ours if at not in repeated for record in settlements[at].records]
    if given:
        for (at, _), stored in zip(given, records.store(tx, [record for _, record in given]), strict=True):
            if stored.standing is not None and _is_of_part(stored.standing, settlements[at].parts):
                outcomes[at] = Settled.STANDING
    parts = [(at, part) for at in ours if outcomes[at] is Settled.DONE for part in settlements[at].parts]
    if parts:
        for (at, _), complete in zip(parts, chords.bring(tx, locked, [part for _, part in parts]), strict=True):
            if complete:
                outcomes[at] = Settled.JOINED
    return repeated


def _is_of_part(standing: Record, parts: Sequence[ChordPart]) -> bool:
    return standing.state in states.READY_STATES and any(part.record.id == standing.id for part in parts)
