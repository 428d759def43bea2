"""Chords: their members' records until all are there, in tables of our own; statements inside a transaction that the
caller holds.

The result backend brings parts through here, and so does the broker's settlement when an end is one transaction.
"""

# Texts are built from the names of `Tables`, which it has checked; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kernel.interfaces.backend import ChordPart, ChordState, Record
from kernel_lib_sql.record_tables import STANDARD, Tables
from kernel_lib_sql.records import dated, key_of
from kernel_lib_sql.transaction import Transaction

_FIELDS: Final = ("id", "state", "result", "content_type", "content_encoding", "attempt")
"""What is kept of a member's record."""
Chords = dict[str, "Chord"]

_CLEANED: Final = 20
"""Chords in one statement: each may have thousands of parts."""
_FORGOTTEN: Final = -1
"""In the place of the member that completed a chord: its parts are gone."""


@dataclass(slots=True)
class Chord:
    """A chord's row, as it is while it is locked. `last` is the member that completed it."""

    size: int
    arrived: int
    last: int | None

    @property
    def is_forgotten(self) -> bool:
        return self.last == _FORGOTTEN


def lock(tx: Transaction, sizes: Mapping[str, int], others: Iterable[str] = (), tables: Tables = STANDARD) -> Chords:
    """The chords of these ids and sizes, made if they are not there, and of the ids `others` those that are; by
    `key_of` their ids.

    The lock on their rows makes members of one chord take turns. All that a transaction needs are locked together, in
    one order for all, so that two of them do not wait for each other in a circle.
    """
    sizes = {key_of(each): size for each, size in sizes.items()}
    if tx.dialect == "sqlite":
        found = _locked(tx, {*sizes, *map(key_of, others)}, tables)
        # The transaction has the file's only write lock, so nobody can come in between.
        missing = [key for key in sizes if key not in found]
    else:
        missing = list(sizes)
    if missing:
        now = dated(tx, tx.now())
        tx.many(
            f"INSERT INTO {tables.chords} (chord_id, size, arrived, last, date_made) VALUES (?, ?, 0, NULL, ?) "
            "ON CONFLICT (chord_id) DO NOTHING",
            [(key, sizes[key], now) for key in sorted(missing)],
        )
    if tx.dialect == "sqlite":
        found.update({key: Chord(sizes[key], 0, None) for key in missing})
        return found
    return _locked(tx, {*sizes, *map(key_of, others)}, tables)


def _locked(tx: Transaction, keys: Iterable[str], tables: Tables) -> Chords:
    condition, values = tx.any_of("chord_id", sorted(keys))
    order = "" if tx.dialect == "sqlite" else " ORDER BY chord_id FOR UPDATE"
    rows = tx.query(f"SELECT chord_id, size, arrived, last FROM {tables.chords} WHERE {condition}{order}", values)
    return {key: Chord(*row) for key, *row in rows}


def bring(tx: Transaction, chords: Chords, parts: Sequence[ChordPart], tables: Tables = STANDARD) -> list[bool]:
    """Add each member once, to chords that are locked; of each part whether it is of the member that completed its
    chord."""
    keys = [key_of(part.chord_id) for part in parts]
    wanted = {(key, part.index): part for key, part in zip(keys, parts, strict=True) if not chords[key].is_forgotten}
    present = _present(tx, list(wanted), tables) if wanted else set()
    new = [(place, part) for place, part in wanted.items() if place not in present]
    if new:
        tx.many(
            f"INSERT INTO {tables.chord_parts} (chord_id, member, record) VALUES (?, ?, ?) "
            "ON CONFLICT (chord_id, member) DO UPDATE SET record = excluded.record",
            [(*place, _pack(part.record)) for place, part in new],
        )
        for (key, member), _ in new:
            chord = chords[key]
            chord.arrived += 1
            chord.last = member if chord.arrived == chord.size else None
        # The date is that of the newest part: a chord is not old as long as some come.
        now = dated(tx, tx.now())
        tx.many(
            f"UPDATE {tables.chords} SET arrived = ?, last = ?, date_made = ? WHERE chord_id = ?",
            [(chords[key].arrived, chords[key].last, now, key) for key in sorted({key for (key, _), _ in new})],
        )
    return [
        not chords[key].is_forgotten and chords[key].last == part.index for key, part in zip(keys, parts, strict=True)
    ]


