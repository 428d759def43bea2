"""The closing table of ``make faults``: which case of the matrix ran how often, and what went wrong.

A plugin of pytest, loaded by the root's conftest. A test says which case it proves, and may say more::

    @pytest.mark.case("F3")                       # or several: case("R1", "F16")
    @pytest.mark.case("A2", note="at least once") # a word for the table
    def test_a_stale_owner_is_refused(tally, rounds): ...

Names are those of `tests.faults.cases`, or any other of the matrix. Which server a row is of follows from the name of
the file; ``server="RabbitMQ"`` in the mark says otherwise. A test that does not use `tally` counts as one run. What it
adds to `tally.runs`, `.lost`, `.doubled` (beyond the promise), `.late` and `.stuck` stands in the table;
`tests.faults.oracle.judge` does that for tasks that write into a ledger. A failed test is told as failed, a skipped one
as not run, with its reason.

``rounds(2, 20)`` is 2, and 20 with ``--thorough``, which is how ``make faults`` runs; what is marked ``thorough`` needs
that. ``--fault-table=docs/faults.md`` writes the table between the markers in that file.

Run in pieces, each with the same ``--fault-record=FILE``, the table is of all of them: a test that runs again takes the
place of its earlier run, and each row says on which day its oldest test ran. A new FILE begins a new table.
"""

from __future__ import annotations

import datetime as dt
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.cases import CASES

_CASE: Final = "fault case"
_TALLY: Final = "fault tally"
_BEGIN: Final = "<!-- table: begin -->"
_END: Final = "<!-- table: end -->"
_SERVERS: Final = (
    ("redis", "Redis"),
    ("rabbit", "RabbitMQ"),
    ("amqp", "RabbitMQ"),
    ("rpc", "RabbitMQ"),
    ("postgresql", "PostgreSQL"),
    ("interop", "beside Celery"),
)
_COLUMNS: Final = ("case", "what", "server", "runs", "lost", "doubled", "late", "stuck", "day", "")
_VERSIONS: Final = {
    "Redis": ("redis-server", "--version"),
    "RabbitMQ": ("rabbitmqctl", "version"),
    "PostgreSQL": ("psql", "--version"),
}


@dataclass
class Tally:
    """What a test found. `runs` of 0 counts as one."""

    runs: int = 0
    lost: int = 0
    doubled: int = 0
    late: int = 0
    stuck: int = 0

    def add(self, other: Tally) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Run:
    """One test, as it ended: the cases that it proves, as lines of case, server and note."""

    cases: list[str]
    day: str
    ran: bool = False
    failed: bool = False
    skipped: str = ""
    tally: dict[str, int] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    """The versions of what took part."""


@dataclass
class Row:
    """A case on a server, over all tests that prove it."""

    tally: Tally = field(default_factory=Tally)
    ran: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    days: list[str] = field(default_factory=list)

    def add(self, run: Run, note: str) -> None:
        self.notes += [note] * bool(note)
        self.skipped += [run.skipped] * bool(run.skipped)
        self.ran += run.ran
        self.failed += run.failed
        self.days.append(run.day)
        if run.ran:
            # Of a failed test the numbers that it came to are told too.
            self.tally.add(Tally(**{"runs": 1, **run.tally}))

    def cells(self) -> list[str]:
        found = self.tally
        numbers = [str(each) for each in (found.runs, found.lost, found.doubled, found.late, found.stuck)]
        words = [f"{self.failed} of its tests FAILED"] * bool(self.failed)
        words += [f"not run: {reason}" for reason in dict.fromkeys(self.skipped)]
        words += dict.fromkeys(self.notes)
        return [*(numbers if self.ran else ["not run", *["-"] * 4]), min(self.days), "; ".join(words)]


