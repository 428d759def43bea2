"""The pool, and the intake that feeds its loop."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from kernel.interfaces.pool import INTERFACE, Drained, Inbox, Job, PoolCapabilities, PoolConfig
from kernel.interfaces.setting import Setting

_log = logging.getLogger("kernel.pool.asyncio")

# The inbox wakes the loop; this is for an inbox that comes to its end in silence.
_LOOK: Final = 5.0


class AsyncioPool:
    """See `kernel.interfaces.pool.Pool`. Up to `slots` tasks share one event loop on the calling thread.

    Plain functions run on threads, up to `slots` of them.
    """

    interface = INTERFACE
    capabilities = PoolCapabilities(default_concurrency=100, runs_coroutines=True)
    settings: tuple[Setting, ...] = ()

    def __init__(self, config: PoolConfig) -> None:
        self._slots = max(1, config.slots)

    def serve(self, inbox: Inbox) -> None:
        with asyncio.Runner() as runner:
            runner.run(_Intake(inbox, self._slots).run())


class _Intake:
    """Turns jobs into tasks of the running loop, as long as there are free slots.

    One callback, `_pump`, does all of it. It starts what there is and calls itself again until there is nothing
    left to start; only then is the inbox told that the loop is about to wait.
    """

    def __init__(self, inbox: Inbox, slots: int) -> None:
        self._inbox = inbox
        self._slots = slots
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_due = False
        self._listening = False
        self._drained = False
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Until the inbox is drained and the last task has ended; raises what the inbox raised."""
        self._loop = asyncio.get_running_loop()
        # asyncio's own default has a handful of threads, far fewer than there are slots.
        self._loop.set_default_executor(ThreadPoolExecutor(self._slots, thread_name_prefix="kernel-task"))
        self._ended = asyncio.Event()
        self._look()
        try:
            await self._ended.wait()
        finally:
            self._timer.cancel()
            self._listen(False)
        if self._failure is not None:
            raise self._failure

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK, self._look)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        try:
            if self._start_jobs():
                self._pump_soon()
            elif self._failure is None:
                self._inbox.idle()
        except Drained:
            self._drained = True
            self._pump_soon()
        except Exception as exc:
            # The inbox is broken. What was taken is finished before anyone hears of it.
            self._drained = True
            self._failure = self._failure or exc
        self._listen(not self._drained and self._running < self._slots)
        if self._drained and not self._running and not self._pump_due:
            self._ended.set()

    def _start_jobs(self) -> bool:
        free = self._slots - self._running
        if self._drained or free <= 0:
            return False
        jobs = self._inbox.take(free, 0)
        for job in jobs:
            self._running += 1
            task = self._loop.create_task(self._run_job(job))
            # The loop itself holds tasks weakly.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return bool(jobs)

    async def _run_job(self, job: Job) -> None:
        try:
            await job.arun()
        except Exception:
            # Jobs do not raise. One that does is a defect of its maker, and no reason to leave the others unrun.
            _log.exception("a job raised, and how it ended is not known: %r", job)
        finally:
            # Counted here, since a callback of the task comes a turn later, when the loop would look full.
            self._running -= 1
            self._pump_soon()

    def _listen(self, wanted: bool) -> None:
        """Watch the inbox only while there is room: it stays readable until somebody takes from it."""
        if wanted == self._listening:
            return
        self._listening = wanted
        if wanted:
            self._loop.add_reader(self._inbox.fileno(), self._pump_soon)
        else:
            self._loop.remove_reader(self._inbox.fileno())