def _present(tx: Transaction, places: Sequence[tuple[str, int]], tables: Tables) -> set[tuple[str, int]]:
    """Those of these members, by key and index, whose parts are there."""
    if tx.dialect == "sqlite":
        wanted: list[Any] = [json.dumps(places)]
        condition = (
            f"json_each(?) AS w CROSS JOIN {tables.chord_parts} p ON p.chord_id = json_extract(w.value, '$[0]') "
            "AND p.member = json_extract(w.value, '$[1]')"
        )
    else:
        wanted = [list(column) for column in zip(*places, strict=True)]
        condition = (
            f"unnest(?::text[], ?::int[]) AS w (key, member) JOIN {tables.chord_parts} p "
            "ON p.chord_id = w.key AND p.member = w.member"
        )
    return set(tx.query(f"SELECT p.chord_id, p.member FROM {condition} WHERE length(p.record) > 0", wanted))


def add_parts(tx: Transaction, batch: Sequence[ChordPart], tables: Tables = STANDARD) -> list[ChordState]:
    """The same with all that is known of the chords then: whoever completed one gets its parts."""
    chords = lock(tx, {part.chord_id: part.size for part in batch}, tables=tables)
    states = []
    for part, complete in zip(batch, bring(tx, chords, batch, tables), strict=True):
        key = key_of(part.chord_id)
        chord = chords[key]
        if chord.is_forgotten:
            states.append(ChordState(False, part.size, part.size))
        else:
            states.append(ChordState(complete, chord.arrived, chord.size, _parts(tx, key, tables) if complete else ()))
    return states


def _parts(tx: Transaction, key: str, tables: Tables) -> list[Record]:
    rows = tx.query(
        f"SELECT record FROM {tables.chord_parts} WHERE chord_id = ? AND member >= 0 ORDER BY member", (key,)
    )
    return [_unpack(bytes(row[0])) for row in rows]


def grow(tx: Transaction, chord_id: str, size: int, index: int, tables: Tables) -> None:
    """Make room for one more member: an empty part, once."""
    key = key_of(chord_id)
    if lock(tx, {chord_id: size}, tables=tables)[key].is_forgotten:
        return
    there = tx.query(f"SELECT member FROM {tables.chord_parts} WHERE chord_id = ? AND member = ?", (key, index))
    if not there:
        tx.run(f"INSERT INTO {tables.chord_parts} (chord_id, member, record) VALUES (?, ?, ?)", (key, index, b""))
        tx.run(f"UPDATE {tables.chords} SET size = size + 1 WHERE chord_id = ?", (key,))


def forget(tx: Transaction, ids: Iterable[str], tables: Tables) -> None:
    """Delete the parts; the row that stays says that there were some."""
    condition, values = tx.any_of("chord_id", sorted({key_of(each) for each in ids}))
    tx.run(f"UPDATE {tables.chords} SET last = {_FORGOTTEN} WHERE {condition}", values)
    tx.run(f"DELETE FROM {tables.chord_parts} WHERE member >= 0 AND {condition}", values)


def end(tx: Transaction, chords: Chords, ids: Sequence[str], tables: Tables = STANDARD) -> list[bool]:
    """Forget chords that are locked; of each id whether it was not forgotten before."""
    firsts = []
    for each in ids:
        chord = chords.get(key_of(each))
        firsts.append(chord is None or not chord.is_forgotten)
        if chord is not None:
            chord.last = _FORGOTTEN
    known = [each for each, first in zip(ids, firsts, strict=True) if first]
    if known:
        forget(tx, known, tables)
    return firsts


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
        forget(tx, [chord_id], tables)
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
    """What is kept of the record, as JSON; bytes become texts of one character each."""
    fields: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS}
    fields["result"] = record.result.decode("latin-1")
    return json.dumps(fields).encode()


def _unpack(text: bytes) -> Record:
    fields = json.loads(text)
    fields["result"] = fields["result"].encode("latin-1")
    # Another version may have stored more than this one knows.
    return Record(**{name: value for name, value in fields.items() if name in _FIELDS})
