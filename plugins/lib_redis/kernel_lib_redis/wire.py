"""Bytes to a server and replies from it, on the socket that a connection of redis-py's opened."""

from __future__ import annotations

import os
import select
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

from hiredis import Reader
from redis import exceptions

_ROOM: Final = 64 * 1024
_MORE: Final = object()
_MOMENT: Final = 80e-6
"""Seconds: about what it takes to fall asleep and be woken again."""
_RARELY: Final = 6
"""Where replies take longer, one in two to the power of this is looked for all the same."""


class Wire:
    """Speaks over the socket of a connected connection, which is not asked to speak any more.

    What redis-py does around each command (retries, health checks, metrics, pushes of the third protocol) costs more
    than the command, and belongs to connections that heal themselves; ours are thrown away. For one thread at a
    time. Raises redis-py's exceptions and OSError; replies are bytes, numbers, lists and None.
    """

    __slots__ = ("_buffer", "_misses", "_poller", "_reader", "_skip", "_sock", "_timeout")

    def __init__(self, connection: Any) -> None:
        self._sock: Any = connection._get_socket()
        if self._sock is None:
            raise exceptions.ConnectionError("the connection is not open")
        self._timeout: float | None = connection.socket_timeout
        self._reader: Any = Reader(
            protocolError=exceptions.InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_MORE,
        )
        self._buffer = bytearray(_ROOM)
        self._poller = select.poll()
        self._poller.register(self._sock, select.POLLIN)
        self._misses = 0
        # On a single processor whoever looks keeps the server from answering.
        self._skip = 0 if _processors() > 1 else -1

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def send_parts(self, parts: Sequence[bytes]) -> None:
        """The same of what lies in several places: long words are not copied together first."""
        sock = self._sock
        if isinstance(sock, ssl.SSLSocket):
            sock.sendall(b"".join(parts))
            return
        sent = sock.sendmsg(parts)
        if sent < sum(map(len, parts)):
            sock.sendall(memoryview(b"".join(parts))[sent:])

    def receive(self, timeout: float | None = None) -> Any:
        """The next reply; errors are raised. `timeout` in seconds, of the connection when None."""
        reply = self._reader.gets()
        if reply is _MORE:
            reply = self._read() if timeout is None else self._read_within(timeout)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def receive_soon(self) -> Any:
        """`receive` of a reply that mostly comes at once: the processor is not given up for a moment. That costs less
        than to give it up and get it back, where replies do come at once; where they do not, it is seldom tried."""
        reply = self._reader.gets()
        if reply is _MORE:
            if not self._skip:
                self._look_out()
            elif self._skip > 0:
                self._skip -= 1
            reply = self._read()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def _look_out(self) -> None:
        poll, now = self._poller.poll, time.perf_counter
        until = now() + _MOMENT
        while not poll(0):
            if now() > until:
                self._misses = min(self._misses + 1, _RARELY)
                self._skip = 1 << self._misses
                return
        self._misses = 0

    def _read_within(self, timeout: float) -> Any:
        self._sock.settimeout(timeout)
        try:
            return self._read()
        finally:
            self._sock.settimeout(self._timeout)

    def _read(self) -> Any:
        receive, reader, buffer = self._sock.recv_into, self._reader, self._buffer
        while True:
            count = receive(buffer)
            if not count:
                raise exceptions.ConnectionError("the server closed the connection")
            reader.feed(buffer, 0, count)
            reply = reader.gets()
            if reply is not _MORE:
                return reply

    def drain(self) -> list[Any]:
        """The replies that have come, errors among them, where the socket is readable or something is `pending`. The
        rest of one that has begun is not waited for."""
        found: list[Any] = []
        while True:
            count = self._sock.recv_into(self._buffer)
            if not count:
                raise exceptions.ConnectionError("the server closed the connection")
            self._reader.feed(self._buffer, 0, count)
            while (reply := self._reader.gets()) is not _MORE:
                found.append(reply)
            if not self.pending() and (count < _ROOM or not self._poller.poll(0)):
                return found

    def pending(self) -> bool:
        """Whether something lies here of which the socket tells no more."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def readable(self) -> bool:
        """Whether something waits to be read, or the connection was closed."""
        if self._reader.has_data() or self.pending():
            return True
        if self._sock.fileno() < 0:
            return True  # and its number may be another's by now
        return bool(self._poller.poll(0))

    def fileno(self) -> int:
        """-1 when it was closed."""
        return int(self._sock.fileno())


def _processors() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
