"""What a task's record was before it became what it is: one row for each state that another one took the place of.

A record that nothing stood before costs nothing here, so a task without states in between leaves no row. The rows of a
task are numbered from 0 and the record that stands has the next number. The newest thousand are kept.
"""

# Texts are built from the names of `Tables`, which it has checked; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from kernel_lib_sql.record_tables import Tables
from kernel_lib_sql.transaction import Transaction

KEPT: Final = 1000
"""States of one task: a task that reports for ever must not fill the disk."""
_TRIMMED: Final = 100
_STORED: Final = "status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue, stamps"
_EXTRA: Final = "attempt, content_type, content_encoding, group_id, parent_id"
COLUMNS: Final = f"{_STORED}, {_EXTRA}"

Row = tuple[Any, ...]


def keep(tx: Transaction, standing: Iterable[str], passed: Sequence[tuple[str, Row]], tables: Tables) -> None:
    """Copy the records that stand under the keys `standing`, which are about to be replaced; behind them go
    `passed`, states that are no sooner there than gone: a key and the values of `COLUMNS`."""
    keys = [*standing]
    before = next_numbers(tx, {*keys, *(key for key, _ in passed)}, tables)
    numbers = dict(before)
    copies: list[Row] = []
    for key in keys:
        number = numbers.get(key, 0)
        numbers[key] = number + 1
        copies.append((number, key))
    if copies:
        stored = ", ".join(f"t.{name}" for name in _STORED.split(", "))
        tx.many(
            f"INSERT INTO {tables.history} (task_id, ordinal, {COLUMNS}) "
            f"SELECT t.task_id, CAST(? AS INTEGER), {stored}, COALESCE(x.attempt, 0), x.content_type, "
            f"x.content_encoding, x.group_id, x.parent_id FROM {tables.tasks} t "
            f"LEFT JOIN {tables.extras} x ON x.task_id = t.task_id WHERE t.task_id = ?",
            copies,
        )
    rows: list[Row] = []
    for key, row in passed:
        number = numbers.get(key, 0)
        numbers[key] = number + 1
        rows.append((key, number, *row))
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        tx.many(f"INSERT INTO {tables.history} (task_id, ordinal, {COLUMNS}) VALUES ({marks})", rows)
    # Not at each state: a hundred are deleted at once.
    long = [
        (key, number - KEPT)
        for key, number in numbers.items()
        if number > KEPT and number // _TRIMMED > before.get(key, 0) // _TRIMMED
    ]
    if long:
        tx.many(f"DELETE FROM {tables.history} WHERE task_id = ? AND ordinal < ?", long)


def next_numbers(tx: Transaction, keys: Iterable[str], tables: Tables) -> dict[str, int]:
    """The number of the record that stands, of the keys that have a history."""
    condition, values = _among(tx, sorted(keys))
    rows = tx.query(
        f"SELECT task_id, max(ordinal) + 1 FROM {tables.history} WHERE {condition} GROUP BY task_id", values
    )
    return dict(rows)


def load(tx: Transaction, firsts: Mapping[str, int], tables: Tables) -> list[tuple[str, Row]]:
    """The key and the values of `COLUMNS` of each state, by its number, from the number that `firsts` has for a key."""
    if not firsts:
        return []
    columns = ", ".join(f"h.{name}" for name in COLUMNS.split(", "))
    if tx.dialect == "sqlite":
        wanted: list[Any] = [json.dumps(list(firsts.items()))]
        source = (
            f"json_each(?) AS w CROSS JOIN {tables.history} h ON h.task_id = json_extract(w.value, '$[0]') "
            "AND h.ordinal >= json_extract(w.value, '$[1]')"
        )
    else:
        wanted = [list(firsts), list(firsts.values())]
        source = (
            f"unnest(?::text[], ?::int[]) AS w (task_id, first) JOIN {tables.history} h "
            "ON h.task_id = w.task_id AND h.ordinal >= w.first"
        )
    rows = tx.query(f"SELECT h.task_id, {columns} FROM {source} ORDER BY h.task_id, h.ordinal", wanted)
    return [(row[0], row[1:]) for row in rows]


def cleanup(tx: Transaction, before: Any, tables: Tables, *, most: int) -> int:
    """Delete up to `most` states that are older than the date `before`: also those of records that others deleted."""
    return tx.execute(
        f"DELETE FROM {tables.history} WHERE (task_id, ordinal) IN "
        f"(SELECT task_id, ordinal FROM {tables.history} WHERE date_done < ? ORDER BY date_done LIMIT {most})",
        (before,),
    )


def _among(tx: Transaction, keys: Sequence[str]) -> tuple[str, list[Any]]:
    # On PostgreSQL a join, as for records: the planner compares each row of a new table with each element of an array.
    if tx.dialect == "sqlite":
        return tx.any_of("task_id", keys)
    return "task_id IN (SELECT unnest(?::text[]))", [list(keys)]
