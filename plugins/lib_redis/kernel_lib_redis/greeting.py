"""The first words with a server: whether it is one that we can use."""

from __future__ import annotations

import logging
from typing import Final

from redis.exceptions import AuthenticationError, NoPermissionError

from kernel import errors
from kernel_lib_redis.faults import connect_fault
from kernel_lib_redis.link import Link

_log = logging.getLogger("kernel.redis")

OLDEST: Final = (6, 2)
"""`RPOP` and `LMOVE` as the scripts use them came with it."""
EVICTING: Final = ("allkeys-lru", "allkeys-lfu", "allkeys-random")


def greet(link: Link, *, moves: bool) -> None:
    """Raises `ImproperlyConfigured` for a server that cannot be used, and `OperationalError` for one that cannot be
    used now. `moves` says that the place is one that asks where the server is."""
    try:
        link.call("PING")
        facts = info(link.call("INFO"))
    except errors.OperationalError as exc:
        # A server that wants a login says so at the first command, not when it is connected to.
        if isinstance(exc.__cause__, AuthenticationError | NoPermissionError):
            raise connect_fault(exc.__cause__, link.shown) from exc
        raise
    check_version(facts.get("redis_version", ""), link.shown)
    check_mode(facts.get("redis_mode", ""), link.shown, moves=moves)
    policy = facts.get("maxmemory_policy", "")
    if policy in EVICTING:
        _log.warning(
            "%s deletes keys when its memory is full (maxmemory-policy %s), waiting tasks among them; "
            "set maxmemory-policy noeviction",
            link.shown,
            policy,
        )


def info(text: bytes) -> dict[str, str]:
    """The answer to ``INFO``, by name."""
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in lines if value}


def check_version(text: str, shown: str) -> None:
    version = tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
    if version < OLDEST:
        raise errors.ImproperlyConfigured(
            f"{shown} is Redis {text or 'of an unknown version'}; {'.'.join(map(str, OLDEST))} or later is needed"
        )


def check_mode(mode: str, shown: str, *, moves: bool) -> None:
    if mode == "sentinel":
        raise errors.ImproperlyConfigured(
            f"{shown} is a Sentinel and keeps no data; write sentinel:// in place of redis://, "
            "with the option master_name"
        )
    if mode == "cluster" and not moves:
        raise errors.ImproperlyConfigured(
            f"{shown} is a node of a cluster; write redis+cluster:// in place of redis://, and the option "
            "global_keyprefix with a part in braces, such as {'global_keyprefix': '{shop}'}"
        )
