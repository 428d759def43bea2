"""One server, and what redis-py connects to it with."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis.connection as redis_connection
from redis.credentials import CredentialProvider

from kernel import errors
from kernel_lib_redis.urls import Address

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_COPIED: Final = ("socket_timeout", "socket_connect_timeout", "client_name")


@dataclass(frozen=True, slots=True)
class Target:
    """A server: how texts call it (without password), its database, and what redis-py connects with."""

    shown: str
    db: int
    factory: Any
    arguments: Mapping[str, Any]
    guard: str = ""
    """A key that never exists, for scripts to declare. While a cluster moves a slot from node to node it refuses a
    command with such a key, and so no script runs that would find one of its keys gone half-way."""

    @property
    def tls(self) -> bool:
        return self.factory is redis_connection.SSLConnection

    def connection(self) -> Any:
        """A connection of redis-py's, not connected."""
        return self.factory(**self.arguments)


@dataclass(frozen=True, slots=True)
class Manner:
    """How servers are connected to: what the options say, with `timeout` for what they leave out."""

    timeout: float
    options: Mapping[str, Any]
    tls: Mapping[str, Any] | None
    db: int
    guard: str = ""

    def tcp(self, place: tuple[str, int], shown: str) -> Target:
        arguments = {**self._arguments(), **self._keepalive(), "host": place[0], "port": place[1]}
        if self.tls is None:
            return Target(shown, self.db, redis_connection.Connection, arguments, self.guard)
        return Target(shown, self.db, redis_connection.SSLConnection, {**arguments, **self.tls}, self.guard)

    def socket(self, path: str, shown: str) -> Target:
        if self.tls is not None:
            raise errors.ImproperlyConfigured(
                f"{shown} is a socket of this machine, where there is no TLS; leave it out"
            )
        return Target(shown, self.db, redis_connection.UnixDomainSocketConnection, {**self._arguments(), "path": path})

    def _arguments(self) -> dict[str, Any]:
        options = self.options
        found: dict[str, Any] = {"socket_timeout": self.timeout, "socket_connect_timeout": self.timeout, "db": self.db}
        found.update({name: options[name] for name in _COPIED if options.get(name) is not None})
        if options.get("credential_provider") is not None:
            found["credential_provider"] = _provider(options["credential_provider"])
        else:
            found.update({name: options[name] for name in ("username", "password") if options.get(name)})
        # Replies of the second protocol are the same on every server that we know, and pub/sub needs no more.
        found.update(protocol=2, decode_responses=False)
        return found

    def _keepalive(self) -> dict[str, Any]:
        """A connection whose other end vanished without a word is found dead by the system in half a minute."""
        if self.options.get("socket_keepalive") is False:
            return {"socket_keepalive": False}
        usual = {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
        return {
            "socket_keepalive": True,
            "socket_keepalive_options": self.options.get("socket_keepalive_options") or usual,
        }


def login(options: Mapping[str, Any], address: Address) -> dict[str, Any]:
    """The options with what the URL says over them. Its login is taken as a whole."""
    found = {**options, **address.options}
    if address.username or address.password:
        found.pop("credential_provider", None)
        found.update(username=address.username, password=address.password)
    return found


def _provider(given: object) -> CredentialProvider:
    """A credential provider from an instance, a class, or the path of either."""
    found: Any = given
    if isinstance(given, str):
        module, _, name = given.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as exc:
            raise errors.ImproperlyConfigured(f"the credential provider {given!r} cannot be imported: {exc}") from exc
    if isinstance(found, type):
        found = found()
    if not isinstance(found, CredentialProvider):
        raise errors.ImproperlyConfigured(
            f"the credential provider is {type(found).__name__!r}; a redis.CredentialProvider, or its path, is needed"
        )
    return found
