"""The connection of an inbox, lent to the caller that waits.

Where one thread calls and waits for the result, again and again, a reply that another thread reads for it comes one
wake-up of a thread later. So the caller reads by itself, and the inbox's thread stays away as long as that goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from typing import Final

from kernel import errors

_KEPT_SECONDS: Final = 0.5
"""Who waited this long ago may wait again; after that the thread reads again, and hears what becomes of the server."""
_RETURN_SECONDS: Final = 5.0

Read = Callable[[float], None]
"""Read for at most so many seconds, and see to what came."""


class Loan:
    """Lent to one waiting caller at a time, and only while nobody else waits: the thread reads for all of them as soon
    as there are several. `nudge` ends a wait for the server."""

    def __init__(self, nudge: Callable[[], None]) -> None:
        self._nudge = nudge
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Threads, by their numbers: an interrupt in the middle of anything must not count one twice.
        self._waiting: set[int] = set()
        self._reader: int | None = None
        self._read: Read | None = None
        self._wanted = False
        self._recalled = False
        self._left_at = -inf
        self._fault: Exception | None = None

    # --- callers ------------------------------------------------------------------------------------------------

    def enter(self) -> Read | None:
        """This thread begins to wait, and calls `leave` in the end; what to read with, when nobody else reads."""
        me = threading.get_ident()
        with self._lock:
            self._waiting.add(me)
            if self._read is not None and self._reader is None and len(self._waiting) == 1:
                self._reader = me
                return self._read
        return None

    def stands(self, read: Read) -> bool:
        """Whether it may go on reading."""
        return self._read is read

    def give_back(self, fault: Exception | None = None) -> None:
        """It reads no more, whether it waits or not. The inbox's thread is told of a `fault`."""
        with self._lock:
            if self._reader != threading.get_ident():
                return
            self._reader = None
            if fault is not None:
                self._fault, self._read = fault, None
            if self._read is None:
                self._changed.notify_all()

    def leave(self) -> None:
        """It waits no more. Who comes often is lent to; for who waits still, the inbox's thread reads."""
        self.give_back()
        now = time.monotonic()
        with self._lock:
            self._waiting.discard(threading.get_ident())
            often = now - self._left_at < _KEPT_SECONDS
            self._left_at = now
            if self._waiting:
                self._end()
            if self._waiting or self._read is not None or self._wanted or not often:
                return
            self._wanted = True
        self._nudge()

    # --- the inbox's thread -------------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        return self._wanted

    def lend(self, read: Read, *, until: float) -> None:
        """Returns when it was recalled, when nobody uses it any more, or at `until` (monotonic). Raises what a caller
        met, and `OperationalError` when one does not give it back."""
        with self._lock:
            if self._recalled:
                self._recalled = False
                return  # before it was lent
            self._wanted = False
            if self._waiting:
                return  # for what the thread reads
            self._read = read
            while self._read is not None:
                now = time.monotonic()
                end = until if self._waiting else min(until, self._left_at + _KEPT_SECONDS)
                if now >= end:
                    break
                self._changed.wait(min(end - now, _KEPT_SECONDS))
            self._read, self._recalled = None, False
            self._await_return()
            fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _await_return(self) -> None:
        deadline = time.monotonic() + _RETURN_SECONDS
        while self._reader is not None:
            self._nudge()
            self._changed.wait(0.1)
            if time.monotonic() > deadline:
                self._reader = None
                raise errors.OperationalError(f"a thread has read replies for {_RETURN_SECONDS:g} s on end")

    def recall(self) -> None:
        """The thread has something to ask of the server."""
        with self._lock:
            self._recalled = True
            self._end()

    def _end(self) -> None:
        if self._read is not None:
            self._read = None
            self._changed.notify_all()
