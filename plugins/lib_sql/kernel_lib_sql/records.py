"""Results in the tables of `record_tables`: statements inside a transaction that the caller holds.

The result backend stores through here, and so does the broker's settlement when it ends a task in one transaction.
"""

# Texts are built from the names of `Tables`, which it has checked; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from kernel import errors, states
from kernel.interfaces.backend import WON, Record, StoreOutcome, StoreState, replaces
from kernel_lib_sql import history
from kernel_lib_sql.record_tables import STANDARD, Tables, part, prepare
from kernel_lib_sql.transaction import Transaction

__all__ = [
    "PART",
    "Version",
    "cleanup",
    "cleanup_history",
    "dated",
    "forget",
    "key_of",
    "load",
    "load_dates",
    "load_past",
    "load_versions",
    "load_with_versions",
    "prepare",
    "store",
    "topic_of",
]

PART: Final = part()
"""The tables under their standard names; `prepare` also mends those that an older Celery made."""

_COLUMNS: Final = (
    "task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue, stamps"
)
_PLAIN: Final = "task_id, status, result, date_done"
"""All that most records have; to bind the rest of the columns to nothing doubles the time of an insert."""
_NOTHING: Final = (None,) * 9
_SET: Final = ", ".join(f"{name} = ?" for name in _COLUMNS.split(", ")[1:])
_ALL: Final = (
    ", ".join(f"t.{name}" for name in _COLUMNS.split(", "))
    + ", x.attempt, x.content_type, x.content_encoding, x.group_id, x.parent_id"
)
_ARRAYS: Final = (
    "?::text[], ?::text[], ?::bytea[], ?::timestamp[], ?::text[], ?::bytea[], ?::text[], ?::bytea[], ?::bytea[], "
    "?::text[], ?::int[], ?::text[], ?::bytea[]"
)
_TEXT: Final = 155
"""Characters of Celery's text columns."""
_SHARDS: Final = 64
_RACES: Final = 10
_CLEANED: Final = 1000
_JSON: Final = ("application/json", "utf-8")
_PICKLE: Final = ("application/x-python-serialize", "binary")

Row = tuple[Any, ...]


def key_of(id: str) -> str:
    """What `task_id` holds for an id: itself, unless it is longer than the column or no database text."""
    if len(id) <= _TEXT and id.isascii() and "\0" not in id:
        return id
    text = _clean(id) or ""
    if len(text) <= _TEXT and text == id:
        return id
    return "sha256:" + hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


def topic_of(id: str) -> str:
    """What is rung when the record of `id` changes. Shared by many ids, so that a waiter for a thousand of them
    listens to a few topics, and one for a single id is woken for few others."""
    return f"records.{zlib.crc32(id.encode('utf-8', 'surrogatepass')) % _SHARDS}"


def store(tx: Transaction, records: Sequence[Record], tables: Tables = STANDARD) -> list[StoreOutcome]:
    """Store what may be stored (`kernel.interfaces.backend.replaces`); one outcome for each, in order.

    Watchers are rung when the transaction commits. Raises `OperationalError` when others insert the same ids
    faster than they can be looked at.
    """
    outcomes = [WON] * len(records)
    waiting = list(range(len(records)))
    for _ in range(_RACES):
        waiting = _store(tx, records, waiting, outcomes, tables)
        if not waiting:
            break
    else:
        raise errors.OperationalError(f"{len(waiting)} results are being stored by others at once; try again")
    lost = [index for index, outcome in enumerate(outcomes) if outcome is not WON]
    if lost:
        found = load(tx, [records[index].id for index in lost], tables)
        for index, record in zip(lost, found, strict=True):
            outcomes[index] = StoreOutcome(StoreState.STANDING, record)
    return outcomes


