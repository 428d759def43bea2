"""Chords: their members' records until all are there, in tables of our own."""

# Texts are built from the names of `Tables`, which it has checked; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

from kernel_lib_sql import Transaction
from kernel_lib_sql.record_tables import Tables
from kernel_lib_sql.records import dated, key_of

from kernel.interfaces.backend import ChordState, Record

_BYTES: Final = ("result", "args", "kwargs")
_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Record))
_CLEANED: Final = 1000


def add_part(tx: Transaction, chord_id: str, size: int, index: int, record: Record, tables: Tables) -> ChordState:
    """Add a member once, and tell whether it is the one that completed the chord."""
    key = key_of(chord_id)
    tx.execute(
        f"INSERT INTO {tables.chords} (chord_id, size, arrived, last, date_made) VALUES (?, ?, 0, NULL, ?) "
        "ON CONFLICT (chord_id) DO NOTHING",
        (key, size, dated(tx, tx.now())),
    )
    # The lock on this row makes members of one chord take turns.
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"
    ((arrived, last),) = tx.query(f"SELECT arrived, last FROM {tables.chords} WHERE chord_id = ?{lock}", (key,))
    added = tx.execute(
        f"INSERT INTO {tables.chord_parts} (chord_id, member, record) VALUES (?, ?, ?) "
        "ON CONFLICT (chord_id, member) DO NOTHING",
        (key, index, _pack(record)),
    )
    if added:
        arrived += 1
        last = index if arrived == size else None
        tx.execute(f"UPDATE {tables.chords} SET arrived = ?, last = ? WHERE chord_id = ?", (arrived, last, key))
    if last != index:
        return ChordState(False, arrived, size)
    rows = tx.query(f"SELECT record FROM {tables.chord_parts} WHERE chord_id = ? ORDER BY member", (key,))
    return ChordState(True, arrived, size, [_unpack(bytes(row[0])) for row in rows])


def forget(tx: Transaction, chord_ids: Sequence[str], tables: Tables) -> None:
    condition, values = tx.any_of("chord_id", [key_of(each) for each in chord_ids])
    for table in (tables.chord_parts, tables.chords):
        tx.execute(f"DELETE FROM {table} WHERE {condition}", values)


def cleanup(tx: Transaction, before: float, tables: Tables) -> None:
    """Delete up to a thousand chords that nobody completed or forgot in time."""
    old = tx.query(f"SELECT chord_id FROM {tables.chords} WHERE date_made < ? LIMIT {_CLEANED}", (dated(tx, before),))
    if old:
        forget(tx, [key for (key,) in old], tables)


def _pack(record: Record) -> bytes:
    """The record as JSON; bytes become texts of one character each."""
    fields: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS}
    fields.update({name: fields[name].decode("latin-1") for name in _BYTES if fields[name] is not None})
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def _unpack(text: bytes) -> Record:
    fields = json.loads(text)
    fields.update({name: fields[name].encode("latin-1") for name in _BYTES if name in fields})
    # A later version may have stored more than this one knows.
    return Record(**{name: value for name, value in fields.items() if name in _FIELDS})
