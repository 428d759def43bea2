"""Writers of one SQLite file take turns by a lock that wakes the next one.

SQLite's own lock stays what keeps the data right. This one is for speed and fairness alone: SQLite's waiters sleep
for up to 100 ms and try again, ours are woken by the release. So nothing breaks where it cannot be had.

Whoever has the processor when the lock gets free could take it again and again while the next in line wakes up. So a
process that had its share steps back when others stand in line; not at once, since each change of hands costs time.
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
_SHARE: Final = 2
"""Turns in a row before others are let through."""
_POLITE: Final = 0.005
"""Seconds for which they are. Those in line may be frozen, and then it is in vain."""
_RUDE: Final = 1.0
"""Seconds without politeness after it was in vain."""


class Turn:
    """A lock between processes, freed by the death of its holder. One thread of a process uses it at a time."""

    def __init__(self, folder: str) -> None:
        self._lock = _open(folder, "turn.lock")
        self._line = _open(folder, "turn.line")
        self._bell = -1
        self._epoll: select.epoll | None = None
        self._in_a_row = 0
        self._rude_until = 0.0
        fifo = os.path.join(folder, "turn.bell")
        # Without FIFOs (some network and sandbox file systems) the waiters' own rechecks are what is left.
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                os.mkfifo(fifo, 0o600)
            self._bell = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def acquire(self, deadline: float) -> bool:
        """Wait for the turn until `deadline` (monotonic seconds); whether it was got."""
        polite = self._in_a_row >= _SHARE and self._others_wait()
        if not polite and _try(self._lock):
            self._in_a_row += 1
            return True
        self._in_a_row = 0
        self._stand_in_line()
        try:
            return self._wait(deadline, polite=polite)
        finally:
            self._leave_line()

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
        for fd in (self._bell, self._lock, self._line):
            if fd >= 0:
                os.close(fd)
        self._bell = self._lock = self._line = -1

    def _wait(self, deadline: float, *, polite: bool) -> bool:
        while (left := deadline - time.monotonic()) > 0:
            rang = self._sleep(min(left, _POLITE if polite else _RECHECK))
            if _try(self._lock):
                if polite and not rang:
                    self._rude_until = time.monotonic() + _RUDE
                return True
            polite = False
        return _try(self._lock)

    def _others_wait(self) -> bool:
        """Whoever stands in line shares a lock on a file of its own; it ends with its process, like every lock."""
        if time.monotonic() < self._rude_until:
            return False
        if _try(self._line):
            fcntl.flock(self._line, fcntl.LOCK_UN)
            return False
        return True

    def _stand_in_line(self) -> None:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._line, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if self._bell >= 0 and hasattr(select, "epoll"):
            if self._epoll is None:
                self._epoll = select.epoll()
            # EXCLUSIVE: one release wakes one waiter and not all of them for one to win; the first in line, because
            # one that arrives is registered behind the others.
            self._epoll.register(self._bell, select.EPOLLIN | getattr(select, "EPOLLEXCLUSIVE", 0))

    def _leave_line(self) -> None:
        if self._epoll is not None:
            self._epoll.unregister(self._bell)
        fcntl.flock(self._line, fcntl.LOCK_UN)

    def _sleep(self, seconds: float) -> bool:
        """Until a release, or for `seconds`; whether it was a release."""
        if self._bell < 0:
            time.sleep(min(seconds, 0.002))
            return True
        if self._epoll is not None:
            rang = bool(self._epoll.poll(seconds))
        else:
            rang = bool(select.select([self._bell], [], [], seconds)[0])
        if rang:
            # Rings of the past are taken away before the next try, so that the try decides and not they.
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 65536)
        return rang


def _open(folder: str, name: str) -> int:
    return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
