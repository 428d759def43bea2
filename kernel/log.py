"""Logging of tasks: a logger for them, the two formats, and what tasks print.

Nothing here runs at import, and nothing touches the root logger: whoever starts a process calls what it needs.
Control characters in messages are escaped, so that what a stranger put into a message cannot forge a log line.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TextIO

from kernel.request import running_request
from kernel.saferepr import safe_repr

TASK_LOGGER: Final = "kernel.task"
REDIRECTED_LOGGER: Final = "kernel.redirected"

WORKER_FORMAT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
TASK_FORMAT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"

_FIELD: Final = re.compile(r"%\((\w+)\)")
_PLAIN: Final = frozenset({"asctime", "created", "levelname", "message", "name", "processName"})
_OUTSIDE: Final = "???"
_LONGEST_LINE: Final = 16_384

_CONTROLS: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09},
    0x0A: "\\n",
    0x0D: "\\r",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_CONTROLS_IN_BLOCKS: Final = {code: text for code, text in _CONTROLS.items() if code != 0x0A}
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TaskContext(logging.Filter):
    """Fills `task_id` and `task_name` of every record of a logger; ``???`` where no task runs."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = running_request()
        if request is not None:
            record.task_id, record.task_name = request.id, request.shadow or request.task
        elif record.name != REDIRECTED_LOGGER:
            record.task_id = record.task_name = _OUTSIDE
        return True

    def __eq__(self, other: object) -> bool:
        return type(other) is TaskContext

    def __hash__(self) -> int:
        return hash(TaskContext)


def get_task_logger(name: str) -> logging.Logger:
    """The logger of that name as a child of `kernel.task`, whose records know the task they come from.

    Raises `ValueError` for a name of the project's own loggers.
    """
    if name in {TASK_LOGGER, REDIRECTED_LOGGER, "kernel"}:
        raise ValueError(f"{name!r} is a logger of the project's own; use get_task_logger(__name__)")
    logger = logging.getLogger(name)
    logger.parent = logging.getLogger(TASK_LOGGER)
    logger.addFilter(TaskContext())
    return logger


def escaped(text: str) -> str:
    """`text` on one line: control characters are shown as ``\\n`` or ``\\x1b``."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def escaped_block(text: str) -> str:
    """`text` with its lines indented, so that none passes for a log line, and other control characters shown."""
    return text.rstrip("\n").translate(_CONTROLS_IN_BLOCKS).replace("\n", "\n  ")


class HumanFormatter(logging.Formatter):
    """Celery's formats: `task_format` for records of task loggers, `worker_format` for all others."""

    def __init__(
        self,
        worker_format: str = WORKER_FORMAT,
        task_format: str = TASK_FORMAT,
        *,
        datefmt: str | None = None,
        task_datefmt: str | None = None,
    ) -> None:
        super().__init__(worker_format, datefmt)
        self._worker = _Line(worker_format, datefmt)
        self._task = _Line(task_format, task_datefmt or datefmt)

    def format(self, record: logging.LogRecord) -> str:
        line = self._task if "task_id" in record.__dict__ else self._worker
        record.message = escaped(record.getMessage())
        text = line.render(record)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            text = f"{text}\n  {escaped_block(record.exc_text)}"
        if record.stack_info:
            text = f"{text}\n  {escaped_block(self.formatStack(record.stack_info))}"
        return text

    def plain(self, text: str, fields: dict[str, Any]) -> str | None:
        """The line of a record with this message and these fields (`created`, `levelname`, `name`, `processName`) that
        comes from no task's logger; None when the format asks for other fields."""
        return self._worker.plain(escaped(text), fields)


