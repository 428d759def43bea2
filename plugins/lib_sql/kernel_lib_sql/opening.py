"""Which database a URL means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernel_lib_sql import urls
from kernel_lib_sql.database import Database


def database_for(url: str, *, timeout: float = 4.0, options: Mapping[str, Any] | None = None) -> Database:
    """The database of a URL: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``postgresql://...``, also
    with ``sqla+`` or ``db+`` in front. No I/O. Raises `ImproperlyConfigured`."""
    target = urls.parse(url)
    if target.dialect == "sqlite":
        from kernel_lib_sql.sqlite import SqliteDatabase

        return SqliteDatabase(target.path, timeout=timeout, options=options or {})
    # Imported here: SQLAlchemy costs a worker on SQLite twenty megabytes that it has no use for.
    from kernel_lib_sql.server import ServerDatabase

    return ServerDatabase(target, timeout=timeout, options=options or {})
