"""Wakes a selector from another thread."""

from __future__ import annotations

import socket
import threading


class Waker:
    """A pair of sockets of which one is in the selector. Wakes that come before the last was read are one."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._lock = threading.Lock()
        self._awake = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        if self._awake:
            return
        with self._lock:
            if self._awake:
                return
            self._awake = True
            try:
                self._writer.send(b"w")
            except OSError:
                return  # closed: nobody waits any more

    def reset(self) -> None:
        """To be called before looking at what the wake was about."""
        with self._lock:
            self._awake = False
            try:
                self._reader.recv(64)
            except OSError:
                return

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
