"""Our own side of a run: the app that publishes, and the worker as `kernel worker` starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import marks
from benchmarks.marks import DeliveryError
from benchmarks.processes import Process
from kernel import Kernel

DRAIN_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run lives: its folder, its app, and the environment that leads a worker to the same place."""

    folder: Path
    app: Kernel
    environment: dict[str, str]

    @property
    def marks(self) -> Path:
        return self.folder / "marks"

    def worker(
        self,
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: Sequence[str] = (),
        stop_signal: signal.Signals = signal.SIGTERM,
        statuses: Sequence[int] = (0,),
    ) -> Process:
        """As shipped: INFO log to a file, leases, adaptive credit."""
        command = [str(Path(sys.executable).parent / "kernel"), "-A", "benchmarks.tasks", "worker"]
        command += ["-P", pool, "-c", str(concurrency), "-l", "INFO"]
        if queues:
            command += ["-Q", ",".join(queues)]
        log = self.folder / "worker.log"
        return Process(command, log=log, environment=self.environment, stop_signal=stop_signal, statuses=statuses)

    def waiting(self) -> int:
        """Messages that are not settled yet, in all queues."""
        return sum(queue.ready + queue.delayed + queue.claimed for queue in self.app.broker.stats())

    def empty(self, queue: str) -> None:
        """Delete the one message in it, which may have been sent without waiting for the server. Raises
        DeliveryError."""
        deadline = time.monotonic() + DRAIN_DEADLINE
        while not self.app.broker.purge(queue):
            if time.monotonic() > deadline:
                raise DeliveryError(f"the message that was sent to {queue} never came")
            time.sleep(0.01)

    def dead(self) -> int:
        return sum(queue.dead for queue in self.app.broker.stats())

    def settled(self) -> float:
        """The moment when nothing waits and nothing is claimed any more. Raises DeliveryError after a while."""
        deadline = time.monotonic() + DRAIN_DEADLINE
        while self.waiting():
            if time.monotonic() > deadline:
                raise DeliveryError(f"{self.waiting()} messages were not settled {DRAIN_DEADLINE:.0f} s after they ran")
            time.sleep(0.01)
        if self.dead():
            raise DeliveryError(f"{self.dead()} messages died")
        return time.monotonic()


@contextlib.contextmanager
def place(folder: Path, url: str | None = None, results: str | None = None) -> Iterator[Place]:
    """A run's place: the embedded default in `folder`, or the server at `url`, with results there or at `results`.
    The app is closed afterwards."""
    variables = {"BENCH_MARKS": str(folder / "marks")}
    variables |= {"BENCH_URL": url} if url else {"KERNEL_DATA": str(folder / "kernel.db")}
    variables |= {"BENCH_RESULTS": results} if results else {}
    before = {name: os.environ.get(name) for name in ("BENCH_MARKS", "BENCH_URL", "BENCH_RESULTS", "KERNEL_DATA")}
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        from benchmarks.tasks import make

        app = make()
        try:
            yield Place(folder, app, {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())})
        finally:
            app.close()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _import_path() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [str(Path(__file__).resolve().parent.parent), *([given] if given else [])]


def bulk(app: Kernel, name: str, calls: Sequence[tuple[Any, ...]], *, size: int = 1000, **options: Any) -> list[Any]:
    """Publish calls in batches of `size`; the results in the order of the calls."""
    task = app.tasks[name]
    results: list[Any] = []
    for first in range(0, len(calls), size):
        results += task.map_delay(calls[first : first + size], **options)
    return results


def burn_down(here: Place, count: int, *, pool: str = "prefork", concurrency: int = 2, seconds: float = 120) -> float:
    """Tasks a second over tasks that wait already, from the first start to the last settlement."""
    with here.worker(pool=pool, concurrency=concurrency) as worker:
        marks.wait(here.marks, count, seconds=seconds, check=worker.check)
        end = here.settled()
        # A second delivery would come now or when the worker stops.
        time.sleep(0.3)
    # Not every server tells of what another process has claimed; what it gave back waits now.
    here.settled()
    first, last = marks.span(here.marks, count)
    return count / (max(end, last) - first)
