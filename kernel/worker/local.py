"""The pool in the worker's own process: for tests, debugging, embedding, and brokers that do not leave it."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernel import drivers, errors
from kernel.interfaces.backend import Record
from kernel.interfaces.pool import Drained, PoolConfig
from kernel.worker import lookout, slots
from kernel.worker.assignment import Assignment, Ending, are_plain
from kernel.worker.claims.item import Item
from kernel.worker.executors import Listener
from kernel.worker.failpoints import Failpoints
from kernel.worker.jobs import INTERRUPTS, HostedJob
from kernel.worker.manifest import Manifest
from kernel.worker.running.cleaning import Cleaner
from kernel.worker.running.execute import Executor, TaskJob
from kernel.worker.running.outbox import Outbox
from kernel.worker.slots import Holding
from kernel.worker.waker import Waker

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")


class LocalJob(HostedJob):
    """A task in this process. `started` is on the monotonic clock, 0.0 before it begins and `slots.ENDED` after."""

    __slots__ = ("started",)

    def __init__(self, host: Local, assignment: Assignment, inner: TaskJob) -> None:
        super().__init__(host, assignment, inner)
        self.started = 0.0


class LocalInbox:
    """Implements `kernel.interfaces.pool.Inbox` over a queue in memory."""

    def __init__(self, idle: Callable[[], None]) -> None:
        self._jobs: queue.SimpleQueue[LocalJob | None] = queue.SimpleQueue()
        self._idle = idle
        self._waker: Waker | None = None
        self._ended = False

    def put(self, job: LocalJob | None) -> None:
        self._jobs.put(job)
        if self._waker is not None:
            self._waker.wake()

    def end(self) -> None:
        """No more will come."""
        if not self._ended:
            self._ended = True
            self.put(None)

    def get_back(self) -> list[LocalJob]:
        """Take out what nobody has taken."""
        jobs: list[LocalJob] = []
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                jobs.append(job)
        if self._ended:
            self.put(None)  # some takers may not have seen it yet
        return jobs

    def take(self, limit: int, timeout: float | None) -> Sequence[LocalJob]:
        if self._waker is not None:
            self._waker.reset()
        jobs = self._get(limit, timeout)
        if self._waker is not None and not self._jobs.empty():
            self._waker.wake()  # readable as long as there is something
        return jobs

    def _get(self, limit: int, timeout: float | None) -> Sequence[LocalJob]:
        jobs: list[LocalJob] = []
        try:
            job = self._jobs.get(timeout=timeout) if timeout != 0 else self._jobs.get_nowait()
            while job is not None:
                jobs.append(job)
                if len(jobs) >= limit:
                    return jobs
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs
        self.put(None)  # the end stands for every taker
        if not jobs:
            raise Drained
        return jobs

    def fileno(self) -> int:
        if self._waker is None:
            self._waker = Waker()
            self._waker.wake()
        return self._waker.fileno()

    def idle(self) -> None:
        self._idle()

    def close(self) -> None:
        if self._waker is not None:
            self._waker.close()


class Local:
    """Implements `Executors`, `kernel.worker.assignment.Sink` and `kernel.hooks.ChildInfo` in this process."""

    patience = 3.0
    goes_on = False

    def __init__(self, app: Kernel, manifest: Manifest, *, failpoints: Failpoints) -> None:
        self.app = app
        self.slots = manifest.slots
        self.number = 0
        self.pid = os.getpid()
        self._executor = Executor(app, hostname=manifest.hostname, sink=self)
        self._inbox = LocalInbox(self._flush)
        self._outcomes: deque[tuple[str, Any]] = deque()
        # Short tasks that came together and have not begun: while there are any, ends can wait for company.
        self._short: set[int] = set()
        self._waker = Waker()
        self._active: dict[int, LocalJob] = {}
        self._running: dict[int, float] = {}
        """Since when, by number."""
        self._stolen: set[int] = set()
        self._listener: Listener | None = None
        self._valid_until = float("inf")
        self._give_up_at = 0.0
        self._outbox = Outbox(
            app,
            atomic=manifest.atomic_end,
            atomic_chords=manifest.atomic_chords,
            deliver=self._deliver,
            resume=self._resume,
            valid=self.lease_valid,
            gives_up=self._gives_up,
            failpoints=failpoints,
        )
        driver = drivers.load("pools", manifest.pool, choices=manifest.settings.get("drivers"))
        if not driver.capabilities.in_process:
            raise errors.ImproperlyConfigured(
                f"the pool {manifest.pool!r} runs tasks in child processes and cannot be hosted with processes=0; "
                "use 'threads', 'solo' or 'asyncio' for that"
            )
        self._pool = driver(PoolConfig(slots=manifest.slots, settings=manifest.pool_settings))
        self._thread = threading.Thread(target=self._serve, name="kernel-pool", daemon=True)
        self._cleaner = Cleaner.of(app)

    def open(self, listener: Listener) -> None:
        self._listener = listener
        self.app.extensions.setup("kernel_child_start", child=self)
        self._thread.start()
        if self._cleaner is not None:
            self._cleaner.start()
        lookout.look(self.app)

    def let_go_on(self, value: bool) -> None:
        """What runs here is settled by the engine, which is at hand."""

    def _serve(self) -> None:
        try:
            self._pool.serve(self._inbox)
        except BaseException as exc:
            _log.critical("the pool has failed", exc_info=exc)
            self._tell("failed", f"the pool has failed: {exc!r}")
        finally:
            self._outbox.close()
            self._waker.wake()

    def lease_valid(self) -> bool:
        return time.monotonic() < self._valid_until

    def set_lease(self, until: float) -> None:
        self._valid_until = until

    def give_up_at(self, moment: float) -> None:
        self._give_up_at = moment

    def _gives_up(self) -> bool:
        return 0.0 < self._give_up_at <= time.monotonic()

    # Executors ----------------------------------------------------------------------------------------------

    def selectables(self) -> Sequence[tuple[Any, Callable[[], None]]]:
        return [(self._waker, self.collect)]

    @property
    def ready(self) -> bool:
        return self._thread.is_alive()

    def send(self, items: Sequence[Item]) -> bool:
        if len(items) > 1:
            self._short.update(item.seq for item in items)
        for item in items:
            assignment = item.assignment(self.lease_valid)
            job = LocalJob(self, assignment, self._executor.job(assignment))
            self._active[item.seq] = job
            self._inbox.put(job)
        return True

    def recall(self) -> Sequence[int]:
        jobs = self._inbox.get_back()
        for job in jobs:
            self._active.pop(job.assignment.seq, None)
            self._short.discard(job.assignment.seq)
        return [job.assignment.seq for job in jobs]

    def collect(self) -> None:
        assert self._listener is not None
        self._waker.reset()
        while self._outcomes:
            kind, value = self._outcomes.popleft()
            if kind == "done":
                self._listener.on_done(*value)
            elif kind == "ended":
                self._listener.on_ended(value)
            elif kind == "dropped":
                self._listener.on_dropped(value, 0)
            elif kind == "report":
                self._listener.on_report(*value)
            else:
                self._listener.on_failed(value)

    def holdings(self) -> Sequence[Holding]:
        return [Holding(0, 0, seq, job.started, 0) for seq, job in list(self._active.items())]

    def oldest(self) -> float | None:
        return min([*self._running.values()], default=None)

    def mark(self, holding: Holding, mark: int) -> None:
        job = self._active.get(holding.seq)
        if job is None:
            return
        if mark == slots.MARK_STOLEN:
            self._stolen.add(holding.seq)
        elif mark in INTERRUPTS:
            job.inner.interrupt(INTERRUPTS[mark])

    def kill(self, holding: Holding, grace: float) -> bool:
        """No process can be killed here without killing the program: the task gets an exception instead."""
        self.mark(holding, slots.MARK_TERMINATE)
        return True

    def release(self, holding: Holding) -> None:
        """Nothing was held."""

    def end_child(self, number: int) -> None:
        """There is none."""

    def tick(self) -> None:
        """Nothing to supervise."""

    def drain(self) -> None:
        self._inbox.end()

    @property
    def finished(self) -> bool:
        return not self._thread.is_alive() and not self._outcomes

    def terminate(self) -> None:
        """Threads cannot be ended from outside: what runs is told that its lease is lost."""
        for job in list(self._active.values()):
            job.inner.interrupt(errors.LeaseLost)
        self._inbox.end()

    def close(self) -> None:
        self._inbox.end()
        if self._cleaner is not None:
            self._cleaner.stop()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        if self._thread.is_alive():
            _log.error("a task still runs in thread %s; its thread ends with it", self._thread.name)
        self.app.extensions.call_observe("kernel_child_end", child=self)
        self._inbox.close()
        self._waker.close()

    def figures(self) -> Mapping[str, Any]:
        return {"slots": self.slots}

    # Sink ---------------------------------------------------------------------------------------------------

    def begin(self, job: LocalJob) -> bool:
        seq = job.assignment.seq
        self._short.discard(seq)
        job.started = time.monotonic()
        if seq not in self._stolen:
            self._running[seq] = job.started
            return True
        self._stolen.discard(seq)
        self._active.pop(seq, None)
        self._tell("dropped", seq)
        return False

    def started(self, seq: int) -> None:
        """Noted when the job began."""

    def progress(self, records: Sequence[Record]) -> None:
        self.app.backend.store(records)

    def ended(self, ending: Ending) -> None:
        self._running.pop(ending.seq, None)
        job = self._active.get(ending.seq)
        if job is not None:
            job.started = slots.ENDED
        early = job is not None and job.assignment.early_ack
        self._outbox.add(ending, more_soon=bool(self._short), early_ack=early)

    def flush(self) -> None:
        self._outbox.flush_now()

    def report(self, topic: str, data: Mapping[str, Any]) -> None:
        self._tell("report", (topic, data))

    def _deliver(self, endings: Sequence[Ending]) -> None:
        for ending in endings:
            self._active.pop(ending.seq, None)
            self._stolen.discard(ending.seq)
        if are_plain(endings, with_payload=self._outbox.atomic):
            ends = [(ending.seq, ending.runtime) for ending in endings]
            self._tell("done", (endings[0].task, ends))
            return
        for ending in endings:
            self._tell("ended", ending)

    def _resume(self, seq: int, standing: Record) -> Ending | None:
        job = self._active.get(seq)
        return self._executor.resume(job.assignment, standing) if job is not None else None

    def _flush(self) -> None:
        if self._pool.capabilities.runs_coroutines:
            self._outbox.flush_soon()  # an event loop runs the other tasks meanwhile
        else:
            self._outbox.flush()

    def _tell(self, kind: str, value: Any) -> None:
        self._outcomes.append((kind, value))
        self._waker.wake()
