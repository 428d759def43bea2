"""What the SQL broker, result backend and scheduler share: connections, schema, wake-ups, statements.

Start at `database_for`, which makes a `Database` of a URL.
"""

from __future__ import annotations

from kernel_lib_sql.bell import Bell
from kernel_lib_sql.database import Database, Part
from kernel_lib_sql.faults import CommitUnknown, DatabaseDamaged, ReadOnly, SchemaTooNew
from kernel_lib_sql.opening import database_for
from kernel_lib_sql.transaction import Transaction

__all__ = [
    "Bell",
    "CommitUnknown",
    "Database",
    "DatabaseDamaged",
    "Part",
    "ReadOnly",
    "SchemaTooNew",
    "Transaction",
    "database_for",
]
