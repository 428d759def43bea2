"""One log line for each task that ends, with Celery's words and its ``extra={"data": ...}``."""

from __future__ import annotations

import functools
import logging
import os
import reprlib
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from kernel import states
from kernel.hooks import hookimpl
from kernel.interfaces.outcome import Outcome

if TYPE_CHECKING:
    from kernel.request import Request

LOGGER: Final = "kernel.trace"
DEFAULT_REPR_LIMIT: Final = 1024

_QUICK: Final = frozenset({int, float, bool, type(None)})
_QUICK_INT: Final = 1 << 63
_LOG_INT: Final = 1 << 3000

_SUCCEEDED: Final = "Task %(name)s[%(id)s] succeeded in %(runtime).6fs: %(return_value)s"
_UNEXPECTED: Final = "Task %(name)s[%(id)s] raised unexpected: %(exc)s"
_EXPECTED: Final = "Task %(name)s[%(id)s] raised expected: %(exc)s"
_RETRIED: Final = "Task %(name)s[%(id)s] retry: %(exc)s"
_IGNORED: Final = "Task %(name)s[%(id)s] ignored"
_REJECTED: Final = "Task %(name)s[%(id)s] rejected: %(exc)s"
_REVOKED: Final = "Task %(name)s[%(id)s] revoked: %(exc)s"