def _store(
    tx: Transaction, records: Sequence[Record], indexes: Sequence[int], outcomes: list[StoreOutcome], tables: Tables
) -> list[int]:
    """One round over `records[indexes]`; the indexes of those that somebody else inserted meanwhile."""
    keys = [key_of(records[index].id) for index in indexes]
    standing = _standing(tx, sorted(set(keys)), tables)
    latest: dict[str, tuple[str, int]] = {key: row[:2] for key, row in standing.items()}
    winners: dict[str, Record] = {}
    passed: list[tuple[str, Record]] = []
    for index, key in zip(indexes, keys, strict=True):
        record = records[index]
        if key in latest and not replaces(record.state, record.attempt, *latest[key]):
            outcomes[index] = StoreOutcome(StoreState.STANDING)
            continue
        outcomes[index] = WON
        latest[key] = record.state, record.attempt
        if key in winners:
            passed.append((key, winners[key]))
        winners[key] = record
    rows = _rows(tx, winners.items())
    lost = _insert(tx, [row for row in rows if row[0] not in standing], tables)
    changed = [(*row[1:], row[0]) for row in rows if row[0] in standing]
    if changed or passed:
        gone = [(key, record) for key, record in passed if key not in lost]
        history.keep(tx, [row[-1] for row in changed], _past_rows(tx, gone), tables)
    if changed:
        tx.many(f"UPDATE {tables.tasks} SET {_SET} WHERE task_id = ?", changed)
    _store_extras(tx, winners, {key for key, row in standing.items() if row[2]}, lost, tables)
    for key, record in winners.items():
        if key not in lost:
            tx.ring(topic_of(record.id))
    return [index for index, key in zip(indexes, keys, strict=True) if key in lost]


def _standing(tx: Transaction, keys: Sequence[str], tables: Tables) -> dict[str, tuple[str, int, bool]]:
    """State, attempt, and whether there is an extra row, of what is stored; locked where the dialect locks rows."""
    condition, values = _among(tx, "task_id", keys)
    # Writers that lock in one order wait for each other and do not deadlock.
    lock = "" if tx.dialect == "sqlite" else " ORDER BY task_id FOR UPDATE"
    rows = tx.query(f"SELECT task_id, status FROM {tables.tasks} WHERE {condition}{lock}", values)
    if not rows:
        return {}
    # Only now that the rows are locked: joined to the statement above, these would be as old as its snapshot.
    condition, values = _among(tx, "task_id", [key for key, _ in rows])
    attempts = dict(tx.query(f"SELECT task_id, attempt FROM {tables.extras} WHERE {condition}", values))
    return {key: (status or states.PENDING, attempts.get(key, 0), key in attempts) for key, status in rows}


def _insert(tx: Transaction, rows: Sequence[Row], tables: Tables) -> set[str]:
    """Insert rows that were not there a moment ago; the keys of those that are there now."""
    if not rows:
        return set()
    if tx.dialect == "sqlite":
        # The transaction has the file's only write lock, so nobody can have come in between.
        for columns, batch in (
            (_PLAIN, [row[:4] for row in rows if row[4:] == _NOTHING]),
            (_COLUMNS, [row for row in rows if row[4:] != _NOTHING]),
        ):
            if batch:
                marks = ", ".join("?" * len(batch[0]))
                tx.many(f"INSERT INTO {tables.tasks} ({columns}) VALUES ({marks})", batch)
        return set()
    ordered = sorted(rows, key=lambda row: row[0])
    inserted = tx.query(
        f"INSERT INTO {tables.tasks} (id, {_COLUMNS}) SELECT nextval('{tables.task_sequence}'), new.* "
        f"FROM unnest({_ARRAYS}) AS new ON CONFLICT (task_id) DO NOTHING RETURNING task_id",
        [list(column) for column in zip(*ordered, strict=True)],
    )
    return {row[0] for row in rows} - {key for (key,) in inserted}


def _store_extras(
    tx: Transaction, winners: Mapping[str, Record], had: set[str], lost: set[str], tables: Tables
) -> None:
    """What Celery's table has no column for, of the records that have any of it or whose predecessor had."""
    rows = [
        (key, r.attempt, r.content_type, r.content_encoding, _clean(r.group_id), _clean(r.parent_id))
        for key, r in winners.items()
        if key not in lost
        and (key in had or r.attempt or r.group_id or r.parent_id or (r.content_type, r.content_encoding) != _JSON)
    ]
    if rows:
        tx.many(
            f"INSERT INTO {tables.extras} (task_id, attempt, content_type, content_encoding, group_id, parent_id) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (task_id) DO UPDATE SET attempt = excluded.attempt, "
            "content_type = excluded.content_type, content_encoding = excluded.content_encoding, "
            "group_id = excluded.group_id, parent_id = excluded.parent_id",
            rows,
        )


