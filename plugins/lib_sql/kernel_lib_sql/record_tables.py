"""The tables of results: Celery's two, as Celery 5.7 has them, and ours beside them.

Celery's tables are shared with it: whoever comes first makes them, and both read what the other wrote. What they have
no column for (attempt, content type, group, parent) is a row in a table of our own, for the few records that need one.
Their layout is that of Celery 5.7 ``celery/backends/database/models.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from kernel import errors
from kernel_lib_sql.database import Database, Part
from kernel_lib_sql.transaction import Dialect, Transaction

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,50}")

# Columns that Celery 5.6 and older did not have, or that are there only with extended results.
_ADDED: Final = (
    ("children", "bytes"),
    ("name", "name"),
    ("args", "bytes"),
    ("kwargs", "bytes"),
    ("worker", "name"),
    ("retries", "integer"),
    ("queue", "name"),
    ("stamps", "bytes"),
)
_TYPES: Final[Mapping[str, Mapping[str, str]]] = {
    "sqlite": {
        "key": "INTEGER NOT NULL PRIMARY KEY",
        "bytes": "BLOB",
        "date": "DATETIME",
        "name": "VARCHAR(155)",
        "integer": "INTEGER",
    },
    "postgresql": {
        "key": "INTEGER NOT NULL PRIMARY KEY",
        "bytes": "BYTEA",
        "date": "TIMESTAMP WITHOUT TIME ZONE",
        "name": "VARCHAR(155)",
        "integer": "INTEGER",
    },
}


@dataclass(frozen=True)
class Tables:
    """Names of the tables, each with its schema in front where it has one."""

    task: str = "celery_taskmeta"
    group: str = "celery_tasksetmeta"
    task_schema: str = ""
    group_schema: str = ""

    @classmethod
    def named(
        cls, names: Mapping[str, str] | None = None, schemas: Mapping[str, str] | None = None, *, dialect: Dialect
    ) -> Tables:
        """The layout that the settings `database_table_names` and `database_table_schemas` ask for.

        Raises `ImproperlyConfigured` for a key other than ``task`` and ``group``, a name that is no plain
        identifier, and for schemas on SQLite, which has none.
        """
        for setting, given in (("database_table_names", names or {}), ("database_table_schemas", schemas or {})):
            for key, value in given.items():
                if key not in ("task", "group"):
                    raise errors.ImproperlyConfigured(f"{setting} has the key {key!r}; it knows 'task' and 'group'")
                if value and not _IDENTIFIER.fullmatch(value):
                    raise errors.ImproperlyConfigured(
                        f"{setting}[{key!r}] is {value!r}; a name of letters, digits and underscores is needed"
                    )
        if dialect == "sqlite" and any((schemas or {}).values()):
            raise errors.ImproperlyConfigured(
                "database_table_schemas is set, and SQLite has no schemas; use database_table_names, or PostgreSQL"
            )
        return cls(
            task=(names or {}).get("task") or cls.task,
            group=(names or {}).get("group") or cls.group,
            task_schema=(schemas or {}).get("task") or "",
            group_schema=(schemas or {}).get("group") or "",
        )

    @property
    def tasks(self) -> str:
        return self._in(self.task_schema, self.task)

    @property
    def groups(self) -> str:
        return self._in(self.group_schema, self.group)

    @property
    def extras(self) -> str:
        return self._in(self.task_schema, "kernel_" + self.task.removeprefix("celery_"))

    @property
    def history(self) -> str:
        return self.extras + "_history"

    @property
    def chords(self) -> str:
        return self._in(self.task_schema, "kernel_" + self.task.removeprefix("celery_") + "_chord")

    @property
    def chord_parts(self) -> str:
        return self.chords + "_part"

    @property
    def task_sequence(self) -> str:
        return self._in(self.task_schema, "task_id_sequence")

    @property
    def group_sequence(self) -> str:
        return self._in(self.group_schema, "taskset_id_sequence")

    @cached_property
    def part_name(self) -> str:
        """What `Database.ensure` knows these tables by; hashed, as the names may be longer than its column."""
        if self == STANDARD:
            return "records"
        return "records-" + hashlib.sha256(f"{self.tasks} {self.groups}".encode()).hexdigest()[:16]

    @staticmethod
    def _in(schema: str, name: str) -> str:
        return f"{schema}.{name}" if schema else name


STANDARD: Final = Tables()


def part(tables: Tables = STANDARD) -> Part:
    """These tables as a part of the database, for `Database.ensure`."""
    steps: list[Mapping[Dialect, Sequence[str]]] = [
        {"sqlite": step(tables, "sqlite"), "postgresql": step(tables, "postgresql")} for step in (_statements, _history)
    ]
    return Part(tables.part_name, steps)


def prepare(database: Database, tables: Tables = STANDARD) -> None:
    """Make the tables, and add the columns that an older Celery's table lacks. Called again it does nothing."""
    if tables.part_name in database._ready:
        return
    database.ensure(part(tables))
    with database.read() as tx:
        missing = _missing(tx, tables)
    if missing:
        with database.write() as tx:
            types = _TYPES[tx.dialect]
            for name, kind in _missing(tx, tables):
                tx.execute(f"ALTER TABLE {tables.tasks} ADD COLUMN {name} {types[kind]}")


