"""Wakes a selector from another thread or a signal handler."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """A pair of sockets of which one is in the selector. Wakes that come before the last was read are one.

    There is no lock in it: a signal handler that wakes would wait for the very thread that it interrupted.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._awake = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the selector return. Two threads that wake at once may both send: one wake too many harms nobody."""
        if self._awake:
            return
        self._awake = True
        try:
            self._writer.send(b"w")
        except OSError:
            return  # closed: nobody waits any more

    def reset(self) -> None:
        """To be called before looking at what the wake was about.

        Read first, then clear: who wakes in between sends nothing, and what it is about is looked at next. The
        other way round its byte would be read and its mark would stay, and no later wake would be sent.
        """
        with contextlib.suppress(OSError):
            self._reader.recv(64)
        self._awake = False

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
