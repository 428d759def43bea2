"""A server and the connections to it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from kernel import errors
from kernel_lib_redis.build import Plan
from kernel_lib_redis.faults import ConnectionLost, fault, unfitting
from kernel_lib_redis.greeting import greet
from kernel_lib_redis.link import Command, Link
from kernel_lib_redis.places import Cluster
from kernel_lib_redis.script import Script

_log = logging.getLogger("kernel.redis")

_KEPT: Final = 8
"""Connections that are kept for the next call; more are made while that many are in use."""
_CHECKED_AFTER: Final = 25.0
"""Seconds without use after which a connection is asked whether it lives, unless health_check_interval is given."""


class RedisServer:
    """A pool of connections to where the server is now, usable from any thread.

    After a broken connection no other of the pool is trusted: all are closed, and made anew when they are needed, where
    the server is by then. A process that was forked off starts with none. `options`, `tls` and `defaults` are as in
    `Plan`. Raises `ImproperlyConfigured`; nothing is connected before `open` or the first call.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        options: Mapping[str, Any] | None = None,
        setting: str = "broker_transport_options",
        tls: object = None,
        tls_setting: str = "broker_use_ssl",
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        plan = Plan(
            url,
            timeout=timeout,
            options=options or {},
            setting=setting,
            tls=tls,
            tls_setting=tls_setting,
            defaults=defaults,
        )
        self.place: Final = plan.place
        self.db: Final = plan.db
        self.options: Final[Mapping[str, Any]] = plan.options
        self.prefix: Final = plan.prefix
        self.timeout = timeout
        self.connected = 0
        """How often a connection was made: who answers on a new one may know less than who answered before."""
        self._idle_options = plan.idle
        self._check_after = plan.options.get("health_check_interval", _CHECKED_AFTER) or float("inf")
        self._most: int | None = plan.options.get("max_connections")
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        self._used = 0
        # With the time at which each was given back.
        self._idle: list[tuple[Link, float]] = []
        self._pid = os.getpid()
        self._checked = False

    @property
    def shown(self) -> str:
        return self.place.shown

    @property
    def domain(self) -> str:
        """The same text for all that can be changed by one script: a server, a database, a login, and in a cluster
        the prefix by which the node is found."""
        words = [self.shown, str(self.db), str(self.options.get("username") or "")]
        return " ".join([*words, self.prefix] if isinstance(self.place, Cluster) else words)

    def open(self) -> None:
        """Connect and see that the server is one that we can use; again it does nothing."""
        if self._checked:
            return
        for text in self._idle_options:
            _log.warning("%s", text)
        with self.link() as link:
            greet(link, moves=self.place.moves)
        self._checked = True

    def close(self) -> None:
        with self._free:
            links, self._idle = self._idle, []
        self._checked = False
        for link, _ in links:
            link.close()

    def connect(self) -> Link:
        """A connection of one's own, which is not counted and not given back."""
        try:
            link = self.place.connect()
        except errors.ImproperlyConfigured as exc:
            if not self._checked:
                raise
            # It was right before, so it is the server's side that changes: a password, a certificate, its Sentinels.
            raise errors.OperationalError(str(exc)) from exc
        self.connected += 1
        return link

    @contextmanager
    def link(self) -> Iterator[Link]:
        """A connection for the length of the block. With `max_connections` in use, it waits for one to be given back,
        for `timeout` seconds at most; then it raises `OperationalError`."""
        link = self.take()
        try:
            yield link
        except BaseException:
            # Answers may be left unread.
            link.close()
            raise
        finally:
            self.give(link)

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

    def script(
        self,
        script: Script,
        *args: object,
        fits: Callable[[Any], bool] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """Run a script once: when the connection breaks, it may have run or not. `meanwhile` is called while the server
        is at work, and must not raise.

        An answer that does not pass `fits` is another's, or a stranger's: with it the connection counts as broken.
        """
        with self.link() as link:
            reply = link.script(script, *args, meanwhile=meanwhile)
            if fits is not None and not fits(reply):
                raise unfitting(reply, link.shown)
            return reply

    def take(self) -> Link:
        """`link` for who cannot use a block: it is given back by `give`, closed if answers may be left unread."""
        found = self._reserve()
        try:
            while found is not None:
                link, since = found
                if self._lives(link, since):
                    return link
                link.close()
                found = self._pop()
            return self.connect()
        except BaseException:
            self._leave()
            raise

    def _pop(self) -> tuple[Link, float] | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _lives(self, link: Link, since: float) -> bool:
        if link.readable():
            return False
        if time.monotonic() - since < self._check_after:
            return True
        try:
            # A router on the way may have forgotten the connection: better found now than by a command that counts.
            link.call("PING")
        except errors.KernelError:
            self._discard_idle()
            return False
        return True

    def _reserve(self) -> tuple[Link, float] | None:
        """Count one more; an idle one, if there is any."""
        with self._lock:
            if self._pid != os.getpid():
                # The sockets are the parent's too; closing ours does it no harm.
                self._pid, self._idle, self._used = os.getpid(), [], 0
            if self._most is not None and not self._free.wait_for(self._has_room, self.timeout):
                raise errors.OperationalError(
                    f"all {self._most} connections to {self.shown} have been in use for {self.timeout:g} s; "
                    "raise max_connections, or use fewer threads"
                )
            self._used += 1
            return self._idle.pop() if self._idle else None

    def _has_room(self) -> bool:
        return self._most is None or self._used < self._most

    def _leave(self) -> None:
        with self._lock:
            self._left()

    def _left(self) -> None:
        self._used = max(0, self._used - 1)
        if self._most is not None:
            self._free.notify()

    def give(self, link: Link) -> None:
        """What `take` gave; a broken link takes all that are kept with it."""
        kept = False
        if link.broken:
            self._discard_idle()
        with self._lock:
            if not link.broken and len(self._idle) < min(_KEPT, self._most or _KEPT) and self._pid == os.getpid():
                self._idle.append((link, time.monotonic()))
                kept = True
            self._left()
        if not kept:
            link.close()

    def _discard_idle(self) -> None:
        with self._free:
            stale, self._idle = self._idle, []
        for link, _ in stale:
            link.close()


def _good(link: Link, replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, BaseException):
            raise fault(reply, link.shown) from reply
    return replies
