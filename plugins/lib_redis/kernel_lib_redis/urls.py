"""Where the server is, from the URLs that Celery users write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import redis.connection as redis_connection
from redis import exceptions

from kernel import errors

_SCHEMES: Final = ("redis", "rediss", "redis+socket", "unix")
_PASSWORD: Final = re.compile(r"(://[^:@/?#]*):[^@/]*@")
_SOCKET_OPTIONS: Final = (
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "username",
    "password",
    "client_name",
)
_CERTIFICATES: Final = {"CERT_NONE": "none", "CERT_OPTIONAL": "optional", "CERT_REQUIRED": "required"}


@dataclass(frozen=True, slots=True)
class Target:
    """A server: how texts call it (without password), its database, and what redis-py connects with."""

    shown: str
    db: int
    factory: Any
    arguments: Mapping[str, Any]

    def connection(self) -> Any:
        """A connection of redis-py's, not connected."""
        return self.factory(**self.arguments)


def parse(url: str, *, timeout: float, options: Mapping[str, Any] | None = None) -> Target:
    """The server behind ``redis://``, ``rediss://`` or ``redis+socket://`` (``unix://``).

    Raises `ImproperlyConfigured` for what is no such URL.
    """
    scheme = url.partition(":")[0]
    shown = mask(url)
    if scheme not in _SCHEMES:
        raise errors.ImproperlyConfigured(
            f"{shown!r} is no URL of a Redis server; it begins with one of {', '.join(f'{s}://' for s in _SCHEMES)}"
        )
    try:
        arguments = _socket_arguments(url) if scheme in ("redis+socket", "unix") else _tcp_arguments(url)
    except (ValueError, exceptions.RedisError) as exc:
        raise errors.ImproperlyConfigured(
            f"{shown!r} cannot be read: {exc}; write redis://user:password@host:6379/0"
        ) from exc
    factory = arguments.pop("connection_class", redis_connection.Connection)
    arguments = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **arguments}
    arguments.update({name: (options or {})[name] for name in _SOCKET_OPTIONS if (options or {}).get(name) is not None})
    # Replies of the second protocol are the same on every server that we know, and pub/sub needs no more.
    arguments.update(protocol=2, decode_responses=False)
    return Target(shown, int(arguments.get("db") or 0), factory, arguments)


def _tcp_arguments(url: str) -> dict[str, Any]:
    path = urlsplit(url).path.strip("/")
    if path and not path.isdecimal():
        raise ValueError(f"the database is {path!r}; a number is needed")
    arguments: dict[str, Any] = {"host": "localhost", "port": 6379, **_parse(url)}
    if "ssl_cert_reqs" in arguments:
        arguments["ssl_cert_reqs"] = _CERTIFICATES.get(arguments["ssl_cert_reqs"], arguments["ssl_cert_reqs"])
    return arguments


def _parse(url: str) -> dict[str, Any]:
    parse_url: Any = redis_connection.parse_url
    found: dict[str, Any] = parse_url(url)
    return found


def _socket_arguments(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    db = (query.get("virtual_host") or query.get("db") or ["0"])[0].strip("/")
    if not parts.path or not db.isdecimal():
        raise ValueError("a path is needed, and a number as virtual_host: redis+socket:///path/to.sock?virtual_host=0")
    arguments: dict[str, Any] = {
        "connection_class": redis_connection.UnixDomainSocketConnection,
        "path": unquote(parts.path),
        "db": int(db),
    }
    if parts.username:
        arguments["username"] = unquote(parts.username)
    if password := parts.password or query.get("password", [""])[0]:
        arguments["password"] = unquote(password)
    return arguments


def mask(url: str) -> str:
    """The URL without its password, for texts that people read."""
    masked = _PASSWORD.sub(r"\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", masked)
