"""SQLite and PostgreSQL result backend for kernel."""

from __future__ import annotations

from kernel_backend_sql.backend import SqlBackend

__all__ = ["SqlBackend"]
