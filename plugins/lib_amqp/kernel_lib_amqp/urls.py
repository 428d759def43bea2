"""Where the servers are, from the URLs that Celery users write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kombu.utils.url import parse_url

from kernel import errors
from kernel_lib_amqp.tls import tls_options

_SCHEMES: Final = ("amqp", "amqps", "pyamqp")
_PASSWORD: Final = re.compile(r"(://[^:@/?#]*):[^@/]*@")
_PORT: Final = 5672
_TLS_PORT: Final = 5671
_HOST_AND_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Target:
    """One server: how texts call it (without password), and what a connection to it needs. `tls` is None without
    TLS, else py-amqp's options for it; the certificate is verified unless they say otherwise."""

    shown: str
    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: Mapping[str, Any] | None
    heartbeat: float | None = None


def parse(urls: str, *, options: Mapping[str, Any] | None = None) -> tuple[Target, ...]:
    """The servers behind ``amqp://``, ``amqps://`` or ``pyamqp://``, in the order in which they are tried; several
    are separated by ``;``, and one that names only a host takes the rest from the first.

    `options` are the transport options; ``ssl`` among them (what Celery calls `broker_use_ssl`) is True or a
    dictionary of ca_certs, certfile, keyfile, cert_reqs, ciphers, server_hostname. Raises `ImproperlyConfigured`.
    """
    found: list[Target] = []
    for url in urls.split(";"):
        text = url.strip()
        if not text:
            continue
        if found and "://" not in text:
            text = _like(urls.split(";", maxsplit=1)[0].strip(), text)
        found.append(_target(text, options or {}))
    if not found:
        raise errors.ImproperlyConfigured(f"{urls!r} names no server; write amqp://user:password@host:5672/vhost")
    return tuple(found)


def _like(first: str, host: str) -> str:
    scheme, _, rest = first.partition("://")
    where, slash, path = rest.partition("/")
    login, at, _ = where.rpartition("@")
    return f"{scheme}://{login}{at}{host}{slash}{path}"


def _target(url: str, options: Mapping[str, Any]) -> Target:
    scheme, shown = url.partition(":")[0], mask(url)
    if scheme not in _SCHEMES:
        raise errors.ImproperlyConfigured(
            f"{shown!r} is no URL of a RabbitMQ server; it begins with one of {', '.join(f'{s}://' for s in _SCHEMES)}"
        )
    try:
        parts: Mapping[str, Any] = parse_url(url)
        host, port = parts["hostname"] or "localhost", parts["port"]
        heartbeat = float(parts["heartbeat"]) if parts.get("heartbeat") else None
    except (ValueError, KeyError, TypeError) as exc:
        raise errors.ImproperlyConfigured(
            f"{shown!r} cannot be read: {exc}; write amqp://user:password@host:5672/vhost"
        ) from exc
    tls = tls_options(options.get("ssl"), host, wanted=scheme == "amqps" or bool(parts.get("ssl")))
    number = int(port or (_PORT if tls is None else _TLS_PORT))
    if not 0 < number <= _HOST_AND_PORT:
        raise errors.ImproperlyConfigured(f"{shown!r}: the port is {number}; a number from 1 to 65535 is needed")
    return Target(
        shown=shown,
        host=host,
        port=number,
        user=parts["userid"] or "guest",
        password=parts["password"] or "guest",
        vhost=parts["virtual_host"] or "/",
        tls=tls,
        heartbeat=heartbeat,
    )


def mask(url: str) -> str:
    """The URL without its password, for texts that people read."""
    return _PASSWORD.sub(r"\1:***@", url)
