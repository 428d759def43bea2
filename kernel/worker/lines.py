"""Log lines straight to a file descriptor: whole even when several processes share the file, and few writes for many.

Each write lets go of the interpreter, which another thread of the process then takes; with a line for each of
thousands of short tasks a second, threads would do little but hand it to one another. For the same reason nobody waits
for a lock here: two threads that both log would soon meet at it for every line (a lock that is let go belongs at once
to who waits, who has yet to get the interpreter).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from kernel.builtin.logs import LOGGER as TRACE
from kernel.log import HumanFormatter

_LOOK_SECONDS: Final = 1.0
_FULL_SECONDS: Final = 5.0
_HOLD_SECONDS: Final = 0.02
_HOLD_LINES: Final = 256
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class ProcessName(logging.Filter):
    """The name by which a process of the worker is known in its log lines."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def filter(self, record: logging.LogRecord) -> bool:
        record.processName = self.name
        return True


class LineHandler(logging.Handler):
    """Writes to a descriptor that is open already, or appends to the file of that path.

    Lines about tasks that ended well and come within 20 ms of one another are written together, at most 20 ms late;
    whatever else is logged is written at once, after them. A process that is killed loses those 20 ms.

    A file that was moved away or deleted (by logrotate, say) is opened anew within a second of its next line.
    """

    def __init__(self, target: int | str) -> None:
        super().__init__()
        self._path = target if isinstance(target, str) else None
        self._fd = os.open(target, _APPEND, 0o666) if isinstance(target, str) else target
        self._looked = time.monotonic()
        self._last = 0.0
        self._held: deque[str] = deque()
        self._writing = threading.Lock()
        self._pid = os.getpid()
        self._there_is = threading.Event()
        self._writer: threading.Thread | None = None

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """None for `emit`, which any number of threads may be in."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._put(self.format(record), may_wait=record.name == TRACE and record.levelno <= logging.INFO)
        except Exception:
            self.handleError(record)

    def takes_text(self, text: str) -> bool:
        """Log this at INFO as a record of `kernel.trace`, without making one: that is half of what a line costs. False,
        and nothing is done, where more of a record is asked for than a text: by the format, by a filter."""
        formatter, filters = self.formatter, self.filters
        if formatter.__class__ is not HumanFormatter or self.level > logging.INFO:
            return False
        if len(filters) != 1 or filters[0].__class__ is not ProcessName:
            return False
        level = logging.getLevelName(logging.INFO)  # which may have been given another name
        fields = {"created": time.time(), "levelname": level, "name": TRACE, "processName": filters[0].name}
        try:
            line = formatter.plain(text, fields)
            if line is None:
                return False
            self._put(line, may_wait=True)
        except Exception:
            self.handleError(logging.makeLogRecord({**fields, "msg": "%s", "args": (text,)}))
        return True

    def _put(self, line: str, *, may_wait: bool) -> None:
        now = time.monotonic()
        dense = now - self._last < _HOLD_SECONDS
        if self._pid != os.getpid():
            self._begin_anew()
        self._held.append(line)
        if not may_wait or not dense or len(self._held) >= _HOLD_LINES:
            self._last = now
            self._write_held()
        else:
            self._see_to_it()

    def flush(self) -> None:
        """Everything that was logged before is written, by whom ever, when this returns."""
        if self._pid != os.getpid():
            return
        if self._writing.acquire(timeout=_FULL_SECONDS):
            try:
                self._write(list(self._taken()))
            finally:
                self._writing.release()
        self._write_held()  # what came meanwhile, whose threads found the lock taken

    def close(self) -> None:
        self.flush()
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def _begin_anew(self) -> None:
        """In a process that was forked: what is held here is the parent's, who writes it."""
        self._pid = os.getpid()
        self._held = deque()
        self._writing = threading.Lock()
        self._there_is = threading.Event()
        self._writer = None

    def _see_to_it(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_late, name="kernel-log", daemon=True)
            self._writer.start()
        if not self._there_is.is_set():
            self._there_is.set()

    def _write_late(self) -> None:
        there_is = self._there_is
        while there_is.wait():
            time.sleep(_HOLD_SECONDS)
            there_is.clear()
            self.flush()

    def _write_held(self) -> None:
        """Unless somebody is at it, who then takes these lines, too."""
        while self._held and self._writing.acquire(blocking=False):
            try:
                self._write(list(self._taken()))
            finally:
                self._writing.release()

    def _taken(self) -> Iterator[str]:
        with contextlib.suppress(IndexError):
            while True:
                yield self._held.popleft()

    def _write(self, lines: Sequence[str]) -> None:
        if not lines or self._fd < 0:
            return
        if self._path is not None:
            self._look()
        data = "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        if written < len(data):
            self._write_rest(memoryview(data)[written:])

    def _write_rest(self, left: memoryview) -> None:
        """A pipe that somebody made non-blocking may be full for a while; whoever reads it may be gone for good."""
        deadline = time.monotonic() + _FULL_SECONDS
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while left and time.monotonic() < deadline:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                poll.poll(1000 * max(0.0, deadline - time.monotonic()))
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
