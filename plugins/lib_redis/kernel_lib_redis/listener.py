"""Pub/sub: a connection that listens, and can be woken by its own process."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from redis import exceptions

from kernel import errors
from kernel_lib_redis.link import Link
from kernel_lib_redis.server import RedisServer

_AT_ONCE: Final = 1000


class Event(NamedTuple):
    """`kind` is ``message``, ``subscribe`` (the server listens for us from now on) or ``reconnect`` (what was sent
    meanwhile is lost, and every channel will be told as ``subscribe`` again)."""

    kind: str
    channel: bytes = b""
    data: bytes = b""


class Listener:
    """Channels of one connection. `read` is for one thread at a time, everything else for any.

    A broken connection is made anew by `read`, which then tells of it and asks for all channels again.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._channels: dict[bytes, None] = {}
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._waker, self._bell = socket.socketpair()
        self._waker.setblocking(False)
        self._bell.setblocking(False)
        self._closed = False
        self._had_link = False

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
        if self._link is not None and channels:
            # A link that breaks here is found broken by `read`, which subscribes to everything again.
            with contextlib.suppress(errors.OperationalError):
                for start in range(0, len(channels), _AT_ONCE):
                    self._link.send([(verb, *channels[start : start + _AT_ONCE])])
        else:
            self.wake()

    def subscribe_now(self, channels: Sequence[bytes], timeout: float) -> None:
        """Subscribe and wait until it is in force; before anybody reads. Raises `OperationalError`."""
        self.add(channels)
        missing, deadline = set(channels), time.monotonic() + timeout
        while missing:
            if time.monotonic() > deadline:
                raise errors.OperationalError(f"{self._server.shown} did not confirm a subscription in {timeout:g} s")
            missing -= {event.channel for event in self.read(timeout) if event.kind == "subscribe"}

    def read(self, timeout: float) -> list[Event]:
        """What came, waiting up to `timeout` seconds for the first; nothing when it was woken.

        Raises `OperationalError` when the server cannot be reached."""
        link = self._link
        if self._closed:
            return []
        if link is None or link.broken:
            return self._connect()
        if not link.readable() and not self._wait(link, timeout):
            return []
        events: list[Event] = []
        try:
            while link.readable():
                self._take(link.receive(), events)
        except (errors.OperationalError, exceptions.ResponseError):
            link.close()
            if not events:
                return self._connect()
        return events

    def _wait(self, link: Link, timeout: float) -> bool:
        try:
            poller = select.poll()
            poller.register(link.fileno(), select.POLLIN)
            poller.register(self._waker.fileno(), select.POLLIN)
            ready = {fd for fd, _ in poller.poll(max(0.0, timeout) * 1000)}
        except (errors.OperationalError, OSError, ValueError):
            return not self._closed
        if self._closed:
            return False
        if self._waker.fileno() in ready:
            with contextlib.suppress(OSError):
                self._waker.recv(4096)
        return link.broken or bool(ready - {self._waker.fileno()})

    def _take(self, reply: object, events: list[Event]) -> None:
        if not isinstance(reply, list) or len(reply) < 3:
            return
        if reply[0] == b"message":
            events.append(Event("message", reply[1], reply[2]))
        elif reply[0] == b"subscribe":
            events.append(Event("subscribe", reply[1]))

    def _connect(self) -> list[Event]:
        link = self._server.connect()
        with self._lock:
            self._link = link
            self._tell("SUBSCRIBE", list(self._channels))
        again, self._had_link = self._had_link, True
        return [Event("reconnect")] if again else []

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
