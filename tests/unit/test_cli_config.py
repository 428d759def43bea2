"""`kernel config`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernel.cli import exits, main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.kernel]\nworker_lease = '1m'\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["config", *arguments])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def test_every_value_and_its_origin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNEL_WORKER_CONCURRENCY", "3")
    code, out, err = run(capsys, "--result-backend", "redis://:hush@host/1")
    rows = dict(line.split("\t", 1) for line in out.splitlines())
    assert code == exits.OK
    assert rows["task_serializer"] == "json\tdefault"
    assert rows["worker_concurrency"] == "3\tenvironment variable KERNEL_WORKER_CONCURRENCY"
    assert rows["worker_lease"].startswith("60\t[tool.kernel] in ")
    assert rows["result_backend"] == "redis://:********@host/1\tthe command line"
    assert "beat_schedule" not in rows
    assert "more settings" in err


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--json", "--changed")
    data = json.loads(out)
    assert (code, err) == (exits.OK, "")
    assert data["schema"] == "config/1"
    assert list(data["settings"]) == ["worker_lease"]
    assert data["settings"]["worker_lease"]["value"] == 60
    assert data["settings"]["worker_lease"]["default"] == 30
    everything = json.loads(run(capsys, "--json", "--all")[1])["settings"]
    assert everything["beat_schedule"]["served"] is False
    assert len(everything) > 240


def test_one_setting(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "CELERYD_CONCURRENCY")
    assert code == exits.OK
    assert out.startswith("worker_concurrency = None\n  from:     default\n")
    code, _, err = run(capsys, "show", "worker_leese")
    assert code == exits.USAGE
    assert "Did you mean worker_lease" in err


@pytest.mark.parametrize("form", ["validate", "--validate"])
def test_validation(capsys: pytest.CaptureFixture[str], folder: Path, form: str) -> None:
    assert run(capsys, form)[0] == exits.OK
    (folder / "pyproject.toml").write_text("[tool.kernel]\nworker_lease = 'soon'\n")
    code, out, err = run(capsys, form)
    assert (code, out) == (exits.USAGE, "")
    assert "worker_lease cannot be 'soon'" in err


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "-q")[2] == ""


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--markdown")
    assert code == exits.OK
    assert "| `worker_lease` | seconds | `30` |" in out
