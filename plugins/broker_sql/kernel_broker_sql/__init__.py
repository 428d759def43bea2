"""SQLite and PostgreSQL broker for kernel."""

from __future__ import annotations

from kernel_broker_sql.broker import SqlBroker

__all__ = ["SqlBroker"]
