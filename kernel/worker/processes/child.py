"""A child: one process that hosts a pool and runs tasks until it is told to stop, is worn out, or dies."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernel import drivers
from kernel.interfaces.backend import Record
from kernel.interfaces.pool import PoolConfig
from kernel.worker import logs, lookout, manifest
from kernel.worker.assignment import Ending, Step
from kernel.worker.failpoints import Failpoints
from kernel.worker.options import WorkerOptions
from kernel.worker.processes import frames
from kernel.worker.processes.channel import Channel
from kernel.worker.processes.host import HostInbox
from kernel.worker.processes.own_ends import OwnEnds
from kernel.worker.processes.parent import die_with_parent
from kernel.worker.processes.row import Row
from kernel.worker.processes.wiring import Wiring
from kernel.worker.running.cleaning import Cleaner
from kernel.worker.running.execute import Executor
from kernel.worker.running.outbox import Outbox
from kernel.worker.slots import BACKLOG, Slots

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_MEMORY_CHECK_SECONDS = 0.05
_FULL_PAUSE = 0.005


class Child:
    """The host of a pool in a child process. Implements `kernel.worker.assignment.Sink` and
    `kernel.hooks.ChildInfo`."""

    def __init__(self, app: Kernel, options: WorkerOptions, wiring: Wiring, number: int) -> None:
        self.app = app
        self.number = number
        self.pid = os.getpid()
        self._out = Channel.from_fd(wiring.outbox)
        self._facts = facts = manifest.describe(app, options)
        self._page = Slots(wiring.page, facts.processes, facts.slots + BACKLOG)
        self._failpoints = Failpoints.from_environment(os.environ)
        self._executor = Executor(app, hostname=self._facts.hostname, sink=self)
        self._max_tasks = int(self._facts.settings.get("worker_max_tasks_per_child") or 0)
        self._max_memory = int(self._facts.settings.get("worker_max_memory_per_child") or 0)
        self._checked = 0.0
        self._waits_for_none = False
        self.inbox = HostInbox(
            Channel.from_fd(wiring.inbox),
            self._page,
            number,
            executor=lambda: self._executor,
            dropped=self._dropped,
            idle=self._idle,
            failpoints=self._failpoints,
        )
        own = OwnEnds(app, facts, self._page, self.inbox, number, tell=self._carried_out) if facts.shortcuts else None
        self._row = Row(self._tell, soon=self._see_to_it)
        self._outbox = Outbox(
            app,
            atomic=self._facts.atomic_end,
            atomic_chords=self._facts.atomic_chords,
            deliver=self._deliver,
            resume=self._resume,
            valid=self.inbox.lease_valid,
            gives_up=self.inbox.gives_up,
            failpoints=self._failpoints,
            held=self.inbox.hold_outcome,
            carry_out=own.carry_out if own is not None else None,
            late=self._row.flush,
        )

    def run(self) -> None:
        """Until the inbox is drained."""
        self._page.enter(self.number, self.pid)
        extensions = self.app.extensions
        extensions.setup("kernel_child_start", child=self)
        pool = drivers.load("pools", self._facts.pool, choices=self.app.conf.drivers)(
            PoolConfig(slots=self._facts.slots, settings=self._facts.pool_settings)
        )
        self._waits_for_none = pool.capabilities.runs_coroutines
        self._send(frames.pack_note(frames.KIND_READY, self.number))
        # One process of a worker is enough for it.
        cleaner = Cleaner.of(self.app) if self.number == 0 else None
        if cleaner is not None:
            cleaner.start()
        if self.number == 0:
            lookout.look(self.app)
        try:
            pool.serve(self.inbox)
        finally:
            self._outbox.close()
            if cleaner is not None:
                cleaner.stop()
            extensions.call_observe("kernel_child_end", child=self)
            self.app.close()
        self._send(frames.pack_note(frames.KIND_BYE, self.number))

    # the executor's side (Sink) -----------------------------------------------------------------------------

    def started(self, seq: int) -> None:
        """The slot says so already, since before its body was decoded."""

    def progress(self, records: Sequence[Record]) -> None:
        self.app.backend.store(records)

    def ended(self, ending: Ending) -> None:
        if os.getpid() != self.pid:
            os._exit(0)  # the child of a task that forked
        job = self.inbox.active.get(ending.seq)
        early = job is not None and job.assignment.early_ack
        self._outbox.add(ending, more_soon=self.inbox.more_soon, early_ack=early)

    def flush(self) -> None:
        self._outbox.flush_now()

    # the plugins' side (ChildInfo) --------------------------------------------------------------------------

    def report(self, topic: str, data: Mapping[str, Any]) -> None:
        self._send(frames.pack_report(self.number, topic, data))

    # ends ---------------------------------------------------------------------------------------------------

    def _deliver(self, endings: Sequence[Ending]) -> None:
        self._row.flush()
        self._send(frames.pack_endings(self.number, endings, with_payload=self._outbox.atomic))
        for ending in endings:
            self.inbox.finish(ending.seq)
        if self._failpoints:
            self._failpoints.hit("outcome.sent")
        self._wear()

    def _carried_out(self, step: Step, at_once: bool) -> None:
        if self._failpoints:
            self._failpoints.hit("end.carried_out")
        self._row.add(step, at_once=at_once)
        self.inbox.finish(step.ending.seq)
        if self._failpoints:
            self._failpoints.hit("outcome.sent")
        self._wear()

    def _see_to_it(self) -> None:
        self._outbox.see_to_it()

    def _tell(self, steps: Sequence[Step]) -> None:
        hot = self.app.extensions.hot
        observed = bool(hot.kernel_message_received or hot.kernel_message_settled)
        self._send(frames.pack_own(self.number, steps, with_heads=observed))

    def _resume(self, seq: int, standing: Record) -> Ending | None:
        job = self.inbox.active.get(seq)
        return self._executor.resume(job.assignment, standing) if job is not None else None

    def _dropped(self, seq: int, epoch: int) -> None:
        self._send(frames.pack_note(frames.KIND_DROPPED, self.number, seq, epoch))

    def _idle(self) -> None:
        if self._waits_for_none:
            self._outbox.flush_soon()  # an event loop runs the other tasks meanwhile
        else:
            self._outbox.flush()

    def _send(self, frame: bytes) -> None:
        try:
            while not self._out.send(frame, block=True):
                time.sleep(_FULL_PAUSE)  # the system has no buffer for it at the moment
        except OSError:
            os._exit(1)  # the engine is gone: what is unfinished is another worker's

    def _wear(self) -> None:
        """Stop taking tasks when this process has done or grown enough."""
        done = self.inbox.done
        if self._max_tasks and done >= self._max_tasks:
            self.inbox.drained = True
        now = time.monotonic()
        if now - self._checked < _MEMORY_CHECK_SECONDS:
            return
        self._checked = now
        resident = resident_kib()
        self._page.note(self.number, done=done, resident=resident)
        if self._max_memory and resident > self._max_memory and not self.inbox.drained:
            _log.warning(
                "child %d has %d KiB, worker_max_memory_per_child is %d: replaced", self.pid, resident, self._max_memory
            )
            self.inbox.drained = True


def resident_kib() -> int:
    """Resident memory of this process in KiB; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)
    except (OSError, ValueError, IndexError):
        return 0


def run(app: Kernel, options: WorkerOptions, wiring: Wiring, number: int) -> None:
    """Be child `number`; returns when it has ended in order."""
    die_with_parent(os.getppid(), wiring.alive)
    random.seed()
    logs.set_up(options.log, app.conf, process=f"child-{number}", redirect=True)
    child = Child(app, options, wiring, number)
    signal.signal(signal.SIGUSR1, lambda _signum, _frame: child.inbox.interrupt_marked())
    child.run()


def main(argv: list[str]) -> None:
    """Entry of a child that was executed anew."""
    wiring, options = Wiring(**json.loads(argv[0])), WorkerOptions.parse(argv[1])
    for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP"):
        signal.signal(getattr(signal, name), lambda _signum, _frame: None)
    run(manifest.load_app(options), options, wiring, int(argv[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
