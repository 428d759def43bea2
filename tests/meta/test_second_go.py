"""`make test`: what fails beside others has a second go alone, and only what fails again fails the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import run_tests

Outcome = tuple[int, list[str]]
Run = Callable[..., tuple[int, list[Sequence[str]]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs whose outcomes are given: exit codes and names of what failed; the code of all, the arguments of each."""
    record = tmp_path / "lastfailed"
    monkeypatch.setattr(run_tests, "LAST_FAILED", record)

    def run(*outcomes: Outcome) -> tuple[int, list[Sequence[str]]]:
        left, asked = list(outcomes), list[Sequence[str]]()

        def pytest_of(arguments: Sequence[str]) -> int:
            asked.append(arguments)
            code, failed = left.pop(0)
            record.write_text(json.dumps(dict.fromkeys(failed, True)))
            return code

        monkeypatch.setattr(run_tests, "pytest", pytest_of)
        return run_tests.main(["-n", "3"]), asked

    return run


def test_what_passes_at_once_runs_once(run: Run) -> None:
    assert run((0, [])) == (0, [["-n", "3"]])


def test_one_that_passes_alone_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, asked = run((1, ["a.py::b[x y]"]), (0, []))
    assert code == 0
    assert asked[1] == ["--last-failed", "--last-failed-no-failures", "none", "a.py::b[x y]"]
    assert "UNSTEADY a.py::b[x y]" in capsys.readouterr().out


def test_one_that_fails_twice_fails_the_run(run: Run) -> None:
    assert run((1, ["a.py::b", "a.py::c"]), (1, ["a.py::c"]))[0] == 1


@pytest.mark.parametrize(
    ("code", "failed"),
    [
        pytest.param(1, [], id="processes left behind"),
        pytest.param(1, [f"a.py::{number}" for number in range(51)], id="too many"),
        pytest.param(2, ["a.py::b"], id="interrupted"),
        pytest.param(5, [], id="no tests"),
    ],
)
def test_no_second_go(run: Run, code: int, failed: list[str]) -> None:
    assert run((code, failed)) == (code, [["-n", "3"]])
