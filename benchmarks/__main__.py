"""Run the benchmarks: `python -m benchmarks [name ...]`; names are those of cases, or how they begin.

What was measured of a case stays in `.kernel/benchmarks.json` until it is measured again; once all cases are there,
the page of the documentation is written.
BENCH_RUNS (5) runs of each, BENCH_SCALE (1) times as many tasks, BENCH_DIR where their files are, BENCH_KEEP keeps
them. The exit status is 1 when something that must hold does not, or when a run of ours failed its delivery check.
"""

from __future__ import annotations

import os
import sys

from benchmarks import report
from benchmarks.cases import canvas, memory, postgresql, rabbitmq, redis, rest, sqlite, start
from benchmarks.harness import Case, measure, say

CASES: list[Case] = [
    *start.CASES,
    *memory.CASES,
    *sqlite.CASES,
    *rest.CASES,
    *postgresql.CASES,
    *redis.CASES,
    *rabbitmq.CASES,
    *canvas.CASES,
]


def main(names: list[str]) -> int:
    chosen = [case for case in CASES if not names or any(case.name.startswith(name) for name in names)]
    if not chosen:
        known = ", ".join(case.name for case in CASES)
        print(f"no benchmark begins with {' or '.join(names)}; there are: {known}", file=sys.stderr)
        return 2
    runs = int(os.environ.get("BENCH_RUNS", "5"))
    outcomes = []
    for case in chosen:
        say(f"{case.name}: {case.what}")
        outcomes.append(measure(case, runs))
    print(report.text(outcomes, runs))
    if "BENCH_SCALE" not in os.environ:  # a quick look never replaces measured figures
        report.write(outcomes, runs, CASES)
    held = [outcome.held(figure) for outcome in outcomes for figure in outcome.case.figures]
    return 1 if False in held else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