class FaultTable:
    """Collects the reports of one run, wherever its tests ran, beside those of earlier ones. A plugin itself."""

    def __init__(self, target: Path | None, record: Path | None, *, shown: bool) -> None:
        self._target = target
        self._record = record
        self._shown = shown
        self._runs: dict[str, Run] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        marked = str(properties.get(_CASE, ""))
        if not marked or not (report.when == "call" or report.outcome != "passed"):
            return
        day = dt.datetime.now(dt.UTC).date().isoformat()
        run = self._runs.setdefault(report.nodeid, Run(marked.splitlines(), day))
        if report.outcome == "skipped":
            run.skipped = _reason(report)
            return
        run.ran |= report.when == "call"
        run.failed |= report.outcome == "failed"
        run.tally = _numbers(properties)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._runs or not (self._shown or self._target):
            return
        parts = versions()
        for run in self._runs.values():
            run.parts = parts
        if self._record is not None:
            self._runs = recorded(self._record, self._runs)
        terminalreporter.section("faults")
        for line in self.lines(whole=self._target is not None):
            terminalreporter.line(line)
        if self._target is not None:
            write(self._target, [self.head(), "", *self.lines()])
            terminalreporter.line(f"written to {self._target}")

    def head(self) -> str:
        """When it was, and with what: a paragraph for each combination."""
        days: dict[str, set[str]] = {}
        for run in self._runs.values():
            days.setdefault(", ".join(run.parts), set()).add(run.day)
        return "\n\n".join(f"{' and '.join(sorted(each))}, {parts}." for parts, each in days.items())

    def lines(self, *, whole: bool = True) -> list[str]:
        """As Markdown; `whole` with the cases that nobody tried."""
        found: dict[tuple[str, str], Row] = {}
        for run in self._runs.values():
            for line in run.cases:
                case, server, note = line.split("\t")
                found.setdefault((case, server), Row()).add(run, note)
        names = [*CASES, *sorted({case for case, _ in found} - set(CASES))]
        body = []
        for name in names:
            rows = sorted((server, row) for (case, server), row in found.items() if case == name)
            for server, row in rows:
                body.append([name, CASES.get(name, ""), server, *row.cells()])
            if whole and not rows:
                body.append([name, CASES[name], "-", "not run", *["-"] * 5, "no test of this run"])
        return [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(_line, body)]


def recorded(record: Path, runs: dict[str, Run]) -> dict[str, Run]:
    """Those that `record` has and, in place of the same tests there, `runs`; written there."""
    kept = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    whole = {name: Run(**each) for name, each in kept.items()} | runs
    record.write_text(json.dumps({name: asdict(run) for name, run in sorted(whole.items())}, indent=1), "utf-8")
    return whole


def write(target: Path, lines: list[str]) -> None:
    """Put `lines` between the markers of a page. Raises `ValueError` if it has none."""
    page = target.read_text(encoding="utf-8")
    if _BEGIN not in page or _END not in page:
        raise ValueError(f"{target} has no {_BEGIN} and {_END}; write the two lines where the table is to stand")
    text = "\n".join([_BEGIN, *lines, _END])
    head, _, rest = page.partition(_BEGIN)
    target.write_text(head + text + rest.partition(_END)[2], encoding="utf-8")


def versions() -> list[str]:
    """What took part, as far as it is installed."""
    found = [f"kernel {metadata.version('kernel')}", f"Python {platform.python_version()}"]
    for name, words in _VERSIONS.items():
        if shutil.which(words[0]):
            said = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
            if number := re.search(r"\d+\.\d+(\.\d+)?", said):
                found.append(f"{name} {number[0]}")
    for name in ("redis", "amqp", "psycopg"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _numbers(properties: dict[str, Any]) -> dict[str, int]:
    found = str(properties.get(_TALLY, ""))
    numbers = {name: int(value) for name, _, value in (part.partition("=") for part in found.split())}
    return {**numbers, "runs": max(1, numbers.get("runs", 1))} if numbers else {}


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ").replace("|", "/").splitlines()[0]


def _server(item: pytest.Item) -> str:
    path = "/".join(item.path.parts[-4:])
    return next((server for word, server in _SERVERS if word in path), "SQLite")


# --- hooks and fixtures -------------------------------------------------------------------------------------------

_FOUND: Final = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--thorough", action="store_true", help="run fault tests with many rounds, as `make faults` does")
    group.addoption("--fault-table", metavar="FILE", help="write the table of faults between the markers of FILE")
    group.addoption("--fault-record", metavar="FILE", help="the table is of this run and of those that FILE has (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    target, record = (
        Path(name) if name else None for name in map(config.getoption, ("--fault-table", "--fault-record"))
    )
    table = FaultTable(target, record, shown=bool(config.getoption("--thorough")) or record is not None)
    config.pluginmanager.register(table, "fault-table")
    config.addinivalue_line("markers", "case(*names, server=, note=): the case of the fault matrix that a test proves")
    config.addinivalue_line("markers", "thorough: runs with --thorough alone, as in `make faults`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marks = [
            f"{name}\t{mark.kwargs.get('server') or _server(item)}\t{mark.kwargs.get('note', '')}"
            for mark in item.iter_markers("case")
            for name in mark.args
        ]
        if marks:
            item.user_properties.append((_CASE, "\n".join(marks)))
    if config.getoption("--thorough"):
        return
    kept = [item for item in items if item.get_closest_marker("thorough") is None]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """What this test adds to the table."""
    request.node.stash[_FOUND] = found = Tally()
    return found


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """``rounds(few, many)``: how often to do it in this run."""
    thorough = bool(request.config.getoption("--thorough"))
    return lambda few, many: many if thorough else few


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    found = item.stash.get(_FOUND, None)
    if found is not None:
        kept = [pair for pair in item.user_properties if pair[0] != _TALLY]
        item.user_properties[:] = [*kept, (_TALLY, " ".join(f"{n}={v}" for n, v in asdict(found).items()))]
    return (yield)
