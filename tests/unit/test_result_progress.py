"""Progress: what a task reports, what is stored of it, and what whoever waits is shown."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel import states
from kernel.app import Kernel
from kernel.results.bar import Bar, report_of
from tests.unit.resulting import group_of, store

LIMIT = 20.0


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("progress", broker="memory://", backend="memory://") as made:
        yield made


def reported(app: Kernel, body: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The meta of each PROGRESS that was stored while a task with this body ran here."""
    stored: list[dict[str, Any]] = []

    @app.task(name="t", bind=True, store_eager_result=True)
    def task(self: Any) -> Any:
        return body(self)

    def keep(batch: Any) -> Any:
        stored.extend(json.loads(each.result) for each in batch if each.state == "PROGRESS")
        return original(batch)

    original = app.backend.store
    app.backend.store = keep  # type: ignore[method-assign]
    task.apply().get()
    return stored


def test_a_task_reports_its_progress(app: Kernel) -> None:
    assert reported(app, lambda self: self.progress(3, 10, "three")) == [
        {"current": 3, "total": 10, "message": "three"}
    ]


def test_reports_in_a_loop_are_few_and_the_last_is_there(app: Kernel) -> None:
    def body(self: Any) -> None:
        answers = [self.progress(number, 5000) for number in range(1, 5001)]
        assert answers[0]
        assert answers[-1]
        assert not all(answers)
        assert self.progress(1, 5000, "again", always=True)

    stored = reported(app, body)
    assert len(stored) < 1000
    assert stored[0]["current"] == 1
    assert stored[-2]["current"] == 5000


@pytest.mark.parametrize("bad", [(-1,), ("3",), (True,), (1, -1), (float("nan"),), (float("inf"), 3)])
def test_numbers_that_are_no_progress(app: Kernel, bad: Any) -> None:
    def body(self: Any) -> None:
        with pytest.raises(ValueError, match="a number from 0 is needed"):
            self.progress(*bad)

    assert reported(app, body) == []


def test_progress_outside_a_task(app: Kernel) -> None:
    @app.task(name="t")
    def task() -> None: ...

    with pytest.raises(ValueError, match="does not run"):
        task.progress(1, 2)


@pytest.mark.parametrize("awaited", [False, True])
def test_whoever_waits_is_told_of_progress(app: Kernel, awaited: bool) -> None:
    store(app, "x", {"current": 1, "total": 4, "message": "one"}, state="PROGRESS")
    reports: list[Any] = []

    def tell(report: Any) -> None:
        reports.append(report)
        store(app, "x", 7)

    result = app.AsyncResult("x")
    if awaited:
        assert asyncio.run(result.aget(LIMIT, progress=tell)) == 7
    else:
        assert result.get(timeout=LIMIT, progress=tell) == 7
    assert reports == [{"current": 1, "total": 4, "message": "one"}]


def test_a_group_counts_its_members(app: Kernel) -> None:
    store(app, "a", 1)
    store(app, "b", ValueError("no"), state=states.FAILURE)
    reports: list[Any] = []
    group_of(app, "a", "b").get(timeout=LIMIT, propagate=False, progress=reports.append)
    assert reports == [
        {"current": 1, "total": 2, "message": ""},
        {"current": 2, "total": 2, "message": "1 failed"},
    ]


@pytest.mark.parametrize(
    ("state", "meta", "expected"),
    [
        ("PROGRESS", {"current": 1, "total": 2}, (1, 2, "")),
        ("HALF", {"current": 1}, (1, None, "HALF")),
        ("STARTED", {"pid": 1}, (None, None, "STARTED")),
        ("SUCCESS", 7, None),
    ],
)
def test_what_states_say_of_progress(state: str, meta: Any, expected: Any) -> None:
    report = report_of(state, meta)
    assert (report and (report["current"], report["total"], report["message"])) == expected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    bar = Bar(stream, "t")
    for number in range(1, 1001):
        bar.update({"current": number, "total": 1000, "message": "up\x1b[2J" if number == 1 else "on"})
    bar.close()
    drawn = stream.getvalue().split("\r")
    assert len(drawn) < 100, "it is not drawn for each report"
    assert "[........................]   0% 1/1000" in drawn[1]
    assert "up [2J" in drawn[1], "a message moves no cursor"
    assert "[########################] 100% 1000/1000" in drawn[-1]
    assert drawn[-1].endswith("\x1b[K\n")


def test_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    bar = Bar(stream, "t")
    for number in range(1, 1001):
        bar.update({"current": number, "total": 1000, "message": ""})
    bar.close()
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 13
    assert lines[0].startswith("t   0% 1/1000")
    assert lines[-1].startswith("t 100% 1000/1000")
    assert "\x1b" not in stream.getvalue()


def test_a_bar_that_nobody_reads_disturbs_nobody(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    bar = Bar.__new__(Bar)
    bar.__dict__.update(_stream=stream)
    bar._write("x")
    monkeypatch.setattr("sys.stderr", None)
    store(app, "x", 7)
    assert app.AsyncResult("x").get(timeout=LIMIT, progress=True) == 7


def test_progress_goes_to_standard_error(app: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    store(app, "a", 1)
    store(app, "b", 2)
    group_of(app, "a", "b").get(timeout=LIMIT, progress=True)
    assert "2 tasks 100% 2/2" in capsys.readouterr().err
