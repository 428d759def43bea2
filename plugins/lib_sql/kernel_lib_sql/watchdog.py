"""Deadlines for calls that have none: a connection that is silent for too long is cut."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator


class Watchdog:
    """One thread for all guarded calls of a database; it sleeps until the first deadline, not for each call."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._guarded: dict[int, tuple[float, int]] = {}
        self._number = 0
        self._next = math.inf
        self._thread: threading.Thread | None = None
        self._stopping = False

    @contextlib.contextmanager
    def guard(self, fd: int, deadline: float) -> Iterator[None]:
        """Within the block, shut the socket `fd` down at `deadline` (monotonic seconds)."""
        with self._condition:
            self._number += 1
            number = self._number
            self._guarded[number] = (deadline, fd)
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._run, name="kernel-sql-deadlines", daemon=True)
                self._thread.start()
            # Deadlines mostly come in order, and then the thread wakes up early enough by itself.
            if deadline < self._next:
                self._condition.notify()
        try:
            yield
        finally:
            with self._condition:
                del self._guarded[number]

    def stop(self) -> None:
        with self._condition:
            thread, self._thread = self._thread, None
            self._stopping = True
            self._condition.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)

    def _run(self) -> None:
        with self._condition:
            while not self._stopping:
                now = time.monotonic()
                for number, (deadline, fd) in tuple(self._guarded.items()):
                    if deadline <= now:
                        self._guarded[number] = (math.inf, fd)
                        _cut(fd)
                self._next = min((deadline for deadline, _ in self._guarded.values()), default=math.inf)
                self._condition.wait(None if self._next == math.inf else max(0.0, self._next - now))


def _cut(fd: int) -> None:
    # On a copy of the descriptor, so that closing this object leaves the owner's open.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_RDWR)
