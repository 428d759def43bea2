"""The memory broker in one process, with the threads pool: the engine's own speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import OURS, Case, Figure, scaled
from benchmarks.marks import DeliveryError
from benchmarks.processes import ROOT

COUNT = scaled(20_000)


def no_op(folder: Path) -> Mapping[str, float]:
    """Runs in a process of its own, so that nothing of the harness is in it."""
    environment = {**os.environ, "BENCH_MARKS": str(folder / "marks"), "BENCH_URL": "memory://"}
    command = [sys.executable, "-m", "benchmarks.embedded", str(COUNT)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise DeliveryError(done.stderr[-600:])
    return dict(json.loads(done.stdout))


CASES = [
    Case(
        "memory",
        f"{COUNT:,} no-ops, memory broker, threads pool, one process",
        [
            Figure("burn", "memory, threads: no-op burn-down", "tasks/s", "at least", 15_000),
            Figure("bulk", "memory: bulk enqueue, batches of 1,000", "tasks/s"),
        ],
        {OURS: no_op},
    )
]