def _missing(tx: Transaction, tables: Tables) -> list[tuple[str, str]]:
    if tx.dialect == "sqlite":
        rows = tx.query("SELECT name FROM pragma_table_info(?)", (tables.task,))
    else:
        rows = tx.query(
            "SELECT attname::text FROM pg_attribute "
            "WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped",
            (tables.tasks,),
        )
    found = {row[0] for row in rows}
    return [(name, kind) for name, kind in _ADDED if name not in found]


def _statements(tables: Tables, dialect: Dialect) -> list[str]:
    types = _TYPES[dialect]
    added = "".join(f", {name} {types[kind]}" for name, kind in _ADDED)
    texts = [
        (
            f"CREATE TABLE IF NOT EXISTS {tables.tasks} (id {types['key']}, task_id VARCHAR(155) UNIQUE, "
            f"status VARCHAR(50), result {types['bytes']}, date_done {types['date']}, traceback TEXT{added})"
        ),
        (
            f"CREATE TABLE IF NOT EXISTS {tables.groups} (id {types['key']}, taskset_id VARCHAR(155) UNIQUE, "
            f"result {types['bytes']}, date_done {types['date']})"
        ),
        (
            f"CREATE TABLE {tables.extras} (task_id VARCHAR(155) NOT NULL PRIMARY KEY, attempt INTEGER NOT NULL, "
            "content_type TEXT NOT NULL, content_encoding TEXT NOT NULL, group_id TEXT, parent_id TEXT)"
        ),
        (
            f"CREATE TABLE {tables.chords} (chord_id VARCHAR(155) NOT NULL PRIMARY KEY, size INTEGER NOT NULL, "
            f"arrived INTEGER NOT NULL, last INTEGER, date_made {types['date']} NOT NULL)"
        ),
        (
            f"CREATE TABLE {tables.chord_parts} (chord_id VARCHAR(155) NOT NULL, member INTEGER NOT NULL, "
            f"record {types['bytes']} NOT NULL, PRIMARY KEY (chord_id, member))"
        ),
        *(
            f"CREATE INDEX IF NOT EXISTS ix_{name}_date_done ON {table} (date_done)"
            for name, table in ((tables.task, tables.tasks), (tables.group, tables.groups))
        ),
    ]
    if dialect == "postgresql":
        # Celery takes its keys from these, and expects to find them.
        for name in (tables.task_sequence, tables.group_sequence):
            texts.insert(0, f"CREATE SEQUENCE IF NOT EXISTS {name}")
    return texts


def _history(tables: Tables, dialect: Dialect) -> list[str]:
    """States that others took the place of: a row is a copy of one of `tasks` and of what `extras` had with it."""
    types = _TYPES[dialect]
    added = "".join(f", {name} {types[kind]}" for name, kind in _ADDED)
    # The name of the index in the table's schema: no two tables there have one name either.
    name = "kernel_" + tables.task.removeprefix("celery_") + "_history"
    return [
        (
            f"CREATE TABLE {tables.history} (task_id VARCHAR(155) NOT NULL, ordinal INTEGER NOT NULL, "
            f"status VARCHAR(50), result {types['bytes']}, date_done {types['date']}, traceback TEXT{added}, "
            "attempt INTEGER NOT NULL, content_type TEXT, content_encoding TEXT, group_id TEXT, parent_id TEXT, "
            "PRIMARY KEY (task_id, ordinal))"
        ),
        f"CREATE INDEX ix_{name}_date_done ON {tables.history} (date_done)",
    ]