class _Line:
    """One format, and the text of the current second, which most records share."""

    __slots__ = ("_datefmt", "_format", "_is_plain", "_second", "_wants_time")

    def __init__(self, format: str, datefmt: str | None) -> None:
        logging.PercentStyle(format).validate()
        self._format = format
        self._datefmt = datefmt
        self._wants_time = "%(asctime)" in format
        # One attribute, replaced as a whole: threads may read it while another writes.
        self._second: tuple[int, str] = (-1, "")
        self._is_plain = _PLAIN.issuperset(_FIELD.findall(format))

    def render(self, record: logging.LogRecord) -> str:
        if self._wants_time:
            record.asctime = self._time(record.created, record.msecs)
        return self._format % record.__dict__

    def plain(self, message: str, fields: dict[str, Any]) -> str | None:
        if not self._is_plain:
            return None
        if self._wants_time:
            created = fields["created"]
            fields["asctime"] = self._time(created, created % 1 * 1000)
        fields["message"] = message
        return self._format % fields

    def _time(self, created: float, msecs: float) -> str:
        whole = int(created)
        known, text = self._second
        if known != whole:
            text = time.strftime(self._datefmt or "%Y-%m-%d %H:%M:%S", time.localtime(whole))
            self._second = (whole, text)
        return text if self._datefmt else f"{text},{int(msecs):03d}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (ISO 8601, UTC), `level`, `logger`, `process`, `message`, `task_id` and
    `task_name` inside a task, `traceback`, and what the caller gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": record.processName,
            "message": record.getMessage(),
        }
        request = running_request()
        if request is not None:
            fields["task_id"], fields["task_name"] = request.id, request.shadow or request.task
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["traceback"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        try:
            return json.dumps(fields, default=safe_repr)
        except (TypeError, ValueError, RecursionError):  # a key that is no text, or a value that holds itself
            plain = (str, int, float, bool, type(None))
            return json.dumps({k: v if isinstance(v, plain) else safe_repr(v) for k, v in fields.items()})


class LoggingProxy(io.TextIOBase):
    """A text stream whose lines become log records; usable from any thread.

    A line is logged when it is complete; `flush` logs what was written of an unfinished one. What a log handler
    itself writes here while it handles such a record goes to `fallback`, so that a broken handler cannot recurse.
    """

    def __init__(self, logger: logging.Logger, level: int = logging.WARNING, *, fallback: TextIO | None = None) -> None:
        super().__init__()
        self._logger = logger
        self._level = level
        self._fallback = fallback
        # Each thread has a line of its own, or two tasks that print at once would mix theirs.
        self._local = threading.local()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        """The descriptor of `fallback`, for a process that is started with this as its output."""
        if self._fallback is None:
            raise io.UnsupportedOperation("these lines go to a logger, which has no file descriptor")
        return self._fallback.fileno()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() takes a text, not {type(text).__name__}")
        local = self._local
        if getattr(local, "busy", False):
            if self._fallback is not None:
                self._fallback.write(text)
            return len(text)
        *lines, rest = (getattr(local, "rest", "") + text).split("\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], ""
        local.rest = rest
        for line in lines:
            self._log(line)
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.closed or getattr(self._local, "busy", False):
            return
        rest, self._local.rest = getattr(self._local, "rest", ""), ""
        self._log(rest)

    def _log(self, line: str) -> None:
        if not line.strip():
            return
        self._local.busy = True
        try:
            self._logger.log(self._level, "%s", line.rstrip())
        finally:
            self._local.busy = False


def redirect_streams(level: int = logging.WARNING, logger: logging.Logger | None = None) -> Callable[[], None]:
    """Send what this process prints to `logger` (`kernel.redirected`); call the answer to undo it."""
    if logger is None:
        logger = logging.getLogger(REDIRECTED_LOGGER)
        logger.addFilter(TaskContext())
    before = (sys.stdout, sys.stderr)
    proxies = (
        LoggingProxy(logger, level, fallback=sys.__stdout__),
        LoggingProxy(logger, level, fallback=sys.__stderr__),
    )
    sys.stdout, sys.stderr = proxies

    def restore() -> None:
        for proxy in proxies:
            proxy.flush()
        sys.stdout, sys.stderr = before

    return restore
