"""One burn-down with a worker embedded in this process; prints one JSON object. Used by the memory benchmark."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

from benchmarks import marks, ours
from benchmarks.tasks import make
from kernel.worker.worker import Worker


def nothing() -> None:
    """The worker is a part of this process: if it died we would not be here."""


def main(count: int) -> int:
    path = Path(os.environ["BENCH_MARKS"])
    logging.basicConfig(level=logging.INFO, filename=path.with_name("worker.log"))
    app = make()
    here = ours.Place(path.parent, app, {})
    began = time.perf_counter()
    ours.bulk(app, "noop", [(number,) for number in range(count)])
    sent = time.perf_counter() - began
    worker = Worker(app, pool="threads", concurrency=2, processes=0)
    worker.start()
    try:
        marks.wait(path, count, seconds=120, check=nothing)
        end = here.settled()
    finally:
        worker.stop()
    first, last = marks.span(path, count)
    print(json.dumps({"burn": count / (max(end, last) - first), "bulk": count / sent}))
    app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
