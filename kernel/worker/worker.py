"""`Worker`: a worker inside somebody's program; and `serve`, the worker of the command line."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kernel import drivers, errors
from kernel.extensions import Extensions
from kernel.interfaces.broker import Broker, BrokerConfig
from kernel.worker import manifest as manifests
from kernel.worker.engine.engine import Engine
from kernel.worker.engine.shutdown import Stage
from kernel.worker.executors import Executors
from kernel.worker.failpoints import Failpoints
from kernel.worker.local import Local
from kernel.worker.manifest import Manifest
from kernel.worker.options import WorkerOptions
from kernel.worker.processes.children import Children

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

IMPORT_SECONDS = 120.0
_SWITCH_SECONDS = 0.0005


class Worker:
    """A worker in this process, usable from any thread; it installs no signal handler and leaves no thread.

    With ``processes=0`` (the default) tasks run on threads of this process, by the pool `pool` (``threads``).
    With more, they run in child processes, which import the app by `app_path` (``module`` or ``module:attr``).
    `settings` override the app's.

        with Worker(app, concurrency=4) as worker:
            add.delay(2, 3).get(timeout=5)
    """

    def __init__(
        self,
        app: Kernel,
        *,
        queues: Sequence[str] = (),
        pool: str | None = None,
        concurrency: int | None = None,
        processes: int = 0,
        hostname: str = "",
        app_path: str = "",
        **settings: Any,
    ) -> None:
        if processes and not app_path:
            raise errors.ImproperlyConfigured(
                f"a worker with {processes} child process(es) needs app_path='module:attribute', by which they import "
                "the app; with processes=0 tasks run in this process"
            )
        self._app = app
        self._options = WorkerOptions(
            app=app_path,
            hostname=hostname or f"embedded-{os.getpid()}@%h",
            queues=tuple(queues),
            pool=pool or ("prefork" if processes else "threads"),
            concurrency=concurrency,
            processes=processes,
            settings=settings,
        )
        self._engine: Engine | None = None
        self._asked: tuple[Stage, str] | None = None
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._error: BaseException | None = None
        self.status: int | None = None

    @property
    def hostname(self) -> str:
        """The node's name."""
        return manifests.node_name(self._options.hostname)

    def start(self, timeout: float = 30.0) -> Worker:
        """Run in a thread of its own, and return when it consumes.

        Raises what keeps it from starting, or `errors.TimeoutError`.
        """
        if self._thread is not None:
            raise errors.ImproperlyConfigured("this worker was started before; make a new one")
        self._thread = threading.Thread(target=self._run, name="kernel-worker", daemon=True)
        self._thread.start()
        if not self._up.wait(timeout):
            self.stop(timeout=5.0)
            raise errors.TimeoutError(f"the worker was not ready within {timeout:g} seconds")
        if self._error is not None:
            self._thread.join(timeout)
            raise self._error
        return self

    def drain(self, timeout: float | None = None) -> bool:
        """Claim nothing more, finish what runs, end; whether it has ended in time."""
        self._ask(Stage.WARM, "drain")
        return self.wait(timeout)

    def stop(self, timeout: float | None = 10.0) -> bool:
        """End now: what runs is interrupted where it can be, and goes back; whether it has ended in time."""
        self._ask(Stage.COLD, "stop")
        return self.wait(timeout)

    def _ask(self, stage: Stage, reason: str) -> None:
        self._asked = (stage, reason)
        if self._engine is not None:
            self._engine.stop(stage, reason=reason)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it has come."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.drain(timeout=30.0):
            self.stop()

    def _run(self) -> None:
        try:
            self._engine = self._build()
            if self._asked is not None:  # while it was being built
                self._engine.stop(self._asked[0], reason=self._asked[1])
            self._engine.on_ready(self._up.set)
            self.status = self._engine.run()
        except BaseException as exc:
            self._error = exc
        finally:
            if self.status:
                self._error = self._error or errors.OperationalError(f"the worker ended: {self._engine_reason()}")
            self._up.set()

    def _engine_reason(self) -> str:
        return self._engine.reason if self._engine is not None else "it could not be built"

    def _build(self) -> Engine:
        if self._options.processes:
            children = Children(channel=os.environ.get("KERNEL_WORKER_CHANNEL", ""))
            children.execute(self._options)
            try:
                manifest = children.manifest(IMPORT_SECONDS)
                return engine_of(manifest, children)
            except BaseException:
                children.close()
                raise
        manifest = manifests.describe(self._app, self._options)
        manifest.tasks = manifests.LiveTasks(self._app)
        local = Local(self._app, manifest, failpoints=Failpoints.from_environment(os.environ))
        broker = self._app.broker_for_worker()
        return Engine(manifest, broker, local, self._app.extensions, owns_broker=False)


def broker_of(manifest: Manifest) -> Broker:
    """The broker's driver, not opened."""
    driver = drivers.load("brokers", manifest.broker["url"], choices=manifest.settings.get("drivers"))
    broker: Broker = driver(BrokerConfig(**manifest.broker))
    return broker


def engine_of(manifest: Manifest, executors: Executors, *, exit_when_stalled: bool = False) -> Engine:
    """An engine that has no app: its plugins are those of entry points and of the setting `plugins`."""
    extensions = Extensions({**manifest.settings, "plugins": manifest.plugins}, where="engine")
    return Engine(manifest, broker_of(manifest), executors, extensions, exit_when_stalled=exit_when_stalled)


def serve(
    options: WorkerOptions,
    load_app: Callable[[], Kernel],
    *,
    before_run: Callable[[Engine, Manifest], None],
    log: Callable[[Mapping[str, Any]], None],
) -> int:
    """Be the worker of a command, on the main thread of a process that has no threads and no app yet.

    Raises `ImproperlyConfigured` when the app cannot be used. `log` sets up logging once the settings are known,
    `before_run` installs signal handlers.
    """
    if options.processes != 0:
        children = Children(channel=os.environ.get("KERNEL_WORKER_CHANNEL", ""))
        children.fork(options, load_app)
        try:
            manifest = children.manifest(IMPORT_SECONDS)
        except BaseException:
            children.close()
            raise
        if manifest.processes:
            log(manifest.settings)
            # Loop, pump and renewer hand work to one another; a thread that computes must not hold them up for
            # the 5 ms that Python grants it. This process is all ours, so the setting harms nobody.
            sys.setswitchinterval(_SWITCH_SECONDS)
            engine = engine_of(manifest, children, exit_when_stalled=True)
            before_run(engine, manifest)
            return engine.run()
        children.close()
    app = load_app()
    manifest = manifests.describe(app, options)
    log(app.conf)
    local = Local(app, manifest, failpoints=Failpoints.from_environment(os.environ))
    broker = app.broker_for_worker()
    engine = Engine(manifest, broker, local, app.extensions, exit_when_stalled=True, owns_broker=False)
    before_run(engine, manifest)
    try:
        return engine.run()
    finally:
        app.close()
