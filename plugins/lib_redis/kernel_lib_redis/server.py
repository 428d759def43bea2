"""A server and the connections to it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from redis.exceptions import AuthenticationError

from kernel import errors
from kernel_lib_redis.faults import ConnectionLost, connect_fault, fault
from kernel_lib_redis.link import Command, Link
from kernel_lib_redis.script import Script
from kernel_lib_redis.build import Plan

_log = logging.getLogger("kernel.redis")

_OLDEST: Final = (6, 2)
_KEPT: Final = 8
"""Connections that are kept for the next call; more are made while that many are in use."""
_UNSAFE_POLICIES: Final = ("allkeys-lru", "allkeys-lfu", "allkeys-random")


class RedisServer:
    """A pool of connections to one server, usable from any thread.

    After a broken connection no other of the pool is trusted: all are closed, and made anew when they are needed.
    A process that was forked off starts with none.
    """

    def __init__(self, url: str, *, timeout: float, options: Mapping[str, Any] | None = None) -> None:
        self.target: Target = parse(url, timeout=timeout, options=options)
        prefix = (options or {}).get("global_keyprefix") or ""
        if not isinstance(prefix, str):
            raise errors.InvalidSetting(f"global_keyprefix is {prefix!r}; a text is needed")
        self.prefix = prefix
        self.timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._pid = os.getpid()
        self._checked = False

    @property
    def shown(self) -> str:
        return self.target.shown

    def open(self) -> None:
        """Connect and see that the server is one that we can use; again it does nothing."""
        if self._checked:
            return
        with self.link() as link:
            self._greet(link)
            info = _info(link.call("INFO", "server"))
            version = tuple(int(part) for part in info.get("redis_version", "0.0").split(".")[:2] if part.isdecimal())
            if version < _OLDEST:
                raise errors.ImproperlyConfigured(
                    f"{self.shown} is Redis {info.get('redis_version')}; 6.2 or later is needed"
                )
            self._warn_of_eviction(_info(link.call("INFO", "memory")).get("maxmemory_policy", ""))
        self._checked = True

    def _greet(self, link: Link) -> None:
        """A server that wants a login says so at the first command, not when it is connected to."""
        try:
            link.call("PING")
        except errors.OperationalError as exc:
            if isinstance(exc.__cause__, AuthenticationError):
                raise connect_fault(exc.__cause__, self.shown) from exc
            raise

    def _warn_of_eviction(self, policy: str) -> None:
        if policy in _UNSAFE_POLICIES:
            _log.warning(
                "%s deletes keys when its memory is full (maxmemory-policy %s), waiting tasks among them; "
                "set maxmemory-policy noeviction",
                self.shown,
                policy,
            )

    def close(self) -> None:
        with self._lock:
            links, self._idle = self._idle, []
        self._checked = False
        for link in links:
            link.close()

    def connect(self) -> Link:
        """A connection of one's own, which is not counted and not given back."""
        return Link(self.target)

    @contextmanager
    def link(self) -> Iterator[Link]:
        """A connection for the length of the block."""
        link = self._take()
        try:
            yield link
        except BaseException:
            # Answers may be left unread.
            link.close()
            raise
        finally:
            self._give(link)

    def call(self, *command: object) -> Any:
        """One command, tried a second time when the connection broke: only for those that may be carried out twice."""
        with suppress(ConnectionLost), self.link() as link:
            return link.call(*command)
        with self.link() as link:
            return link.call(*command)

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Several such commands. Raises for the first one that the server refused."""
        with suppress(ConnectionLost), self.link() as link:
            return _good(link, link.pipeline(commands))
        with self.link() as link:
            return _good(link, link.pipeline(commands))

    def script(self, script: Script, *args: object) -> Any:
        """Run a script once: when the connection breaks, it may have run or not."""
        with self.link() as link:
            return link.script(script, *args)

    def _take(self) -> Link:
        while True:
            with self._lock:
                if self._pid != os.getpid():
                    # The sockets are the parent's too; closing ours does it no harm.
                    self._pid, self._idle = os.getpid(), []
                link = self._idle.pop() if self._idle else None
            if link is None:
                return Link(self.target)
            if not link.readable():
                return link
            link.close()

    def _give(self, link: Link) -> None:
        stale: list[Link] = []
        with self._lock:
            if link.broken:
                stale, self._idle = [link, *self._idle], []
            elif len(self._idle) < _KEPT and self._pid == os.getpid():
                self._idle.append(link)
            else:
                stale = [link]
        for each in stale:
            each.close()


def _good(link: Link, replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, BaseException):
            raise fault(reply, link.shown) from reply
    return replies


def _info(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in lines if value}
