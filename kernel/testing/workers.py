"""Real workers in real processes, for tests that kill, freeze and starve them.

A `Project` is a folder with an app in it; its tasks write what they do into a ledger, an append-only file that
survives any kill of a process. `WorkerProcess` is a worker of the command line on that app.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kernel.app import Kernel

_HEAD: Final = '''
import ctypes, os, signal, sys, time
from kernel import Kernel
from kernel.errors import Ignore, Reject, SoftTimeLimitExceeded

app = Kernel({name!r}{settings})
_LEDGER = {ledger!r}


def note(word, key):
    """One line in the ledger: a single write to a file opened for appending is atomic."""
    fd = os.open(_LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{{word}} {{key}} {{os.getpid()}} {{time.time():.6f}}\\n".encode())
    finally:
        os.close(fd)


@app.task
def work(key, seconds=0.0):
    """Begin, take some time, commit."""
    note("BEGIN", key)
    if seconds:
        time.sleep(seconds)
    note("COMMIT", key)
    return key


@app.task
def add(x, y):
    return x + y
'''


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the ledger. `at` is in Unix seconds."""

    word: str
    key: str
    pid: int
    at: float


class Project:
    """A folder with the module `proj` and its app. `settings` are given to the constructor of the app; `tasks`
    is more source for the module, which has `app`, `note`, `work` and `add` already."""

    def __init__(self, folder: Path, *, tasks: str = "", **settings: Any) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.txt"
        self.data = folder / "data.db"
        given = "".join(f", {name}={value!r}" for name, value in settings.items())
        source = _HEAD.format(name="proj", settings=given, ledger=str(self.ledger)) + tasks
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "proj.py").write_text(source)
        self._app: Kernel | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KERNEL_", "CELERY_"))}
        return {
            **kept,
            "KERNEL_DATA": str(self.data),
            "KERNEL_RUN_DIR": str(self.folder / "run"),
            "PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, [kept.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
            "C_FORCE_ROOT": "1",
        }

    @property
    def app(self) -> Kernel:
        """The app, imported into this process, on the same data."""
        if self._app is None:
            specification = importlib.util.spec_from_file_location("proj", self.folder / "proj.py")
            assert specification is not None
            assert specification.loader is not None
            module = importlib.util.module_from_spec(specification)
            specification.loader.exec_module(module)
            app: Kernel = module.app
            if not app.conf.broker_url:
                url = f"sqlite:///{self.data}"
                app.conf.update(broker_url=url, result_backend=url)
            self._app = app
        return self._app

    def task(self, name: str) -> Any:
        return self.app.tasks[f"proj.{name}"]

    def close(self) -> None:
        """Close the app, and kill every worker on it that is still there: a test that fails leaves none behind."""
        _kill_all(f"KERNEL_DATA={self.data}".encode())
        if self._app is not None:
            self._app.close()

    def notes(self) -> list[Note]:
        """The ledger so far."""
        if not self.ledger.exists():
            return []
        rows = [line.split() for line in self.ledger.read_text().splitlines()]
        return [Note(row[0], row[1], int(row[2]), float(row[3])) for row in rows if len(row) == 4]

    def counts(self, word: str) -> Counter[str]:
        """How often each key was noted with `word`."""
        return Counter(note.key for note in self.notes() if note.word == word)

    def command(self, *arguments: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``kernel ARGUMENTS`` on this project."""
        return subprocess.run(
            [sys.executable, "-m", "kernel", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
        )


class WorkerProcess:
    """``kernel -A proj worker ARGUMENTS`` in a session of its own; as a context manager it is ready inside and
    gone after."""

    def __init__(
        self, project: Project, *arguments: str, environment: Mapping[str, str] | None = None, app: str = "proj"
    ) -> None:
        self.project = project
        number = len(list(project.folder.glob("worker-*.log")))
        self.log_file = project.folder / f"worker-{number}.log"
        self._log = self.log_file.open("wb")
        name = ["-n", f"w{number}@%h"] if "-n" not in arguments else []
        level = ["-l", "INFO"] if "-l" not in arguments else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kernel", "-A", app, "worker", *level, *name, *arguments],
            cwd=project.folder,
            env={**project.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_ready(self, timeout: float = 30.0) -> WorkerProcess:
        """Until it consumes. Raises AssertionError with its log when it ends or takes too long."""
        wait_for(lambda: "ready." in self.log or self.process.poll() is not None, timeout, lambda: self.log)
        assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.log}"
        return self

    def descendants(self) -> list[int]:
        """Process ids below it: the fork server and the children."""
        return _descendants(self.pid)

    @property
    def fork_server(self) -> int:
        """The process that forks the children. Raises ValueError when there is none."""
        (server,) = _children_of(self.pid)
        return server

    def children(self) -> list[int]:
        """The processes that run tasks."""
        servers = _children_of(self.pid)
        return [pid for server in servers for pid in _children_of(server)]

    def kill_child(self, dice: Random) -> bool:
        """SIGKILL to one of them; False when there was none, or it has just ended by itself."""
        victims = self.children()
        if not victims:
            return False
        try:
            os.kill(dice.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """To every process of the worker at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self, timeout: float = 10.0) -> None:
        """SIGKILL to the engine alone, then wait until all below it are gone."""
        below = self.descendants()
        self.process.kill()
        self.process.wait(timeout)
        wait_for(lambda: not any(_alive(pid) for pid in below), timeout, lambda: f"left behind: {below}")

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and its exit status. Raises `subprocess.TimeoutExpired`, having killed it."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal_all(signal.SIGKILL)
            raise
        finally:
            self._log.close()

    def __enter__(self) -> WorkerProcess:
        try:
            return self.wait_ready()
        except BaseException:
            self.signal_all(signal.SIGKILL)
            self.process.wait(10)
            self._log.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
            return
        self.signal_all(signal.SIGKILL)
        self.process.wait(10)
        self._log.close()
        if isinstance(error, Exception):
            error.add_note(f"--- {self.log_file.name}:\n{self.log[-6000:]}")


def wait_for(condition: Callable[[], object], timeout: float, explain: Callable[[], str] = str) -> None:
    """Until `condition` is true. Raises AssertionError with `explain()` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} seconds: {explain()}")
        time.sleep(0.02)


def results_within(results: Sequence[Any], timeout: float) -> list[Any]:
    """The values of results, all within `timeout` seconds together; exceptions in place of raising."""
    deadline = time.monotonic() + timeout
    return [result.get(timeout=max(0.1, deadline - time.monotonic()), propagate=False) for result in results]


def _children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    found = []
    for child in _children_of(pid):
        found += [child, *_descendants(child)]
    return found


def _kill_all(variable: bytes) -> None:
    """SIGKILL to the processes that were started with `variable`, ``NAME=value``, in their environment."""
    for _ in range(100):  # a fork server may make another child meanwhile
        found = [pid for pid in _numbers() if variable in _environment_of(pid) and pid != os.getpid()]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _numbers() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _environment_of(pid: int) -> list[bytes]:
    # Of a process that has ended, or of another user, nothing can be read.
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != b"Z"


@contextlib.contextmanager
def project_in(folder: Path, **options: Any) -> Iterator[Project]:
    """A project, closed at the end."""
    project = Project(folder, **options)
    try:
        yield project
    finally:
        project.close()