def _past_rows(tx: Transaction, records: Sequence[tuple[str, Record]]) -> list[tuple[str, Row]]:
    extras = [
        (r.attempt, r.content_type, r.content_encoding, _clean(r.group_id), _clean(r.parent_id)) for _, r in records
    ]
    return [(row[0], (*row[1:], *extra)) for row, extra in zip(_rows(tx, records), extras, strict=True)]


def _rows(tx: Transaction, records: Iterable[tuple[str, Record]]) -> list[Row]:
    now = tx.now()
    as_date = _sqlite_dates() if tx.dialect == "sqlite" else _date
    rows: list[Row] = []
    for key, r in records:
        # Celery dates every change, and deletes by this date.
        date = as_date(now if r.date_done is None else r.date_done)
        rest: Row = (r.traceback, r.children, r.name, r.args, r.kwargs, r.worker, r.retries, r.queue, r.stamps)
        rows.append((key, _name(r.state, 50), r.result, date, *(rest if rest == _NOTHING else _storable(*rest))))
    return rows


def _storable(
    traceback: str | None, children: str | None, name: str | None, args: bytes | None, kwargs: bytes | None,
    worker: str | None, retries: int | None, queue: str | None, stamps: str | None,
) -> Row:  # fmt: skip
    """The columns that few records have, as they are stored."""
    texts = _clean(traceback), _encoded(children), _name(name)
    return *texts, args, kwargs, _name(worker), retries, _name(queue), _encoded(stamps)


def load(tx: Transaction, ids: Sequence[str], tables: Tables = STANDARD) -> list[Record | None]:
    """The record of each id, in order; those that Celery wrote too."""
    keys = [key_of(each) for each in ids]
    condition, values = _among(tx, "t.task_id", sorted(set(keys)))
    rows = tx.query(
        f"SELECT {_ALL} FROM {tables.tasks} t LEFT JOIN {tables.extras} x ON x.task_id = t.task_id WHERE {condition}",
        values,
    )
    found = {row[0]: row for row in rows}
    return [_record(each, found[key]) if key in found else None for each, key in zip(ids, keys, strict=True)]


class Version(NamedTuple):
    """Differs whenever the record was changed. `number` counts the states before it that history has."""

    number: int
    state: str | None
    date: datetime | str | None


def load_versions(tx: Transaction, ids: Sequence[str], tables: Tables = STANDARD) -> dict[str, Version]:
    """For each id that has a record its `Version`."""
    keys = {key_of(each): each for each in ids}
    condition, values = _among(tx, "t.task_id", sorted(keys))
    rows = tx.query(
        f"SELECT t.task_id, {_number(tables)}, t.status, t.date_done FROM {tables.tasks} t WHERE {condition}", values
    )
    return {keys[row[0]]: Version._make(row[1:]) for row in rows}


def load_with_versions(
    tx: Transaction, ids: Sequence[str], tables: Tables = STANDARD
) -> dict[str, tuple[Version, Record]]:
    """Both, in one statement."""
    keys = {key_of(each): each for each in ids}
    condition, values = _among(tx, "t.task_id", sorted(keys))
    rows = tx.query(
        f"SELECT {_ALL}, {_number(tables)} FROM {tables.tasks} t LEFT JOIN {tables.extras} x "
        f"ON x.task_id = t.task_id WHERE {condition}",
        values,
    )
    found = {}
    for row in rows:
        each = keys[row[0]]
        found[each] = Version(row[-1], row[1], row[3]), _record(each, row[:-1])
    return found


def _number(tables: Tables) -> str:
    return f"COALESCE((SELECT max(h.ordinal) + 1 FROM {tables.history} h WHERE h.task_id = t.task_id), 0)"


def load_past(
    tx: Transaction, firsts: Mapping[str, int], tables: Tables = STANDARD
) -> dict[str, list[tuple[float | None, Record]]]:
    """The states that `ids` went through before the one that stands, the oldest first, each with the Unix time at
    which it was stored: of each id those from a number on, where 0 is the first."""
    keys = {key_of(each): each for each in firsts}
    found: dict[str, list[tuple[float | None, Record]]] = {}
    for key, row in history.load(tx, {key: firsts[each] for key, each in keys.items()}, tables):
        found.setdefault(keys[key], []).append((_seconds(row[2]), _record(keys[key], (key, *row))))
    return found


