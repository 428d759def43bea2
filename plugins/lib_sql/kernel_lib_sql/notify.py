"""Bells on PostgreSQL: LISTEN on a connection of the bell's own."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from kernel import errors
from kernel_lib_sql.doorbell import no_more

if TYPE_CHECKING:
    import psycopg


class Connects(Protocol):
    def connect(self) -> psycopg.Connection[Any]: ...


def channel(topic: str) -> str:
    """A channel for any topic; two topics may share one, which costs a needless wake-up and no more."""
    return f"kernel_{zlib.crc32(topic.encode('utf-8', 'surrogatepass')):08x}"


class NotifyBell:
    """A `kernel_lib_sql.bell.Bell`. When its connection breaks it rings, for what may have been missed, and connects
    again at the next `wait`."""

    address = ""

    def __init__(self, database: Connects, closed: Callable[[NotifyBell], None]) -> None:
        self._database = database
        self._closed = closed
        self._topics: set[str] = set()
        self._lock = threading.Lock()
        self._rang = False
        self._pause = 0.0
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._waiting = 0
        self._is_closed = False
        self._connection: psycopg.Connection[Any] | None = None

    def wait(self, timeout: float) -> bool:
        with self._lock:
            if self._is_closed:
                return no_more(timeout)
            self._waiting += 1
        try:
            return self._wait(time.monotonic() + timeout)
        finally:
            with self._lock:
                self._waiting -= 1
                # The descriptors outlive the wait: their numbers might be other files' by now.
                if self._is_closed and not self._waiting:
                    self._release()

    def _wait(self, deadline: float) -> bool:
        while not self._is_closed:
            fd = self._ready(deadline)
            if fd is None:
                return True
            poll = select.poll()
            poll.register(self._reader, select.POLLIN)
            if fd >= 0:
                poll.register(fd, select.POLLIN)
            left = deadline - time.monotonic()
            ready = poll.poll(0 if self._rang else max(0.0, left) * 1000)
            if any(number == self._reader for number, _ in ready):
                self._rang = True
                with contextlib.suppress(BlockingIOError):
                    os.read(self._reader, 65536)
            if any(number == fd for number, _ in ready):
                self._drain()
            if self._rang:
                self._rang = False
                return True
            if left <= 0:
                return False
        return True

    def _ready(self, deadline: float) -> int | None:
        """The connection's descriptor; None right after connecting anew, -1 while that fails."""
        with self._lock:
            if self._is_closed:
                return None
            if self._connection is not None and not self._connection.closed:
                return self._connection.fileno()
            time.sleep(min(self._pause, max(0.0, deadline - time.monotonic())))
            try:
                self._connect()
            except errors.OperationalError:
                # Whoever waits will look, and get the error from the look.
                self._pause = min(1.0, self._pause * 2 or 0.05)
            else:
                self._pause = 0.0
        return None

    def _connect(self) -> None:
        connection = self._database.connect()
        connection.add_notify_handler(self._on_notify)
        for topic in self._topics:
            connection.execute(f"LISTEN {channel(topic)}")
        self._connection = connection

    def _on_notify(self, _: object) -> None:
        self._rang = True

    def _drain(self) -> None:
        """Take what arrived; a broken connection counts as a ring."""
        with self._lock:
            connection = self._connection
            if connection is None:
                return
            try:
                connection.pgconn.consume_input()
                while connection.pgconn.notifies() is not None:
                    self._rang = True
                if connection.pgconn.status != 0:
                    raise ConnectionError
            except Exception:
                self._rang = True
                connection.close()
                self._connection = None

    def wake(self) -> None:
        if self._writer >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._writer, b".")

    def add(self, topics: Iterable[str]) -> None:
        self._change([topic for topic in topics if topic not in self._topics], "LISTEN")

    def discard(self, topics: Iterable[str]) -> None:
        self._change([topic for topic in topics if topic in self._topics], "UNLISTEN")

    def _change(self, topics: list[str], verb: str) -> None:
        if not topics:
            return
        with self._lock:
            if self._is_closed:
                return
            before = {channel(topic) for topic in self._topics}
            self._topics = self._topics | set(topics) if verb == "LISTEN" else self._topics - set(topics)
            changed = before ^ {channel(topic) for topic in self._topics}
            if self._connection is None:
                self._connect()
            else:
                try:
                    for name in changed:
                        self._connection.execute(f"{verb} {name}")
                except Exception:
                    # The next wait connects again and listens to all of them.
                    self._connection.close()
        # What came in on the way was read by this thread, and the one that waits would not see it.
        self.wake()

    def watch(self, addresses: Iterable[str]) -> None:
        """Deaths cannot be seen through a server; leases tell of them."""

    def fileno(self) -> int:
        return self._reader

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.wake()
            if not self._waiting:
                self._release()
        self._closed(self)

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        writer, reader, self._writer, self._reader = self._writer, self._reader, -1, -1
        os.close(writer)
        os.close(reader)
