"""Log lines straight to a file descriptor: one write for each, whole even when several processes share the file."""

from __future__ import annotations

import logging
import os
import select
import time
from typing import Final

_LOOK_SECONDS: Final = 1.0
_FULL_SECONDS: Final = 5.0


class LineHandler(logging.Handler):
    """Writes to a descriptor that is open already, or appends to the file of that path.

    A file that was moved away or deleted (by logrotate, say) is opened anew within a second of its next line.
    """

    def __init__(self, target: int | str) -> None:
        super().__init__()
        self._path = target if isinstance(target, str) else None
        self._fd = os.open(target, _APPEND, 0o666) if isinstance(target, str) else target
        self._looked = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._path is not None:
                self._look()
            data = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            written = os.write(self._fd, data)
            if written < len(data):
                self._write_rest(memoryview(data)[written:])
        except BlockingIOError:
            self._write_rest(memoryview(data))
        except Exception:
            self.handleError(record)

    def _write_rest(self, left: memoryview) -> None:
        """A pipe that somebody made non-blocking may be full for a while; whoever reads it may be gone for good."""
        deadline = time.monotonic() + _FULL_SECONDS
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while left and time.monotonic() < deadline:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                poll.poll(1000 * (deadline - time.monotonic()))
            except OSError:
                return

    def _look(self) -> None:
        """See whether the path still leads to the open file."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS or self._path is None:
            return
        self._looked = now
        try:
            there, ours = os.stat(self._path), os.fstat(self._fd)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        except FileNotFoundError:
            pass
        fd = os.open(self._path, _APPEND, 0o666)
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
