"""What commands print: data on stdout, talk on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click


def emit_json(schema: str, data: Mapping[str, Any]) -> None:
    """One JSON object on stdout. `schema` is ``<command>/<version>``; the version rises when a key changes meaning."""
    click.echo(json.dumps({"schema": schema, **data}, indent=2, default=str, ensure_ascii=False))


def emit_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under headings in columns; on a pipe without headings, tab-separated, so that `cut` and `awk` work."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in texts:
            click.echo("\t".join(row))
        return
    if not texts:
        return
    widths = [max(len(row[at]) for row in [list(headings), *texts]) for at in range(len(headings))]
    for number, row in enumerate([list(headings), *texts]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def talk(text: str) -> None:
    """A remark for the person at the terminal."""
    context = click.get_current_context(silent=True)
    quiet = context is not None and getattr(context.obj, "quiet", False)
    if not quiet:
        click.echo(text, err=True)


def age(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"


def _cell(value: object) -> str:
    text = "-" if value is None else str(value)
    return " ".join(text.split())
