"""An inbox in memory, and jobs that say what became of them, to examine a pool with."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from kernel.interfaces.pool import Drained


class FakeJob:
    """Implements `kernel.interfaces.pool.Job`; ends by telling its inbox.

    `body` is a plain function without arguments, or a coroutine function. Unlike a real job this one raises
    what its body raises, after it has ended.
    """

    def __init__(self, inbox: FakeInbox, name: Any, body: Callable[[], Any] | None = None) -> None:
        self.name = name
        self._inbox = inbox
        self._body: Callable[[], Any] = body or _nothing
        self.is_coroutine = asyncio.iscoroutinefunction(self._body)

    def run(self) -> None:
        self._inbox.begin(self)
        try:
            outcome = self._body()
            if self.is_coroutine:
                asyncio.run(_await(outcome))
        finally:
            self._inbox.end(self)

    async def arun(self) -> None:
        self._inbox.begin(self)
        try:
            if self.is_coroutine:
                await self._body()
            else:
                await asyncio.to_thread(self._body)
        finally:
            self._inbox.end(self)

    def __repr__(self) -> str:
        return f"<FakeJob {self.name!r}>"


class FakeInbox:
    """Implements `kernel.interfaces.pool.Inbox`, and keeps a diary.

    `begun` and `ended` hold the names of jobs in order; `sent` those of ended jobs that have left, which they
    do at `idle`. `idles` counts its calls; `most` is the largest number of jobs that ran at once, and
    `most_taken` of jobs that were taken and had not ended.
    """

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.sent: list[Any] = []
        self.idles = 0
        self.most = 0
        self.most_taken = 0
        self._taken = 0
        self._waiting: deque[deque[FakeJob]] = deque()
        self._closed = False
        self._broken: Exception | None = None
        self._changed = threading.Condition()
        self._reader, self._writer = os.pipe()
        self._readable = False

    # the test's side ----------------------------------------------------------------------------------------

    def put(self, *jobs: FakeJob) -> None:
        """Make jobs available together, as they come in one datagram."""
        with self._changed:
            self._waiting.append(deque(jobs))
            self._update()

    def add(self, name: Any, body: Callable[[], Any] | None = None) -> FakeJob:
        """Put one job of that name."""
        job = FakeJob(self, name, body)
        self.put(job)
        return job

    def close(self) -> None:
        """No more will come."""
        with self._changed:
            self._closed = True
            self._update()

    def fail(self, error: Exception) -> None:
        """From now on `take` raises `error`."""
        with self._changed:
            self._broken = error
            self._update()

    def wait(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Wait until `condition` holds, which is looked at whenever something happens here."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def dispose(self) -> None:
        """Close the descriptors, when no pool uses them any more."""
        os.close(self._reader)
        os.close(self._writer)

    # the job's side -----------------------------------------------------------------------------------------

    def begin(self, job: FakeJob) -> None:
        with self._changed:
            self.begun.append(job.name)
            self.most = max(self.most, len(self.begun) - len(self.ended))
            self._changed.notify_all()

    def end(self, job: FakeJob) -> None:
        with self._changed:
            self.ended.append(job.name)
            self._changed.notify_all()

    # the pool's side ----------------------------------------------------------------------------------------

    def take(self, limit: int, timeout: float | None) -> Sequence[FakeJob]:
        if limit < 1:
            raise AssertionError(f"take({limit}): a pool that has no room does not take")
        with self._changed:
            self._changed.wait_for(self._something, timeout)
            if self._broken is not None:
                raise self._broken
            if not self._waiting:
                if self._closed:
                    raise Drained
                return []
            together = self._waiting[0]
            jobs = [together.popleft() for _ in range(min(limit, len(together)))]
            if not together:
                self._waiting.popleft()
            self._taken += len(jobs)
            self.most_taken = max(self.most_taken, self._taken - len(self.ended))
            self._update()
            return jobs

    def fileno(self) -> int:
        return self._reader

    def idle(self) -> None:
        with self._changed:
            self.idles += 1
            self.sent.extend(self.ended[len(self.sent) :])
            self._changed.notify_all()

    def _something(self) -> bool:
        return bool(self._waiting or self._closed or self._broken)

    def _update(self) -> None:
        """Keep one byte in the pipe while there is something to take, or to learn."""
        if self._something() and not self._readable:
            os.write(self._writer, b"!")
        elif self._readable and not self._something():
            os.read(self._reader, 1)
        self._readable = self._something()
        self._changed.notify_all()


def _nothing() -> None:
    """The body of a job that has none."""


async def _await(outcome: Awaitable[Any]) -> None:
    await outcome