class TaskLogs:
    """The plugin. `logger` is named ``kernel.trace``; a worker shows it at INFO."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self.logger = logger or logging.getLogger(LOGGER)
        self._made: dict[int, logging.LogRecord] = {}

    @hookimpl
    def kernel_task_end(self, request: Request, outcome: Outcome) -> None:
        """Exactly one line: at INFO, or at ERROR with the traceback for an error nobody expected."""
        logger = self.logger
        state = outcome.state
        if state == states.SUCCESS and self._takes_text(request, outcome):
            return
        error = state == states.FAILURE and not outcome.expected
        level = logging.ERROR if error else logging.INFO
        if not logger.isEnabledFor(level):
            return
        data: dict[str, Any] = {"id": request.id, "name": request.shadow or request.task}
        if state == states.SUCCESS:
            text = _SUCCEEDED
            data["return_value"] = _value_text(outcome.value, _limit(request))
        else:
            text = _text_of(state, outcome)
            data["exc"] = _error_text(outcome)
        data["args"] = request.argsrepr or _short(request.args)
        data["kwargs"] = request.kwargsrepr or _short(request.kwargs)
        data["runtime"] = round(outcome.runtime, 6)
        record = self._record(level, text, data)
        if error and outcome.traceback:
            record.exc_text = data["traceback"] = outcome.traceback
            if outcome.error is not None:
                record.exc_info = (type(outcome.error), outcome.error, outcome.error.__traceback__)
        logger.handle(record)

    def _takes_text(self, request: Request, outcome: Outcome) -> bool:
        """Whether a success was logged without a record, which nobody would look at."""
        logger = self.logger
        takes_text = _only_handler(logger)
        if takes_text is None:
            return False
        if not logger.isEnabledFor(logging.INFO):
            return True
        value = outcome.value
        value_text = "None" if value is None else _value_text(value, _limit(request))
        name = request.shadow or request.task
        return takes_text(f"Task {name}[{request.id}] succeeded in {outcome.runtime:.6f}s: {value_text}")

    def _record(self, level: int, text: str, data: dict[str, Any]) -> logging.LogRecord:
        """What `logging` would make, from the first one of its kind: where it comes from and in which process is always
        the same, and to find it out each time is a tenth of what a short task costs."""
        made = self._made.get(level)
        if made is None or made.process != os.getpid():
            made = logging.LogRecord(self.logger.name, level, __file__, 0, text, (data,), None, "kernel_task_end")
            if hasattr(made, "taskName"):
                made.taskName = None  # from Python 3.12 on; another one's each time
            self._made[level] = made
        record = logging.LogRecord.__new__(logging.LogRecord)
        now = time.time()
        record.__dict__.update(
            made.__dict__,
            msg=text,
            args=data,
            data=data,
            created=now,
            msecs=int(now % 1 * 1000) + 0.0,
            relativeCreated=made.relativeCreated + (now - made.created) * 1000,
            thread=threading.get_ident(),
            threadName=threading.current_thread().name,
        )
        return record


def _only_handler(logger: logging.Logger) -> Callable[[str], bool] | None:
    """How the one handler that records of this logger come to takes texts; None when there are others, or filters, or
    when it takes none."""
    if logger.filters or logger.disabled or logger.__class__ is not logging.Logger:
        return None
    found: logging.Handler | None = None
    at: logging.Logger | None = logger
    while at is not None:
        if at.handlers:
            if found is not None or len(at.handlers) > 1:
                return None
            found = at.handlers[0]
        at = at.parent if at.propagate else None
    return getattr(found, "takes_text", None)


def _text_of(state: str, outcome: Outcome) -> str:
    if state == states.FAILURE:
        return _EXPECTED if outcome.expected else _UNEXPECTED
    return {
        states.RETRY: _RETRIED,
        states.IGNORED: _IGNORED,
        states.REJECTED: _REJECTED,
        states.REVOKED: _REVOKED,
    }.get(state, _UNEXPECTED)


def _error_text(outcome: Outcome) -> str:
    error = outcome.error
    if outcome.state == states.RETRY:
        delay = f"Retry in {outcome.retry_in or 0:g}s"
        return delay if error is None else f"{delay}: {_value_text(error, DEFAULT_REPR_LIMIT)}"
    if error is None:
        return ""
    if outcome.state in (states.REVOKED, states.REJECTED):
        return " ".join(str(arg) for arg in error.args[:1]) if error.args else type(error).__name__
    return _value_text(error, DEFAULT_REPR_LIMIT)


def _limit(request: Request) -> int:
    task = request.app.tasks.get(request.task) if request.app is not None and request.task else None
    limit = getattr(task, "resultrepr_maxsize", None)
    return limit if isinstance(limit, int) and limit > 0 else DEFAULT_REPR_LIMIT


def _short(value: object) -> str:
    return "()" if value == () else "{}" if value == {} else _value_text(value, DEFAULT_REPR_LIMIT)


def _value_text(value: object, limit: int) -> str:
    """`repr(value)` in at most `limit` characters, in bounded time for containers; never raises."""
    kind = type(value)
    if kind in _QUICK and (kind is not int or -_QUICK_INT < value < _QUICK_INT):  # type: ignore[operator]
        return repr(value)
    if isinstance(value, str):
        text = repr(value[: limit + 1])
    elif isinstance(value, int) and not -_LOG_INT < value < _LOG_INT:
        text = f"<int of {value.bit_length()} bits>"  # Python refuses to print the largest ones
    else:
        try:
            text = _bounded_repr(limit).repr(value)
        except Exception:
            text = f"<{kind.__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class _Repr(reprlib.Repr):
    """Sorts nothing: the keys of a large dictionary would all have to be looked at."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        items = [f"{self.repr1(k, level - 1)}: {self.repr1(x[k], level - 1)}" for k in islice(x, self.maxdict)]
        return _joined(items, len(x))

    def repr_set(self, x: set[Any], level: int) -> str:
        items = [self.repr1(item, level - 1) for item in islice(x, self.maxset)]
        return _joined(items, len(x)) if x else "set()"

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        return f"frozenset({self.repr_set(set(islice(x, self.maxset)), level) if x else ''})"


def _joined(items: Sequence[str], count: int) -> str:
    return f"{{{', '.join(items)}{', ...' if count > len(items) else ''}}}"


@functools.cache  # limits are few: they come from the options of tasks
def _bounded_repr(limit: int) -> reprlib.Repr:
    shortener = _Repr()
    shortener.maxlevel = 4
    shortener.maxlist = shortener.maxtuple = shortener.maxdict = shortener.maxset = shortener.maxfrozenset = 100
    shortener.maxstring = shortener.maxother = shortener.maxlong = limit
    return shortener
