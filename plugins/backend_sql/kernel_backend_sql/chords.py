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

from kernel.interfaces.backend import ChordPart, ChordState, Record

_BYTES: Final = ("result", "args", "kwargs")
_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Record))
_THERE: Final = "length(record) > 0"
"""Not so of a member that was added and has yet to come."""
_CLEANED: Final = 20
"""Chords in one statement: each may have thousands of parts."""
_FORGOTTEN: Final = -1
"""In the place of the member that completed a chord: its parts are gone."""


def add_parts(tx: Transaction, batch: Sequence[ChordPart], tables: Tables) -> list[ChordState]:
    """Add each member once, and tell for each whether it is the one that completed its chord."""
    found: dict[int, ChordState] = {}
    # In one order for all, so that two transactions with parts of the same chords do not wait for each other.
    for key, places in sorted(_by_chord(batch).items()):
        found.update(zip(places, _add(tx, key, [batch[at] for at in places], tables), strict=True))
    return [found[at] for at in range(len(batch))]


def _by_chord(batch: Sequence[ChordPart]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for at, part in enumerate(batch):
        places.setdefault(key_of(part.chord_id), []).append(at)
    return places


def _add(tx: Transaction, key: str, parts: Sequence[ChordPart], tables: Tables) -> list[ChordState]:
    size, arrived, last = _locked(tx, key, parts[0].size, tables)
    if last == _FORGOTTEN:
        return [ChordState(False, part.size, part.size) for part in parts]
    condition, values = tx.any_of("member", [part.index for part in parts])
    present = {
        member
        for (member,) in tx.query(
            f"SELECT member FROM {tables.chord_parts} WHERE chord_id = ? AND {_THERE} AND {condition}", (key, *values)
        )
    }
    new: dict[int, ChordPart] = {}
    for part in parts:
        if part.index not in present:
            new.setdefault(part.index, part)
    if new:
        tx.many(
            f"INSERT INTO {tables.chord_parts} (chord_id, member, record) VALUES (?, ?, ?) "
            "ON CONFLICT (chord_id, member) DO UPDATE SET record = excluded.record",
            [(key, part.index, _pack(part.record)) for part in new.values()],
        )
        arrived += len(new)
        last = next(reversed(new)) if arrived == size else None
        # The date is that of the newest part: a chord is not old as long as some come.
        tx.run(
            f"UPDATE {tables.chords} SET arrived = ?, last = ?, date_made = ? WHERE chord_id = ?",
            (arrived, last, dated(tx, tx.now()), key),
        )
    found: Sequence[Record] = ()
    if last is not None and any(part.index == last for part in parts):
        rows = tx.query(
            f"SELECT record FROM {tables.chord_parts} WHERE chord_id = ? AND member >= 0 ORDER BY member", (key,)
        )
        found = [_unpack(bytes(row[0])) for row in rows]
    return [
        ChordState(True, arrived, size, found) if part.index == last else ChordState(False, arrived, size)
        for part in parts
    ]


def _locked(tx: Transaction, key: str, size: int, tables: Tables) -> tuple[int, int, int | None]:
    """Size, number of parts, and who completed it, of a chord that is made if it is not there."""
    tx.run(
        f"INSERT INTO {tables.chords} (chord_id, size, arrived, last, date_made) VALUES (?, ?, 0, NULL, ?) "
        "ON CONFLICT (chord_id) DO NOTHING",
        (key, size, dated(tx, tx.now())),
    )
    # The lock on this row makes members of one chord take turns.
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"
    (row,) = tx.query(f"SELECT size, arrived, last FROM {tables.chords} WHERE chord_id = ?{lock}", (key,))
    return row[0], row[1], row[2]


def grow(tx: Transaction, chord_id: str, size: int, index: int, tables: Tables) -> None:
    """Make room for one more member: an empty part, once."""
    key = key_of(chord_id)
    if _locked(tx, key, size, tables)[2] == _FORGOTTEN:
        return
    there = tx.query(f"SELECT member FROM {tables.chord_parts} WHERE chord_id = ? AND member = ?", (key, index))
    if not there:
        tx.run(f"INSERT INTO {tables.chord_parts} (chord_id, member, record) VALUES (?, ?, ?)", (key, index, b""))
        tx.run(f"UPDATE {tables.chords} SET size = size + 1 WHERE chord_id = ?", (key,))


def forget(tx: Transaction, chord_id: str, tables: Tables) -> None:
    """Delete the parts; the row that stays says that there were some."""
    key = key_of(chord_id)
    tx.execute(f"UPDATE {tables.chords} SET last = {_FORGOTTEN} WHERE chord_id = ?", (key,))
    tx.execute(f"DELETE FROM {tables.chord_parts} WHERE chord_id = ? AND member >= 0", (key,))


def begin_body(tx: Transaction, chord_id: str, copy: str, number: int | None, tables: Tables) -> bool:
    """Whether `copy` is the first of this task of the body; one that is the only task of it forgets the chord. First
    copies lie beside the parts, as members below 0."""
    key, member, mine = key_of(chord_id), -1 - (number or 0), copy.encode("utf-8", "surrogatepass")
    tx.run(
        # The lock on this row makes copies take turns.
        f"INSERT INTO {tables.chords} (chord_id, size, arrived, last, date_made) VALUES (?, 0, 0, {_FORGOTTEN}, ?) "
        "ON CONFLICT (chord_id) DO UPDATE SET date_made = excluded.date_made",
        (key, dated(tx, tx.now())),
    )
    tx.run(
        f"INSERT INTO {tables.chord_parts} (chord_id, member, record) VALUES (?, ?, ?) "
        "ON CONFLICT (chord_id, member) DO NOTHING",
        (key, member, mine),
    )
    ((first,),) = tx.query(f"SELECT record FROM {tables.chord_parts} WHERE chord_id = ? AND member = ?", (key, member))
    if bytes(first) != mine:
        return False
    if number is None:
        forget(tx, chord_id, tables)
    return True


def cleanup(tx: Transaction, before: float, tables: Tables) -> bool:
    """Delete some chords that nobody completed or forgot in time; whether there may be more."""
    old = tx.query(f"SELECT chord_id FROM {tables.chords} WHERE date_made < ? LIMIT {_CLEANED}", (dated(tx, before),))
    if not old:
        return False
    condition, values = tx.any_of("chord_id", [key for (key,) in old])
    for table in (tables.chord_parts, tables.chords):
        tx.execute(f"DELETE FROM {table} WHERE {condition}", values)
    return len(old) == _CLEANED


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
