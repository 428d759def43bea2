"""Writers of one SQLite file take turns by a lock that wakes the next one.

SQLite's own lock stays what keeps the data right. This one is for speed and fairness alone: SQLite's waiters sleep
for up to 100 ms and try again, ours are woken by the release. So nothing breaks where it cannot be had.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from typing import Final

_RECHECK: Final = 0.05
"""Seconds after which a waiter looks for itself: a holder that was killed frees the lock and rings nobody."""


class Turn:
    """A lock between processes, freed by the death of its holder. One thread of a process uses it at a time."""

    def __init__(self, folder: str) -> None:
        self._lock = os.open(os.path.join(folder, "turn.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._bell = -1
        self._epoll: select.epoll | None = None
        fifo = os.path.join(folder, "turn.bell")
        # Without FIFOs (some network and sandbox file systems) the waiters' own rechecks are what is left.
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                os.mkfifo(fifo, 0o600)
            self._bell = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def acquire(self, deadline: float) -> bool:
        """Wait for the turn until `deadline` (monotonic seconds); whether it was got."""
        while not self._try():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._wait(min(left, _RECHECK))
        return True

    def release(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        if self._bell >= 0:
            # A full pipe is as good as a ring: whoever waits finds it readable.
            with contextlib.suppress(BlockingIOError):
                os.write(self._bell, b".")

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        for fd in (self._bell, self._lock):
            if fd >= 0:
                os.close(fd)
        self._bell = self._lock = -1

    def _try(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(self, seconds: float) -> None:
        if self._bell < 0:
            time.sleep(min(seconds, 0.002))
            return
        if self._poll(seconds):
            # Rings of the past are taken away before the next try, so that the try decides and not they.
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 65536)

    def _poll(self, seconds: float) -> bool:
        if not hasattr(select, "epoll"):
            return bool(select.select([self._bell], [], [], seconds)[0])
        if self._epoll is None:
            self._epoll = select.epoll()
            # EXCLUSIVE: one release wakes one waiter, not all of them for one to win.
            self._epoll.register(self._bell, select.EPOLLIN | getattr(select, "EPOLLEXCLUSIVE", 0))
        return bool(self._epoll.poll(seconds))
