"""Both systems as the tests of interoperation see them: a client of each, a worker of each, and one broker."""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from kernel import Signature
from kernel.app import Kernel

APPS: Final = Path(__file__).resolve().parent / "apps"
PATIENCE: Final = 30.0
CELERY_PATIENCE: Final = 10.0


class Worker:
    """A worker of either system in a session of its own, its log in a file."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = dict(environment)
        self._log = log
        self._before = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Of the process that was started last."""
        return self._log.read_text(errors="replace")

    @property
    def whole_log(self) -> str:
        """Of all processes so far."""
        return self._before + self.log

    def start(self) -> Worker:
        """Started, not yet ready. It may be started again after its end."""
        if self.process is not None:
            self._before = self.whole_log
        with self._log.open("wb") as sink:
            self.process = subprocess.Popen(
                self._command,
                cwd=APPS,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def wait_ready(self) -> Worker:
        assert self.process is not None
        process = self.process
        wait_for(lambda: "ready." in self.log or process.poll() is not None, lambda: self.log)
        assert process.poll() is None, self.log
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """SIGTERM, and wait. Fails the test if that takes too long."""
        assert self._ends_within(PATIENCE), f"did not stop: {self.log[-3000:]}"

    def _ends_within(self, seconds: float) -> bool:
        """Whether it ends by SIGTERM in that time; killed if not."""
        if self.process is None or self.process.poll() is not None:
            return True
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def _wait(self) -> None:
        assert self.process is not None
        self.process.wait(PATIENCE)


class CeleryWorker(Worker):
    """One of Celery's, whose end is not ours to prove."""

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL.

        Stopped while a message is half on its way to a process of its prefork pool, Celery (5.7) waits without end
        for that process. Where its end matters, see `Theirs.retire`.
        """
        self._ends_within(CELERY_PATIENCE)


class Theirs:
    """Celery: its client in a process of its own, asked through a pipe."""

    name = "celery"
    queue = "celery"

    def __init__(self, python: Path, environment: Mapping[str, str], folder: Path) -> None:
        self._python = python
        self.environment = dict(environment)
        self._folder = folder
        self._log = folder / "client.log"
        with self._log.open("wb") as errors:
            self._client = subprocess.Popen(
                [str(python), "client.py"],
                cwd=APPS,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def worker(self, *queues: str, name: str = "theirs", slots: int = 2, **more: str) -> CeleryWorker:
        """A worker of these queues, not started; `more` are further variables of its environment."""
        words = ["-A", "theirs", "worker", "-l", "INFO", "-P", "prefork", "-c", str(slots), "-n", f"{name}@interop"]
        words += ["-Q", ",".join(queues), "--without-mingle", "--without-gossip", "--without-heartbeat"]
        command = [str(self._python), "-m", "celery", *words]
        return CeleryWorker(command, {**self.environment, **more}, self._folder / f"{name}.log")

    def retire(self, worker: CeleryWorker, *queues: str, name: str = "theirs") -> None:
        """Stop a worker of these queues when it has ended all that it took from them."""
        node = f"{name}@interop"
        for queue in queues:
            wait_for(lambda queue=queue: self.ask("leave", node, queue), lambda: worker.log)  # type: ignore[misc]
        wait_for(lambda: self.ask("held", node) == 0, lambda: worker.log)
        worker.stop()

    def close(self) -> None:
        assert self._client.stdin is not None
        self._client.stdin.close()
        try:
            self._client.wait(10)
        except subprocess.TimeoutExpired:
            self._client.kill()
            self._client.wait(10)

    def ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """What `Client.<verb>` in client.py returns. An exception of its is a failed test."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(base64.b64encode(pickle.dumps((verb, args, kwargs))) + b"\n")
        self._client.stdin.flush()
        ready, _, _ = select.select([self._client.stdout], [], [], 2 * PATIENCE)
        assert ready, f"no answer to {verb}{args}"
        line = self._client.stdout.readline()
        assert line, self._log.read_text(errors="replace")
        kind, answer = pickle.loads(base64.b64decode(line))
        assert kind == "value", (verb, args, answer)
        return answer

    def send(self, task: str, *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Any) -> str:
        return str(self.ask("send", task, args, dict(kwargs or {}), options))

    def send_many(self, task: str, calls: list[Any], **options: Any) -> list[str]:
        ids: list[str] = self.ask("send_many", task, calls, **options)
        return ids

    def get(self, id: str, timeout: float = PATIENCE, app: str = "") -> Any:
        """The value; an exception is an AssertionError."""
        kind, value = self.ask("get", id, timeout, app=app)
        assert kind == "value", value
        return value

    def error(self, id: str, timeout: float = PATIENCE, app: str = "") -> Any:
        """What `get` raises: its module, its qualified name, its arguments and its text."""
        kind, value = self.ask("get", id, timeout, app=app)
        assert kind == "error", value
        return value

    def watch(self, id: str, timeout: float = PATIENCE) -> list[Any]:
        seen: list[Any] = self.ask("watch", id, timeout)
        return seen

    def look(self, id: str, app: str = "") -> dict[str, Any]:
        found: dict[str, Any] = self.ask("look", id, app=app)
        return found

    def store(self, id: str, value: Any, state: str, *, app: str = "", error: str = "") -> None:
        self.ask("store", id, value, state, app=app, error=error)

    def configure(self, name: str, **settings: Any) -> None:
        self.ask("configure", name, **settings)

    def forget(self, id: str) -> None:
        self.ask("forget", id)


class Ours:
    """This project: its client in the process of the tests."""

    name = "kernel"
    queue = "kernel"

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.environment = dict(environment)
        self._folder = folder
        self._apps: dict[str, Kernel] = {}
        self.configure("")

    def worker(self, *queues: str, name: str = "ours", slots: int = 2, **more: str) -> Worker:
        """A worker of these queues, not started; `more` are further variables of its environment."""
        words = ["-A", "ours", "worker", "-l", "INFO", "-P", "prefork", "-c", str(slots), "-n", f"{name}@%h"]
        command = [sys.executable, "-m", "kernel", *words, "-Q", ",".join(queues)]
        return Worker(command, {**self.environment, **more}, self._folder / f"{name}.log")

    def configure(self, name: str, **settings: Any) -> None:
        module = importlib.import_module("ours")
        broker, backend = self.environment["INTEROP_BROKER"], self.environment["INTEROP_BACKEND"]
        if name in self._apps:
            self._apps[name].close()
        self._apps[name] = module.make("ours", broker, backend, **settings)

    @property
    def app(self) -> Kernel:
        return self._apps[""]

    def close(self) -> None:
        for app in self._apps.values():
            app.close()

    def send(self, task: str, *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Any) -> str:
        app = self._apps[options.pop("app", "")]
        for name in ("link", "link_error"):
            if name in options:
                options[name] = [self.signature(app, each) for each in options[name]]
        return str(app.tasks[task].apply_async(args, kwargs, **options).id)

    def send_many(self, task: str, calls: list[Any], **options: Any) -> list[str]:
        return [str(result.id) for result in self.app.tasks[task].map_delay(calls, **options)]

    @staticmethod
    def signature(app: Kernel, described: Mapping[str, Any]) -> Signature[Any]:
        options = dict(described)
        immutable = options.pop("immutable", False)
        return Signature(
            options.pop("task"),
            options.pop("args", ()),
            options.pop("kwargs", {}),
            options,
            immutable=immutable,
            app=app,
        )

    def result(self, id: str, app: str = "") -> Any:
        return self._apps[app].AsyncResult(id)

    def get(self, id: str, timeout: float = PATIENCE, app: str = "") -> Any:
        return self.result(id, app).get(timeout=timeout)

    def forget(self, id: str) -> None:
        self.result(id).forget()

    def error(self, id: str, timeout: float = PATIENCE, app: str = "") -> Any:
        try:
            value = self.result(id, app).get(timeout=timeout)
        except Exception as exc:
            return described(exc)
        raise AssertionError(f"it returned {value!r}")

    def watch(self, id: str, timeout: float = PATIENCE) -> list[Any]:
        seen: list[Any] = []
        self.result(id).get(timeout=timeout, propagate=False, on_message=seen.append)
        return [(meta["status"], plain(meta["result"])) for meta in seen]

    def look(self, id: str, app: str = "") -> dict[str, Any]:
        result = self.result(id, app)
        return {
            "state": result.state,
            "result": plain(result.result),
            "traceback": result.traceback,
            "children": None if result.children is None else [child.id for child in result.children],
            "date_done": result.date_done and result.date_done.isoformat(),
            **{name: getattr(result, name) for name in ("name", "args", "kwargs", "worker", "retries", "queue")},
            "parent_id": result.parent_id,
        }

    def store(self, id: str, value: Any, state: str, *, app: str = "", error: str = "") -> None:
        """As a worker's child stores it."""
        from kernel import states
        from kernel.interfaces.backend import Record
        from kernel.worker.running.end import encode_error

        bodies = importlib.import_module("bodies")
        owner = self._apps[app]
        data = encode_error(owner, bodies.RAISED[error]()) if error else owner.codecs.encode_result(value)
        done = time.time() if state in states.READY_STATES else None
        record = Record(id=id, state=state, result=data[0], content_type=data[1], content_encoding=data[2])
        record.date_done, record.traceback = done, "a text" if error else None
        owner.backend.store([record])


def described(exc: BaseException) -> tuple[str, str, list[Any], str]:
    """As `described` of client.py."""
    args = [arg if isinstance(arg, str | int | float | type(None)) else repr(arg) for arg in exc.args]
    return type(exc).__module__, type(exc).__qualname__, args, str(exc)


def plain(value: Any) -> Any:
    return described(value) if isinstance(value, BaseException) else value


def wait_for(condition: Callable[[], object], explain: Callable[[], str] = str, timeout: float = PATIENCE) -> None:
    """Until `condition` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} seconds: {explain()[-6000:]}")
        time.sleep(0.02)