def load_dates(tx: Transaction, ids: Sequence[str], tables: Tables = STANDARD) -> dict[str, float | None]:
    """For each id that has a record the Unix time at which that was stored."""
    return {each: _seconds(version.date) for each, version in load_versions(tx, ids, tables).items()}


def forget(tx: Transaction, ids: Iterable[str], tables: Tables = STANDARD) -> None:
    keys = sorted({key_of(each) for each in ids})
    condition, values = _among(tx, "task_id", keys)
    for table in (tables.tasks, tables.extras, tables.history):
        tx.execute(f"DELETE FROM {table} WHERE {condition}", values)


def cleanup(tx: Transaction, before: float, tables: Tables = STANDARD) -> int:
    """Delete up to a thousand records last changed before `before` (Unix seconds); how many that were.

    A few at a time, because writers wait meanwhile: call it until it returns 0.
    """
    limit = dated(tx, before)
    rows = tx.query(
        f"SELECT task_id FROM {tables.tasks} WHERE date_done < ? ORDER BY date_done LIMIT {_CLEANED}", (limit,)
    )
    if rows:
        condition, values = _among(tx, "task_id", [key for (key,) in rows])
        for table in (tables.tasks, tables.extras, tables.history):
            tx.execute(f"DELETE FROM {table} WHERE {condition}", values)
    return len(rows)


def cleanup_history(tx: Transaction, before: float, tables: Tables = STANDARD) -> int:
    """The same for states that were left: of records that still change, and of those that Celery deleted."""
    return history.cleanup(tx, dated(tx, before), tables, most=_CLEANED)


def _among(tx: Transaction, column: str, keys: Sequence[str]) -> tuple[str, list[Any]]:
    """A condition that `column` is one of `keys`. On PostgreSQL a join: before a new table is first analyzed, the
    planner compares each of its rows with each element of an array."""
    if tx.dialect == "sqlite":
        return tx.any_of(column, keys)
    return f"{column} IN (SELECT unnest(?::text[]))", [list(keys)]


def _record(id: str, row: Row) -> Record:
    _, state, result, date, traceback, children, name, args, kwargs, worker, retries, queue, stamps = row[:13]
    attempt, content_type, encoding, group_id, parent_id = row[13:]
    if result is None:
        result = b"null"
    elif isinstance(result, str):
        result = result.encode()
    if content_type is None:
        # Celery before 5.7 pickled everything; a pickle begins with this byte, and JSON never does.
        content_type, encoding = _PICKLE if result[:1] == b"\x80" else _JSON
    return Record(
        id=id,
        state=state or states.PENDING,
        result=bytes(result),
        content_type=content_type,
        content_encoding=encoding,
        traceback=traceback,
        children=None if children is None else bytes(children).decode("utf-8", "replace"),
        date_done=_seconds(date) if state in states.READY_STATES else None,
        group_id=group_id,
        parent_id=parent_id,
        attempt=attempt or 0,
        name=name,
        args=args,
        kwargs=kwargs,
        worker=worker,
        retries=retries,
        queue=queue,
        stamps=None if stamps is None else bytes(stamps).decode("utf-8", "replace"),
    )


def dated(tx: Transaction, seconds: float) -> datetime | str:
    """Unix seconds as the dialect's date columns take them: UTC, without a zone."""
    return _sqlite_dates()(seconds) if tx.dialect == "sqlite" else _date(seconds)


def _clean(text: str | None) -> str | None:
    """`text` as any database takes it: a traceback may hold half a character or a zero byte, and must not be lost."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _name(text: str | None, limit: int = _TEXT) -> str | None:
    return text if text is None else (_clean(text) or "")[:limit]


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "backslashreplace")


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _sqlite_dates() -> Callable[[float], str]:
    """Dates as SQLAlchemy writes them for SQLite, always with six digits, so that texts sort as dates do."""
    texts: dict[int, str] = {}

    def text(seconds: float) -> str:
        whole, rest = divmod(seconds, 1)
        second = texts.get(int(whole))
        if second is None:
            # A batch ends within a second or two: most of the work is done once.
            second = texts[int(whole)] = _date(whole).isoformat(" ")
        return f"{second}.{int(rest * 1_000_000):06d}"

    return text


def _seconds(date: datetime | str | None) -> float | None:
    if date is None:
        return None
    moment = datetime.fromisoformat(date) if isinstance(date, str) else date
    return moment.replace(tzinfo=UTC).timestamp()
