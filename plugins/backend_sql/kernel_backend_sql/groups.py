"""Group results, in Celery's table for them."""

# Texts are built from the names of `Tables`, which it has checked; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from kernel_lib_sql import Transaction
from kernel_lib_sql.record_tables import Tables
from kernel_lib_sql.records import dated, key_of


def save(tx: Transaction, group_id: str, document: str, tables: Tables) -> None:
    row = (document.encode("utf-8", "backslashreplace"), dated(tx, tx.now()), key_of(group_id))
    # Celery's sequence is named, because Celery makes the column without a default.
    extra, value = (", id", f", nextval('{tables.group_sequence}')") if tx.dialect == "postgresql" else ("", "")
    tx.execute(
        f"INSERT INTO {tables.groups} (result, date_done, taskset_id{extra}) VALUES (?, ?, ?{value}) "
        "ON CONFLICT (taskset_id) DO UPDATE SET result = excluded.result, date_done = excluded.date_done",
        row,
    )


def load(tx: Transaction, group_id: str, tables: Tables) -> str | None:
    rows = tx.query(f"SELECT result FROM {tables.groups} WHERE taskset_id = ?", (key_of(group_id),))
    return bytes(rows[0][0]).decode("utf-8", "replace") if rows and rows[0][0] is not None else None


def forget(tx: Transaction, group_id: str, tables: Tables) -> None:
    tx.execute(f"DELETE FROM {tables.groups} WHERE taskset_id = ?", (key_of(group_id),))


def cleanup(tx: Transaction, before: float, tables: Tables) -> None:
    tx.execute(f"DELETE FROM {tables.groups} WHERE date_done < ?", (dated(tx, before),))
