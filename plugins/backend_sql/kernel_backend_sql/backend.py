"""The result backend on a database, in the tables that Celery's database backend uses."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final

from kernel_lib_sql import Database, chords, database_for, records
from kernel_lib_sql.record_tables import STANDARD, Tables

from kernel.interfaces.backend import (
    INTERFACE,
    BackendCapabilities,
    BackendConfig,
    ChordPart,
    ChordState,
    Record,
    StoreOutcome,
    check_part,
)
from kernel.interfaces.setting import Setting
from kernel_backend_sql import groups
from kernel_backend_sql.watch import SqlWatch

_BATCH: Final = 500
"""Ids in one statement: more do not make it faster, and hold up others for longer."""


class SqlBackend:
    """Results in SQLite or PostgreSQL.

    The options are those of `kernel_lib_sql.database_for`. What has expired stays readable until `cleanup` deletes
    it, as with Celery. With tables of other names than the standard ones (`database_table_names`,
    `database_table_schemas`) `transaction_domain` is None, since a broker would not know where to store.
    """

    interface = INTERFACE
    capabilities = BackendCapabilities()
    settings: tuple[Setting, ...] = (
        Setting("database_table_names", "dict", None, "`{'task': name, 'group': name}`.", True),
        Setting("database_table_schemas", "dict", None, "`{'task': schema, 'group': schema}`.", True),
        Setting("database_create_tables_at_setup", "bool", True, "Create tables at start, not at first use."),
    )

    def __init__(self, config: BackendConfig) -> None:
        self._expires = config.expires
        self._chords_expire = config.expires if config.chord_expires is None else config.chord_expires
        self._database: Database = database_for(config.url, timeout=config.timeout, options=config.options)
        names, schemas = (config.settings.get(f"database_table_{kind}") for kind in ("names", "schemas"))
        self._tables = Tables.named(names, schemas, dialect=self._database.dialect)
        self._at_setup = config.settings.get("database_create_tables_at_setup", True)
        self._watches: weakref.WeakSet[SqlWatch] = weakref.WeakSet()
        self._lock = threading.Lock()

    @property
    def transaction_domain(self) -> str | None:
        return self._database.domain if self._tables == STANDARD else None

    def open(self) -> None:
        self._database.open()
        if self._at_setup:
            self._prepare()

    def close(self) -> None:
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        self._database.close()

    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        if not batch:
            return []
        self._prepare()
        with self._database.write() as tx:
            return records.store(tx, batch, self._tables)

    def load(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return []
        self._prepare()
        found: list[Record | None] = []
        for start in range(0, len(ids), _BATCH):
            with self._database.read() as tx:
                found += records.load(tx, ids[start : start + _BATCH], self._tables)
        return found

    def past(self, ids: Sequence[str]) -> Sequence[Sequence[tuple[float, Record]]]:
        """Of each id the states that are known, the oldest first, with their times (`Remembering`)."""
        if not ids:
            return []
        self._prepare()
        found: list[list[tuple[float, Record]]] = []
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            with self._database.read() as tx:
                states = records.load_past(tx, dict.fromkeys(part, 0), self._tables)
                now = records.load(tx, part, self._tables)
                dates = records.load_dates(tx, part, self._tables)
            for each, record in zip(part, now, strict=True):
                known = [*states.get(each, ()), *([] if record is None else [(dates.get(each), record)])]
                found.append([(at or 0.0, state) for at, state in known])
        return found

    def watch(self, ids: Sequence[str] = ()) -> SqlWatch:
        self._prepare()
        watch = SqlWatch(self._database, self._tables)
        with self._lock:
            self._watches.add(watch)
        watch.add(ids)
        return watch

    def forget(self, ids: Sequence[str]) -> None:
        self._prepare()
        for start in range(0, len(ids), _BATCH):
            with self._database.write() as tx:
                records.forget(tx, ids[start : start + _BATCH], self._tables)

    def save_group(self, group_id: str, document: str) -> None:
        self._prepare()
        with self._database.write() as tx:
            groups.save(tx, group_id, document, self._tables)

    def load_group(self, group_id: str) -> str | None:
        self._prepare()
        with self._database.read() as tx:
            return groups.load(tx, group_id, self._tables)

    def forget_group(self, group_id: str) -> None:
        self._prepare()
        with self._database.write() as tx:
            groups.forget(tx, group_id, self._tables)

    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[ChordState]:
        for part in batch:
            check_part(part)
        if not batch:
            return []
        self._prepare()
        with self._database.write() as tx:
            return chords.add_parts(tx, batch, self._tables)

    def grow_chord(self, chord_id: str, size: int, index: int) -> None:
        self._prepare()
        with self._database.write() as tx:
            chords.grow(tx, chord_id, size, index, self._tables)

    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        self._prepare()
        with self._database.write() as tx:
            return chords.begin_body(tx, chord_id, copy, number, self._tables)

    def cleanup(self) -> int:
        """Delete what was last changed longer ago than `expires`; how many records that were. Groups of that age go
        with them, and chords of which nothing came for `chord_expires`. In small transactions, between which others
        write."""
        self._clean_chords()
        if self._expires is None:
            return 0
        self._prepare()
        before = time.time() - self._expires
        total = 0
        while True:
            with self._database.write() as tx:
                count = records.cleanup(tx, before, self._tables)
            total += count
            if not count:
                break
        states = True
        while states:
            with self._database.write() as tx:
                states = bool(records.cleanup_history(tx, before, self._tables))
        with self._database.write() as tx:
            groups.cleanup(tx, before, self._tables)
        return total

    def _clean_chords(self) -> None:
        if self._chords_expire is None:
            return
        self._prepare()
        before, more = time.time() - self._chords_expire, True
        while more:
            with self._database.write() as tx:
                more = chords.cleanup(tx, before, self._tables)

    def _prepare(self) -> None:
        """After a fork, a close or a swapped file the tables are looked at again; otherwise this costs nothing."""
        records.prepare(self._database, self._tables)
