"""The rules by which a benchmark is allowed to print a number."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import harness, marks, report
from benchmarks.harness import OURS, Case, Figure, Outcome, Series, measure, percentile
from benchmarks.marks import DeliveryError


def written(path: Path, numbers: list[int]) -> Path:
    path.write_bytes(b"".join(struct.pack("<qd", number, 10.0 + place) for place, number in enumerate(numbers)))
    return path


def test_each_task_once_has_a_span(tmp_path: Path) -> None:
    assert marks.span(written(tmp_path / "marks", [2, 0, 1]), 3) == (10.0, 12.0)


@pytest.mark.parametrize("numbers", [[0, 1], [0, 1, 1], [0, 1, 2, 2], [0, 1, 3], [0, 1, 2, 3]])
def test_a_missing_a_doubled_or_a_strange_task_has_none(tmp_path: Path, numbers: list[int]) -> None:
    with pytest.raises(DeliveryError):
        marks.span(written(tmp_path / "marks", numbers), 3)


def test_waiting_for_tasks_that_never_run_ends(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="1 of 2 tasks had run"):
        marks.wait(written(tmp_path / "marks", [0]), 2, seconds=0.1, check=lambda: None)


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.99, 10), (0.1, 1), (1.0, 10)])
def test_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    assert percentile([10, 3, 1, 2, 4, 6, 5, 8, 7, 9], share) == value


def outcome(rule: harness.Rule, limit: float, *, ours: float, peer: float | None = None) -> tuple[Outcome, Figure]:
    figure = Figure("rate", "a rate", "tasks/s", rule, limit)
    series = {OURS: Series(OURS, {"rate": [ours]})}
    if peer is not None:
        series["peer"] = Series("peer", {"rate": [peer]})
    return Outcome(Case("case", "", [figure], {}), series), figure


def test_limits() -> None:
    for rule, limit, ours, peer, held in (
        ("at least", 10, 10, None, True),
        ("at least", 10, 9, None, False),
        ("at most", 10, 11, None, False),
        ("times the peer", 4, 40, 10, True),
        ("times the peer", 4, 39, 10, False),
        ("times the peer", 4, 39, None, None),
    ):
        made, figure = outcome(rule, limit, ours=ours, peer=peer)  # type: ignore[arg-type]
        assert made.held(figure) is held


def test_a_run_that_fails_its_check_leaves_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DIR", str(tmp_path))
    calls = []

    def side(_folder: Path) -> Mapping[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise DeliveryError("one task was lost")
        return {"rate": 1e9}

    figure = Figure("rate", "a rate", "tasks/s", "at least", 1)
    made = measure(Case("case", "", [figure], {OURS: side}), runs=3)
    assert made.series[OURS].median("rate") is None
    assert made.held(figure) is False
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_written_once_every_case_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "DATA", tmp_path / "data" / "benchmarks.json")
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    figure = Figure("rate", "a rate", "tasks/s", "at least", 1)
    cases = [Case(name, f"what {name} is", [figure], {}) for name in ("one", "two")]
    first, second = (Outcome(case, {OURS: Series(OURS, {"rate": [7.0]})}) for case in cases)
    report.write([first], 3, cases)
    assert not (tmp_path / "page.md").exists()
    report.write([second], 5, cases)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "what one is (3 runs" in text
    assert "what two is (5 runs" in text
    changed = [cases[0], Case("two", "something else", [figure], {})]
    assert report.known(changed) == ([], {}), "figures of another case are none of this one"
