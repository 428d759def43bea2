"""The types that users see, read by a checker as theirs would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

CASES = Path(__file__).with_name("typing_cases.py")


@pytest.mark.slow
def test_a_checker_finds_each_mistake_and_no_other(project_root: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=project_root)
    assert done.returncode == 0, done.stdout + done.stderr
