"""What `get(progress=True)` shows on a terminal, or as plain lines where there is none."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

from kernel import states

_REDRAW_SECONDS: Final = 0.1
_LINE_SECONDS: Final = 10.0
_LINE_SHARE: Final = 0.1
_BAR: Final = 24
_MESSAGE: Final = 60

Report = Mapping[str, Any]
"""`current`, `total` and `message`, as `Task.progress` stores them."""

Progress = bool | Callable[[Report], object]
"""Whether progress is shown; or a function that is called with each report."""


class Bar:
    """One line that is drawn over and over on a terminal, ten times a second at most. Elsewhere a line now and then:
    for every tenth of the whole, or every ten seconds."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream = stream
        self._label = label
        self._live = stream.isatty()
        self._began = time.monotonic()
        self._shown_at: float | None = None
        self._shown_share = 0.0
        self._latest = ""
        self._shown = ""

    def update(self, report: Report) -> None:
        current, total = _number(report.get("current")), _number(report.get("total"))
        share = None if current is None or not total else min(1.0, max(0.0, current / total))
        self._latest = self._line(current, total, share, report.get("message"))
        if self._due(share):
            self._show(share)

    def close(self) -> None:
        """Show what was left out, and leave the line."""
        if self._latest != self._shown:
            self._show(None)
        if self._live and self._shown:
            self._write("\n")

    def _due(self, share: float | None) -> bool:
        if self._shown_at is None or self._latest == "":
            return True
        passed = time.monotonic() - self._shown_at
        if self._live:
            return passed >= _REDRAW_SECONDS
        return passed >= _LINE_SECONDS or (share is not None and share - self._shown_share >= _LINE_SHARE)

    def _show(self, share: float | None) -> None:
        self._shown_at, self._shown = time.monotonic(), self._latest
        if share is not None:
            self._shown_share = share
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r{self._latest[:width]}\x1b[K")
        else:
            self._write(self._latest + "\n")

    def _line(self, current: float | None, total: float | None, share: float | None, message: object) -> str:
        parts = [self._label]
        if share is not None:
            if self._live:
                full = round(share * _BAR)
                parts.append(f"[{'#' * full}{'.' * (_BAR - full)}]")
            parts.append(f"{share:4.0%}")
        if current is not None:
            parts.append(f"{current:g}" if total is None else f"{current:g}/{total:g}")
        parts.append(f"{time.monotonic() - self._began:.0f}s")
        if message:
            # It comes from a worker, and must not draw elsewhere on the terminal.
            parts.append("".join(char if char.isprintable() else " " for char in str(message))[:_MESSAGE])
        return " ".join(parts)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return  # whoever read it is gone, which is no reason to stop waiting


@contextmanager
def shown(progress: Progress, label: str) -> Iterator[Callable[[Report], object] | None]:
    """What is to be called with each report; None when nothing is. A bar goes to standard error."""
    if callable(progress):
        yield progress
        return
    stream = sys.stderr
    if not progress or stream is None:
        yield None
        return
    bar = Bar(stream, label)
    try:
        yield bar.update
    finally:
        bar.close()


def report_of(state: str, value: Any) -> Report | None:
    """What a state of a task says of its progress; None for the end."""
    if state in states.READY_STATES:
        return None
    if isinstance(value, Mapping) and ("current" in value or "total" in value):
        message = value.get("message") or (state if state != "PROGRESS" else "")
        return {"current": value.get("current"), "total": value.get("total"), "message": message}
    return {"current": None, "total": None, "message": state}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
