"""How a worker's processes log: called explicitly by those who start them, never at import."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from kernel.log import HumanFormatter, JsonFormatter, redirect_streams
from kernel.worker.lines import LineHandler, ProcessName
from kernel.worker.options import LogOptions

_HANDLER_NAME: Final = "kernel-worker"


def set_up(options: LogOptions, settings: Mapping[str, Any], *, process: str, redirect: bool = False) -> None:
    """Send this process's log to `options.file` or standard error.

    With `worker_hijack_root_logger` off the root logger's own handlers stay as they are. `redirect` sends what
    tasks print to the log, where `worker_redirect_stdouts` says so.
    """
    root = logging.getLogger()
    level = getattr(logging, options.level.upper(), logging.WARNING)
    if settings.get("worker_hijack_root_logger", True):
        for handler in list(root.handlers):
            root.removeHandler(handler)
    handler = _handler(options)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(_formatter(options, settings))
    handler.addFilter(ProcessName(process))
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("kernel").setLevel(level)
    # At DEBUG it tells of each entry point that it looks at.
    logging.getLogger("stevedore").setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)
    if redirect and settings.get("worker_redirect_stdouts", True):
        redirect_streams(getattr(logging, settings.get("worker_redirect_stdouts_level") or "WARNING"))


def flush() -> None:
    """Write what this process has printed and logged and still holds: for those that fork, or end by `os._exit`.

    Raises nothing: where it went to may be gone, and a task may have put anything in the place of a stream.
    """
    ours = [handler for handler in logging.getLogger().handlers if handler.get_name() == _HANDLER_NAME]
    for holder in (sys.stdout, sys.stderr, sys.__stdout__, *ours):
        with suppress(Exception):
            holder.flush()  # type: ignore[union-attr]


def _handler(options: LogOptions) -> logging.Handler:
    if options.file:
        return LineHandler(options.file)
    try:
        return LineHandler(sys.__stderr__.fileno())  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # none, or none that the system knows
        return logging.StreamHandler(sys.__stderr__)


def _formatter(options: LogOptions, settings: Mapping[str, Any]) -> logging.Formatter:
    if options.json or settings.get("worker_log_json"):
        return JsonFormatter()
    formats = {
        "worker_format": settings.get("worker_log_format"),
        "task_format": settings.get("worker_task_log_format"),
    }
    return HumanFormatter(
        **{name: text for name, text in formats.items() if text},
        datefmt=settings.get("worker_log_datefmt"),
        task_datefmt=settings.get("worker_task_log_datefmt"),
    )
