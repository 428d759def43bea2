"""The demo: one worker, one real job, no server. `make demo` runs it.

Every Markdown and Python file of this repository is read, counted and hashed by one task. One task fails once
and is retried; one fails for good. Every wait below is bounded, and a worker that dies is reported at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screen import Progress, note, table

if TYPE_CHECKING:
    from kernel import AsyncResult

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
# Where the embedded default keeps its file, unless KERNEL_DATA names another place.
DATA = Path(os.environ.get("KERNEL_DATA") or HERE / ".kernel/tasks.db").absolute()
LOG = DATA.with_name("worker.log")
SKIPPED = {"dist", "build", "node_modules", "__pycache__"}
CHILDREN = 2
JOB_DEADLINE = 120.0
STOP_DEADLINE = 30.0


class DemoError(Exception):
    """The demo cannot go on; the text says why and where to look."""


def files(root: Path) -> Iterator[Path]:
    """Markdown and Python files of the repository, without what was generated."""
    for folder, names, found in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in SKIPPED)
        yield from (Path(folder, name) for name in sorted(found) if name.endswith((".md", ".py")))


@dataclass(slots=True)
class WorkerProcess:
    """`kernel -A tasks worker` as a process of its own, with its log in a file."""

    log: Path
    command: list[str] = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        executable = Path(sys.executable).parent / "kernel"
        options = ["-P", "prefork", "-c", str(CHILDREN), "-l", "INFO", "-n", "demo@%h"]
        self.command = [str(executable), "-A", "tasks", "worker", *options]

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                self.command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
            )

    def check(self) -> None:
        """Raise DemoError if the worker is gone."""
        status = self.process.poll()
        if status is not None:
            tail = "\n    ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise DemoError(f"the worker ended with status {status} before the job was done. Its log ends:\n    {tail}")

    def stop(self) -> None:
        """SIGTERM, and the worker finishes what it has. Raise DemoError if it does not end well and in time."""
        self.check()
        self.process.terminate()
        try:
            status = self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            late = f"the worker did not stop within {STOP_DEADLINE:.0f} s of SIGTERM; see {self.log}"
            raise DemoError(late) from None
        if status != 0:
            raise DemoError(f"the worker stopped with status {status} instead of 0; see {self.log}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_DEADLINE)


@dataclass(slots=True)
class Job:
    """What was sent, and what came of it."""

    sent: list[tuple[str, AsyncResult[Any]]]
    measures: list[Any] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    retried: list[tuple[str, int]] = field(default_factory=list)
    seconds: float = 0.0

    def collect(self, worker: WorkerProcess) -> None:
        """Wait for every result in turn, looking after the worker once a second."""
        began = time.monotonic()
        with Progress(len(self.sent)) as progress:
            for name, result in self.sent:
                self._note(name, result, self._wait(result, worker, deadline=began + JOB_DEADLINE))
                progress.advance()
        self.seconds = time.monotonic() - began

    def _wait(self, result: AsyncResult[Any], worker: WorkerProcess, *, deadline: float) -> Any:
        from kernel.errors import TimeoutError

        while time.monotonic() < deadline:
            try:
                return result.get(timeout=1, propagate=False)
            except TimeoutError:
                worker.check()
        raise DemoError(f"the job was not done within {JOB_DEADLINE:.0f} s; see {worker.log}")

    def _note(self, name: str, result: AsyncResult[Any], value: Any) -> None:
        if result.successful():
            self.measures.append(value)
        else:
            self.failures.append((name, f"{type(value).__name__}: {value}"))
        if result.retries:
            self.retried.append((name, result.retries))


def send(paths: list[Path]) -> Job:
    """Publish one task a file in few round trips, and the two that misbehave."""
    from tasks import measure, measure_in_vain, measure_unsteadily

    names = [path.relative_to(REPOSITORY).as_posix() for path in paths]
    unsteady = ("measure_unsteadily(README.md)", measure_unsteadily.delay(str(REPOSITORY / "README.md")))
    in_vain = ("measure_in_vain(nowhere.md)", measure_in_vain.delay("nowhere.md"))
    results = measure.map_delay([(str(path),) for path in paths])
    return Job([*zip(names, results, strict=True), in_vain, unsteady])


def show(job: Job) -> None:
    """The result tables."""
    measures = job.measures

    def row(m: Any) -> list[str]:
        name = os.path.relpath(m["path"], REPOSITORY)
        return [name, f"{m['lines']:,}", f"{m['bytes']:,}", f"{m['seconds'] * 1000:.2f}", m["sha256"][:12]]

    heads = ["file", "lines", "bytes", "ms", "sha256"]
    table("Biggest", heads, [row(m) for m in sorted(measures, key=lambda m: -m["bytes"])[:5]])
    table("Slowest", heads, [row(m) for m in sorted(measures, key=lambda m: -m["seconds"])[:5]])
    totals = [f"{len(measures):,}", *(f"{sum(m[key] for m in measures):,}" for key in ("lines", "words", "bytes"))]
    children = len({m["pid"] for m in measures})
    rate = f"{len(job.sent) / job.seconds:,.0f}/s"
    heads = ["files", "lines", "words", "bytes", "children", "seconds", "tasks"]
    table("Totals", heads, [[*totals, str(children), f"{job.seconds:.2f}", rate]])
    table("Retried, then done", ["task", "retries"], [[name, str(count)] for name, count in job.retried])
    table("Failed, as it should", ["task", "reason"], [[name, reason] for name, reason in job.failures])


def verify(job: Job, paths: list[Path]) -> None:
    """Each file once, one failure, one retry: otherwise say what is wrong."""
    measured = sorted(measure["path"] for measure in job.measures)
    expected = sorted([*map(str, paths), str(REPOSITORY / "README.md")])
    if measured != expected:
        raise DemoError(f"{len(expected)} files were to be measured once each, and {len(measured)} results came back")
    if [name for name, _ in job.failures] != ["measure_in_vain(nowhere.md)"]:
        raise DemoError(f"exactly measure_in_vain was to fail; failed: {job.failures}")


def forget_last_run() -> None:
    """An aborted run may have left tasks behind; this demo counts its own alone. A file of yours is left alone."""
    if not os.environ.get("KERNEL_DATA"):
        for old in DATA.parent.glob(f"{DATA.name}*"):
            # Beside the database there is a folder, by which processes wake each other.
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def demo() -> None:
    paths = list(files(REPOSITORY))
    forget_last_run()
    sys.path.insert(0, str(HERE))
    worker = WorkerProcess(LOG)
    note(f"kernel demo: {len(paths)} Markdown and Python files, one task each, on SQLite; no server needed")
    note(f"worker: kernel {' '.join(worker.command[1:])}   (log: {os.path.relpath(worker.log)})")
    worker.start()
    try:
        job = send(paths)
        job.collect(worker)
        worker.stop()
    finally:
        worker.kill()
    show(job)
    verify(job, paths)
    note(f"\nThe worker stopped cleanly. Everything it knows is in {os.path.relpath(DATA)}.\n")
    say_what_next()


def say_what_next() -> None:
    home, binary = os.path.relpath(HERE), Path(sys.executable).parent
    near, far = os.path.relpath(binary), os.path.relpath(binary, HERE)
    call = "from tasks import measure; print(measure.delay('tasks.py').get(timeout=10))"
    note("Try next:")
    note(f"  cd {home} && {far}/kernel -A tasks worker -l INFO      # a worker to watch; Ctrl-C stops it")
    note(f'  cd {home} && {far}/python -c "{call}"')
    note(f"  {near}/kernel plugins; {near}/kernel doctor      # what is installed, and how it is")


def main() -> int:
    from kernel import KernelError

    try:
        demo()
    except (DemoError, KernelError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
