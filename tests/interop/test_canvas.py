"""Canvases beside Celery: what its own worker makes of the table of `tests/canvas`, and canvases whose parts run on
both sides."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.canvas.case import Case, Seen, check
from tests.canvas.table import CASES

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def celery_saw(celery_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of the rows on Celery, by their names."""
    command = [str(celery_python), "-m", "tests.canvas.on_celery", str(tmp_path_factory.mktemp("table"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SHOP_PATIENCE": "8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-4000:]
    saw: dict[str, Any] = json.loads(done.stdout)
    return saw


@pytest.mark.parametrize("case", [case for case in CASES if not case.celery_cannot], ids=lambda case: case.name)
def test_what_the_table_says_is_what_celery_does(celery_saw: dict[str, Any], case: Case) -> None:
    saw = Seen(**celery_saw[case.name])
    saw.error = None if saw.error is None else (saw.error[0], saw.error[1])
    saw.children = {label: set(children) for label, children in saw.children.items()}
    check(dataclasses.replace(case, **case.celery), saw)
