"""What the demo prints: a bar on a terminal, plain lines elsewhere, and tables."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType

WIDTH = 34


def note(text: str) -> None:
    print(text, flush=True)


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    """A table whose first column is text and whose others are aligned to the right when they are numbers."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]

    def line(cells: list[str], *, head: bool = False) -> str:
        parts = []
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            numeric = column > 0 and rows[0][column][:1].isdigit() and len(rows[0][column]) < 12
            numeric = numeric or (column == 0 and rows[0][0].isdigit())
            parts.append(cell.rjust(width) if numeric else cell.ljust(width))
        text = "  ".join(parts).rstrip()
        return text if not head else f"{text}\n  {'  '.join('-' * width for width in widths)}"

    note(f"\n{title}")
    note(f"  {line(heads, head=True)}")
    for row in rows:
        note(f"  {line(row)}")


class Progress:
    """How much of the job is done. Redraws one line on a terminal; prints a line every tenth elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._began = time.monotonic()
        self._drawn = 0.0
        self._terminal = sys.stdout.isatty()

    def __enter__(self) -> Progress:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            print(flush=True)

    def advance(self) -> None:
        self._done += 1
        if self._terminal:
            now = time.monotonic()
            # Twenty redraws a second look smooth; more would only slow the job down.
            if now - self._drawn > 0.05 or self._done == self._total:
                self._drawn = now
                self._draw()
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self._draw()

    def _draw(self) -> None:
        share = self._done / self._total
        seconds = time.monotonic() - self._began
        text = f"{self._done}/{self._total} results, {seconds:.1f} s"
        if self._terminal:
            room = max(10, min(WIDTH, shutil.get_terminal_size().columns - len(text) - 6))
            full = int(share * room)
            print(f"\r  [{'#' * full}{'.' * (room - full)}] {text} ", end="", flush=True)
        else:
            note(f"  {share:4.0%}  {text}")
