"""One burn-down with a worker embedded in this process; prints one JSON object. Used by the memory benchmark.

Everything is in one process here, so each task proves that it ran by an entry in a list, not in a file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from benchmarks import marks, ours
from benchmarks.tasks import make
from kernel.worker import logs
from kernel.worker.options import LogOptions
from kernel.worker.worker import Worker


def main(count: int) -> int:
    path = Path(os.environ["BENCH_MARKS"])
    app = make()
    # The log of a worker as shipped, to a file.
    logs.set_up(LogOptions(level="INFO", file=str(path.with_name("worker.log"))), app.conf, process="embedded")
    ran: list[tuple[int, float]] = []

    def note(number: int) -> None:
        ran.append((number, time.monotonic()))

    app.tasks["noop"].run = note  # type: ignore[method-assign]
    here = ours.Place(path.parent, app, {})
    began = time.perf_counter()
    ours.bulk(app, "noop", [(number,) for number in range(count)])
    sent = time.perf_counter() - began
    worker = Worker(app, pool="threads", concurrency=2, processes=0)
    worker.start()
    try:
        deadline = time.monotonic() + 120
        while len(ran) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        end = here.settled()
    finally:
        worker.stop()
    first, last = marks.check(ran, count)
    print(json.dumps({"burn": count / (max(end, last) - first), "bulk": count / sent}))
    app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
