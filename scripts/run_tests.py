"""Run pytest, and give the few tests that fail beside others a second go alone.

Hundreds of tests start servers and workers of their own, on machines that others use, too. One that passes alone is
named as unsteady and does not fail the run; one that fails twice does, and so does a run in which many more
fail (there something is broken), or that leaves processes behind.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAST_FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
FEW = 50
TESTS_FAILED = 1
"""pytest's exit code."""


def main(arguments: Sequence[str]) -> int:
    LAST_FAILED.unlink(missing_ok=True)
    code = pytest(arguments)
    failed = last_failed()
    if code != TESTS_FAILED or not 1 <= len(failed) <= FEW:
        return code
    print(f"\n{len(failed)} failed beside others; a second go, alone:", flush=True)
    code = pytest(["--last-failed", "--last-failed-no-failures", "none", *failed])
    for name in sorted(set(failed) - set(last_failed())):
        print(f"UNSTEADY {name}: failed beside others, passed alone")
    return code


def pytest(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode


def last_failed() -> list[str]:
    """Names of the tests that failed when they ran last."""
    try:
        return list(json.loads(LAST_FAILED.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
