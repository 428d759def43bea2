"""URLs of databases."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from kernel import errors
from kernel_lib_sql.transaction import Dialect

_PREFIXES: Final = ("sqla+", "sqlalchemy+", "db+", "sql+")
_DIALECTS: Final[dict[str, Dialect]] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
_PORTS: Final[dict[Dialect, int]] = {"sqlite": 0, "postgresql": 5432}
_PASSWORD: Final = re.compile(r"(://[^:/@]*):[^@]*@")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads. `path` is set for SQLite; `driver` is the DBAPI the URL names, or empty."""

    dialect: Dialect
    url: str
    path: str = ""
    driver: str = ""


def parse(url: str) -> Target:
    """Raises `ImproperlyConfigured` with the reason and a URL that would be right."""
    text = url
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    scheme, separator, rest = text.partition("://")
    name, _, driver = scheme.partition("+")
    dialect = _DIALECTS.get(name.lower())
    if name.lower() in ("mysql", "mariadb"):
        # Claims rest on partial indexes, RETURNING and notifications, none of which these have.
        raise errors.ImproperlyConfigured(
            f"{mask(url)!r}: MySQL and MariaDB are not supported; use postgresql://user:password@host/name, or "
            "sqlite:///jobs.db on one machine"
        )
    if not separator or dialect is None:
        raise errors.ImproperlyConfigured(
            f"{mask(url)!r} is no URL of a database; right are sqlite:///jobs.db, sqlite:////var/lib/app/jobs.db, "
            "postgresql://user:password@host/name"
        )
    if dialect == "sqlite":
        return Target("sqlite", text, _sqlite_path(url, rest))
    return Target(dialect, text, driver=driver)


def _sqlite_path(url: str, rest: str) -> str:
    path, _, query = rest.partition("?")
    host, slash, path = path.partition("/")
    if host not in ("", "localhost"):
        raise errors.ImproperlyConfigured(
            f"{url!r} names a host; SQLite is a file: sqlite:///{host}{slash}{path} is relative to the working "
            f"directory, sqlite:////{host}{slash}{path} is absolute"
        )
    path = unquote(path)
    if not path or path == ":memory:" or "mode=memory" in query:
        raise errors.ImproperlyConfigured(
            f"{url!r} is a database in memory, which other processes cannot see; name a file (sqlite:///jobs.db), or "
            "use the memory drivers (memory://)"
        )
    if "\0" in path:
        raise errors.ImproperlyConfigured(f"{url!r} has a zero byte in its path")
    return os.path.abspath(os.path.expanduser(path))


def server_domain(target: Target) -> str:
    """Host, port and name of a server's database in one spelling; who logs in and how is no part of it."""
    parts = urlsplit(target.url)
    query = parse_qs(parts.query)
    host = parts.hostname or query.get("host", ["localhost"])[0]
    port = parts.port or query.get("port", [_PORTS[target.dialect]])[0]
    same_host = "localhost" if host in ("127.0.0.1", "::1") else host.lower()
    return f"{target.dialect}://{same_host}:{port}/{unquote(parts.path.lstrip('/'))}"


def mask(url: str) -> str:
    """The URL without its password, for texts that people read."""
    return _PASSWORD.sub(r"\1:***@", url)
