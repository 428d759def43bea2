"""The results as a table for the terminal, a page for the documentation, and JSON for programs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Case, Figure, Outcome, Series
from benchmarks.processes import PEERS, ROOT

PAGE = ROOT / "docs/benchmarks.md"
DATA = ROOT / ".kernel/benchmarks.json"
PEER_NAMES = ("arq", "celery", "dramatiq", "huey", "procrastinate", "rq", "taskiq", "taskiq_redis", "taskiq_aio_pika")
_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/'\":]+/)+")
HEADS = ["what", "kernel", "unit", "peer", "ratio", "must hold", "held"]


def versions() -> dict[str, str]:
    """What was measured, and on what."""
    found = {
        "kernel": importlib.metadata.version("kernel"),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "SQLAlchemy": importlib.metadata.version("sqlalchemy"),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
    }
    packages = "lib/python*/site-packages/*.dist-info"
    for path in sorted([*PEERS.glob(packages), *PEERS.glob(f"arq/{packages}")]):
        name, _, version = path.stem.rpartition("-")
        if name in PEER_NAMES:
            found[name] = version
    return found


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def peers(outcome: Outcome, figure: Figure) -> str:
    found = [(side, series.median(figure.key)) for side, series in outcome.series.items() if side != OURS]
    return ", ".join(f"{side} {number(value)}" for side, value in found)


def rows(outcomes: Sequence[Outcome]) -> Iterator[list[str]]:
    """One row for each figure; a side that failed its check shows a dash, and why is told below the table."""
    for outcome in outcomes:
        for figure in outcome.case.figures:
            ratio, held = outcome.ratio(figure), outcome.held(figure)
            yield [
                figure.label,
                number(outcome.series[OURS].median(figure.key)),
                figure.unit,
                peers(outcome, figure),
                f"{ratio:.3g}" if ratio is not None else "",
                figure.target,
                "" if held is None else ("yes" if held else "NO"),
            ]


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"{outcome.case.name} / {series.side}: no figure: {plain(series.reason)}"
        for outcome in outcomes
        for series in outcome.series.values()
        if series.reason
    ]


def plain(reason: str) -> str:
    """On one line, with files named but not the folders of this machine."""
    return _FOLDERS.sub("", " ".join(reason.split()))


def text(outcomes: Sequence[Outcome], runs: int) -> str:
    """The table for a terminal."""
    lines = [HEADS, *rows(outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    lines.insert(1, ["-" * width for width in widths])
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    notes = [f"Medians of {runs} runs, each checked for exact delivery. {about}.", *reasons(outcomes)]
    return "\n".join([*body, "", *notes])


def page(outcomes: Sequence[Outcome], when: Mapping[str, str]) -> str:
    """The page of the documentation; `when` says of each case how often it was run, and on which day."""
    table = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    table += ["| " + " | ".join(row) + " |" for row in rows(outcomes)]
    cases = [f"- **{o.case.name}**: {o.case.what} ({when[o.case.name]})." for o in outcomes]
    about = [f"- {name}: {version}" for name, version in versions().items()]
    failed = [f"- {reason}" for reason in reasons(outcomes)]
    parts = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit. Medians, the sides in turn within each run; how many runs is told",
        "below, for each case. Every run is checked: each task ran exactly once and is settled, and every result that",
        "was asked for came back right; a run that fails its check has no figure. Tasks prove that they ran by",
        "appending sixteen bytes to a file,",
        "on all sides. Ours runs as shipped: INFO log to a file, leases, durable commits, one observing plugin bound;",
        "its time ends with the last settlement, the peers' with the last start. Huey on SQLite runs with",
        "`fsync` on, as durable as ours. On Redis, nobody's server keeps anything on disk; a peer that is slow gets",
        "fewer tasks, and where its own wait for a result can be told to look more often, it was. The first round",
        "trips of a run, on which both sides connect, are not counted.",
        "",
        *table,
        "",
        "## What was run",
        "",
        *cases,
        "",
        "## On what",
        "",
        *about,
        "",
    ]
    if failed:
        parts += ["## Without a figure", "", *failed, ""]
    return "\n".join(parts)


def data(outcomes: Sequence[Outcome], runs: int) -> dict[str, Any]:
    """Everything that was measured, for programs."""
    return {
        outcome.case.name: {
            "what": outcome.case.what,
            "runs": outcome.case.runs or runs,
            "day": time.strftime("%Y-%m-%d"),
            "sides": {side: {"values": s.values, "reason": s.reason} for side, s in outcome.series.items()},
            "held": {figure.key: outcome.held(figure) for figure in outcome.case.figures},
        }
        for outcome in outcomes
    }


def known(cases: Sequence[Case]) -> tuple[list[Outcome], dict[str, str]]:
    """What the file holds of these cases, and when it was measured; nothing when one of them is not there."""
    found = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    if not all(found.get(case.name, {}).get("what") == case.what for case in cases):
        return [], {}
    outcomes = [
        Outcome(case, {side: Series(side, **values) for side, values in found[case.name]["sides"].items()})
        for case in cases
    ]
    return outcomes, {case.name: f"{found[case.name]['runs']} runs, {found[case.name]['day']}" for case in cases}


def write(outcomes: Sequence[Outcome], runs: int, cases: Sequence[Case]) -> None:
    """Put these cases in place of what the file held of them, and write the page when it holds all `cases`."""
    DATA.parent.mkdir(exist_ok=True)
    before = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    DATA.write_text(json.dumps({**before, **data(outcomes, runs)}, indent=1), encoding="utf-8")
    print(f"all values: {_near(DATA)}", file=sys.stderr)
    found, when = known(cases)
    if found:
        PAGE.write_text(page(found, when), encoding="utf-8")
        print(f"page: {_near(PAGE)}", file=sys.stderr)


def _near(path: Path) -> str:
    return os.path.relpath(path)
