"""Several tasks at once on threads of one process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from kernel.interfaces.pool import INTERFACE, Drained, Inbox, Job, PoolCapabilities, PoolConfig
from kernel.interfaces.setting import Setting

__all__ = ["ThreadsPool"]

_log = logging.getLogger("kernel.pool.threads")

_WAIT: Final = 5.0


class ThreadsPool:
    """See `kernel.interfaces.pool.Pool`. Each of `slots` threads takes its own jobs, so nothing waits for a hand-over.

    The calling thread runs no task: on the main thread of a process, signal handlers run at once.
    """

    interface = INTERFACE
    capabilities = PoolCapabilities()
    settings: tuple[Setting, ...] = ()

    def __init__(self, config: PoolConfig) -> None:
        self._slots = max(1, config.slots)

    def serve(self, inbox: Inbox) -> None:
        crew = _Crew(inbox)
        # Daemons: after an interrupt of the caller, a task that never ends must not keep the process.
        threads = [
            threading.Thread(target=crew.work, name=f"kernel-task-{number}", daemon=True)
            for number in range(self._slots)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_WAIT)
        finally:
            crew.stopping = True
        if crew.failure is not None:
            raise crew.failure


class _Crew:
    """What the threads of one `serve` share. The first failure of the inbox stops them all."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.stopping = False
        self.failure: BaseException | None = None

    def work(self) -> None:
        try:
            while not self.stopping:
                for job in self._take():
                    self._run(job)
        except Drained:
            self._inbox.idle()
        except BaseException as exc:
            self.failure = self.failure or exc
            self.stopping = True

    def _take(self) -> Sequence[Job]:
        # One at a time: what waits behind a long job in this thread could run in another.
        jobs = self._inbox.take(1, 0)
        if not jobs:
            self._inbox.idle()
            jobs = self._inbox.take(1, _WAIT)
        return jobs

    def _run(self, job: Job) -> None:
        try:
            job.run()
        except Exception:
            # Jobs do not raise. One that does is a defect of its maker, and no reason to leave the others unrun.
            _log.exception("a job raised, and how it ended is not known: %r", job)
