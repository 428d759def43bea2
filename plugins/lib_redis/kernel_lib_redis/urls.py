"""Where servers are, from the URLs that Celery users write."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from kernel import errors
from kernel_lib_redis.options import URL_OPTIONS, from_text, nearest

_EXAMPLE: Final = "redis://user:password@host:6379/0"
_ESCAPES: Final = "a password with one of : / ? # @ in it is written with %3A %2F %3F %23 %40"
_SECRET: Final = re.compile(r"([?&](?:password|ssl_password|ssl_ca_data)=)[^&;#]*", re.IGNORECASE)


class Kind(enum.Enum):
    """What is at the hosts of a URL."""

    SERVER = "server"
    SOCKET = "socket"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES: Final[Mapping[str, tuple[Kind, bool]]] = {
    "redis": (Kind.SERVER, False),
    "rediss": (Kind.SERVER, True),
    "redis+socket": (Kind.SOCKET, False),
    "socket": (Kind.SOCKET, False),
    "unix": (Kind.SOCKET, False),
    "sentinel": (Kind.SENTINEL, False),
    "redis+cluster": (Kind.CLUSTER, False),
    "rediss+cluster": (Kind.CLUSTER, True),
}
_PORTS: Final = {Kind.SERVER: 6379, Kind.CLUSTER: 6379, Kind.SENTINEL: 26379}


@dataclass(frozen=True, slots=True)
class Address:
    """One part of a URL: `options` are those of its query. What it does not name is None."""

    kind: Kind
    tls: bool
    shown: str
    host: str | None = None
    port: int | None = None
    path: str = ""
    db: int | None = None
    username: str | None = None
    password: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port, with the usual ones for what is left out."""
        return self.host or "localhost", self.port or _PORTS[self.kind]


def parse(url: str) -> tuple[Address, ...]:
    """The addresses of a URL, or of several that are joined by ``;``; all of one kind.

    Raises `ImproperlyConfigured` for what is no such URL; its text has no password in it.
    """
    first, *others = [part for part in url.split(";") if part] or [""]
    scheme = first.partition("://")[0]
    parts = [first, *(part if "://" in part else f"{scheme}://{part}" for part in others)]
    addresses = tuple(_parse(part) for part in parts)
    if len({(address.kind, address.tls) for address in addresses}) > 1:
        raise errors.ImproperlyConfigured(
            f"{mask(url)!r} mixes kinds of addresses; all parts of one URL begin with the same scheme"
        )
    if len(addresses) > 1 and addresses[0].kind is Kind.SOCKET:
        raise errors.ImproperlyConfigured(f"{mask(url)!r} names several sockets; one is the most")
    return addresses


def _parse(url: str) -> Address:
    scheme, found, _ = url.partition("://")
    if not found or scheme.lower() not in _SCHEMES:
        raise errors.ImproperlyConfigured(
            f"{mask(url)!r} is no URL of a Redis server; it begins with one of {', '.join(f'{s}://' for s in _SCHEMES)}"
        )
    kind, tls = _SCHEMES[scheme.lower()]
    try:
        return _address(url, kind, tls)
    except ValueError as exc:
        raise errors.ImproperlyConfigured(f"{mask(url)!r} cannot be read: {exc}") from None


def _address(url: str, kind: Kind, tls: bool) -> Address:
    parts = urlsplit(url)
    if kind is not Kind.SOCKET and "@" not in parts.netloc and "@" in url:
        # Whatever is said of the pieces would show some of the password.
        raise ValueError(f"there is an @ behind the host; {_ESCAPES}")
    options = _query(parts.query)
    db = options.pop("db", None)
    path = ""
    if kind is Kind.SOCKET:
        path = unquote(parts.netloc.rpartition("@")[2] + parts.path)
        if not path.strip("/"):
            raise ValueError("a path is needed: redis+socket:///path/to.sock?virtual_host=0")
    elif (given := unquote(parts.path).strip("/")) != "":
        if not given.isdecimal():
            raise ValueError(f"the database is {given!r}, and a number is needed; write {_EXAMPLE}")
        db = int(given)
    if kind is Kind.CLUSTER and db:
        raise ValueError(f"it names database {db}, and a cluster has 0 alone")
    return Address(
        kind, tls, mask(url),
        host=None if kind is Kind.SOCKET else _host(parts.hostname),
        port=None if kind is Kind.SOCKET else _port(parts.netloc),
        path=path,
        db=db,
        username=unquote(parts.username) if parts.username else options.pop("username", None),
        password=unquote(parts.password) if parts.password else options.pop("password", None),
        options=options,
    )  # fmt: skip


def _host(host: str | None) -> str | None:
    return unquote(host) if host else None


def _port(netloc: str) -> int | None:
    """Of the part behind the login: an error names nothing else, since the rest may be a piece of a password."""
    text = netloc.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ValueError(f"what stands behind the host is no port; write {_EXAMPLE}, and {_ESCAPES}")
    return int(text)


def _query(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        known = "db" if name == "virtual_host" else name
        if known not in URL_OPTIONS:
            raise ValueError(f"there is no parameter {name!r}{nearest(name, (*URL_OPTIONS, 'virtual_host'))}")
        found[known] = from_text(known, text.strip("/") if known == "db" else text)
    return found


def mask(url: str) -> str:
    """The URL without its passwords, for texts that people read."""
    return ";".join(_SECRET.sub(r"\1***", _mask(part)) for part in url.split(";"))


def _mask(part: str) -> str:
    """Also where the password has characters in it that end it for a parser of URLs."""
    scheme, found, rest = part.partition("://")
    if not found:
        return part.rpartition("@")[2]
    head, mark, query = rest.partition("?")
    if "@" in head:
        login, _, place = head.rpartition("@")
    elif "@" in rest and ":" in head:
        login, _, place = rest.rpartition("@")
        mark = query = ""
    else:
        host = re.split("[/#]", head, maxsplit=1)[0].rpartition("]")[2]
        name, colon, port = host.partition(":")
        return f"{scheme}://{name}:***" if colon and not port.isdecimal() else part
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}:***@{place}{mark}{query}" if colon else part
