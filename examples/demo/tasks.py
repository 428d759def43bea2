"""The app of the demo: tasks that read files. Run a worker for it with `kernel -A tasks worker`.

No broker is named, so everything lives in one SQLite file beside this module: `.kernel/tasks.db`.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any, TypedDict

from kernel import Kernel, Task

app = Kernel("tasks", result_extended=True)  # so that a result also knows how often its task was retried


class Measure(TypedDict):
    """What is known of a file once it was read."""

    path: str
    bytes: int
    lines: int
    words: int
    sha256: str
    seconds: float
    pid: int


def read(path: str) -> Measure:
    began = time.perf_counter()
    data = Path(path).read_bytes()
    text = data.decode("utf-8", errors="replace")
    return Measure(
        path=path,
        bytes=len(data),
        lines=text.count("\n"),
        words=len(text.split()),
        sha256=hashlib.sha256(data).hexdigest(),
        seconds=time.perf_counter() - began,
        pid=os.getpid(),
    )


@app.task
def measure(path: str) -> Measure:
    """Read a file, count its lines and words, hash it."""
    return read(path)


@app.task(bind=True, max_retries=3, autoretry_for=(OSError,), retry_backoff=True)
def measure_unsteadily(self: Task[Any, Any], path: str) -> Measure:
    """The same on a disk that fails the first time. An OSError is retried, so it ends well."""
    if self.request.retries == 0:
        raise OSError(f"the disk was not ready for {path} (this happens once, on purpose)")
    return read(path)


@app.task(autoretry_for=(OSError,), max_retries=3)
def measure_in_vain(path: str) -> Measure:
    """The same for a file that nobody can measure. A ValueError is not retried, so this is a failure."""
    raise ValueError(f"{path} will never be measurable (on purpose); trying again would not help")
