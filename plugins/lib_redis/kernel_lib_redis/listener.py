"""Pub/sub: a connection that listens, and can be woken by its own process."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from redis import exceptions

from kernel import errors
from kernel_lib_redis.faults import fault
from kernel_lib_redis.link import Link
from kernel_lib_redis.server import RedisServer

_AT_ONCE: Final = 1000
_LONGEST: Final = 3600.0
_ANSWERS_WITHIN: Final = 2.0
_ASKED_AFTER: Final = 5.0
"""Seconds of silence after which the server is asked whether it is there, unless health_check_interval is given."""


class Event(NamedTuple):
    """`kind` is ``message``, ``subscribe`` (the server listens for us from now on) or ``reconnect`` (what was sent
    meanwhile is lost, and every channel will be told as ``subscribe`` again)."""

    kind: str
    channel: bytes = b""
    data: bytes = b""


class Listener:
    """Channels of one connection. `read` is for one thread at a time, everything else for any.

    A broken connection is made anew by `read`, which then tells of it and asks for all channels again; so is one that
    has gone silent: on it nothing but the absence of an answer says that it is dead.
    """

    def __init__(self, server: RedisServer, patterns: Sequence[bytes] = ()) -> None:
        self._server = server
        self._patterns = tuple(patterns)
        self._channels: dict[bytes, None] = {}
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._waker, self._bell = socket.socketpair()
        self._waker.setblocking(False)
        self._bell.setblocking(False)
        self._closed = False
        self._had_link = False
        self._ask_after = server.options.get("health_check_interval", _ASKED_AFTER) or float("inf")
        self._heard = 0.0
        self._asked: float | None = None
        self._patience = min(server.timeout, _ANSWERS_WITHIN)

    def add(self, channels: Sequence[bytes]) -> None:
        """Subscribe; `read` tells when each is in force."""
        with self._lock:
            self._channels.update(dict.fromkeys(channels))
            self._tell("SUBSCRIBE", channels)

    def discard(self, channels: Sequence[bytes]) -> None:
        with self._lock:
            for channel in channels:
                self._channels.pop(channel, None)
            self._tell("UNSUBSCRIBE", channels)

    def _tell(self, verb: str, channels: Sequence[bytes]) -> None:
        if self._link is None:
            self.wake()
            return
        # A link that breaks here is found broken by `read`, which subscribes to everything again.
        with contextlib.suppress(errors.OperationalError):
            for start in range(0, len(channels), _AT_ONCE):
                self._link.send([(verb, *channels[start : start + _AT_ONCE])])

    def subscribe_now(self, channels: Sequence[bytes], timeout: float) -> None:
        """Subscribe and wait until it is in force; before anybody reads. Raises `OperationalError`."""
        self.add(channels)
        missing, deadline = set(channels), time.monotonic() + timeout
        while missing:
            if time.monotonic() > deadline:
                raise errors.OperationalError(f"{self._server.shown} did not confirm a subscription in {timeout:g} s")
            missing -= {event.channel for event in self.read(timeout) if event.kind == "subscribe"}

    def read(self, timeout: float, beside: Link | None = None) -> list[Event]:
        """What came, waiting up to `timeout` seconds for the first; nothing when it was woken, or when there is
        something to be read from `beside`.

        Raises `OperationalError` when the server cannot be reached."""
        events = self.hear(timeout, beside)
        return events if events or self._closed or not self.is_cut else self._connect()

    def hear(self, timeout: float, beside: Link | None = None) -> list[Event]:
        """As `read`, save that it makes no connection, and so waits no longer than it is told: nothing comes when
        there is none, or it broke."""
        link = self._link
        if self._closed or link is None or link.broken:
            return []
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            state = self._wait(link, min(left, self._until_check()), beside)
            if state == "ready":
                return self._receive(link)
            if state == "woken" or self._closed:
                return []
            if self._is_silent(link):
                link.close()
                return []
            if time.monotonic() >= end:
                return []

    @property
    def is_cut(self) -> bool:
        """Whether there is no connection that works."""
        return self._link is None or self._link.broken

    def cut(self) -> None:
        """Give up the connection, as if it had broken: what was read from it and told to nobody comes again."""
        link = self._link
        if link is not None:
            link.close()

    def _receive(self, link: Link) -> list[Event]:
        events: list[Event] = []
        try:
            for reply in link.drain():
                self._take(reply, events)
        except errors.OperationalError:
            # It is found broken by who reads next.
            link.close()
        self._heard, self._asked = time.monotonic(), None
        return events

    def _until_check(self) -> float:
        """Seconds until the server is to be asked, or until its answer is overdue."""
        due = self._heard + self._ask_after if self._asked is None else self._asked + self._patience
        return max(0.0, due - time.monotonic())

    def _is_silent(self, link: Link) -> bool:
        """Whether an answer is overdue; asks for one where it is time to."""
        if self._until_check() > 0:
            return False
        if self._asked is not None:
            return True
        self._asked = time.monotonic()
        # A link that breaks here is found broken by the next read.
        with contextlib.suppress(errors.OperationalError), self._lock:
            self._ask(link)
        return link.broken

    def _ask(self, link: Link) -> None:
        link.send([("PING",)])

    def _wait(self, link: Link, timeout: float, beside: Link | None) -> Literal["ready", "woken", "quiet"]:
        try:
            if link.pending():
                return "ready"
            here = link.fileno()
            poller = select.poll()
            poller.register(here, select.POLLIN)
            poller.register(self._waker.fileno(), select.POLLIN)
            if beside is not None:
                poller.register(beside.fileno(), select.POLLIN)
        except (errors.OperationalError, OSError, ValueError):
            return "quiet" if self._closed else "ready"
        # Rounded up: a wait of less than a millisecond is none.
        ready = {fd for fd, _ in poller.poll(math.ceil(min(max(0.0, timeout), _LONGEST) * 1000))}
        if self._closed:
            return "quiet"
        woken = self._waker.fileno() in ready
        if woken:
            with contextlib.suppress(OSError):
                self._waker.recv(4096)
        if link.broken or here in ready:
            return "ready"
        return "woken" if woken or ready else "quiet"

    def _take(self, reply: object, events: list[Event]) -> None:
        if isinstance(reply, exceptions.ResponseError):
            raise fault(reply, self._server.shown) from reply
        if not isinstance(reply, list) or len(reply) < 3:
            return
        if reply[0] == b"message":
            events.append(Event("message", reply[1], reply[2]))
        elif reply[0] == b"pmessage" and len(reply) > 3:
            events.append(Event("message", reply[2], reply[3]))
        elif reply[0] == b"subscribe":
            events.append(Event("subscribe", reply[1]))

    def _connect(self) -> list[Event]:
        link = self._server.connect()
        self._greet(link)
        with self._lock:
            self._link = link
            # First, so that they are in force when the channels are.
            self._tell("PSUBSCRIBE", self._patterns)
            self._tell("SUBSCRIBE", list(self._channels))
        self._heard, self._asked = time.monotonic(), None
        again, self._had_link = self._had_link, True
        return [Event("reconnect")] if again else []

    def _greet(self, link: Link) -> None:
        """What has to be said on a new connection first."""

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    def close(self) -> None:
        """A waiting `read` returns at once. The descriptors go with the last reference."""
        self._closed = True
        self.wake()
        link = self._link
        if link is not None:
            link.close()
