"""The child's inbox: takes datagrams, announces them, and wraps each task so that its slot follows its life."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from kernel.interfaces.pool import Drained
from kernel.worker import slots
from kernel.worker.assignment import Assignment
from kernel.worker.failpoints import Failpoints
from kernel.worker.jobs import INTERRUPTS, HostedJob
from kernel.worker.processes import frames
from kernel.worker.processes.channel import Channel
from kernel.worker.slots import Slots

if TYPE_CHECKING:
    from kernel.worker.running.execute import TaskJob

_HELD_PAUSE: Final = 0.001
_LOOK_SECONDS: Final = 1.0


class Jobs(Protocol):
    """Makes a job of an assignment; the executor does."""

    def job(self, assignment: Assignment) -> TaskJob: ...


class SlottedJob(HostedJob):
    """A task in a slot."""

    __slots__ = ("obeyed", "slot")

    def __init__(self, host: HostInbox, assignment: Assignment, slot: int, inner: TaskJob) -> None:
        super().__init__(host, assignment, inner)
        self.slot = slot
        self.obeyed = slots.MARK_NONE
        """The last mark that was acted on: marks stay in the slot, and each is meant once."""


class HostInbox:
    """Implements `kernel.interfaces.pool.Inbox` over the shared inbox channel."""

    def __init__(
        self,
        channel: Channel,
        page: Slots,
        number: int,
        *,
        executor: Callable[[], Jobs],
        dropped: Callable[[int, int], None],
        idle: Callable[[], None],
        failpoints: Failpoints,
    ) -> None:
        self._channel = channel
        self._page = page
        self._number = number
        self._executor = executor
        self._dropped = dropped
        self._on_idle = idle
        self._failpoints = failpoints
        self._free = deque(range(page.slots))
        self._backlog: deque[SlottedJob] = deque()
        self._pid = os.getpid()
        self._local = threading.local()
        self._taking = threading.Lock()
        self._unbegun: set[int] = set()
        self.active: dict[int, SlottedJob] = {}
        self.drained = False
        self.done = 0

    # the pool's side ----------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._channel.fileno()

    def idle(self) -> None:
        self._on_idle()

    def take(self, limit: int, timeout: float | None) -> Sequence[SlottedJob]:
        if os.getpid() != self._pid:
            os._exit(0)  # a task forked and its child came back here: it must take no part
        if not self._backlog:
            self._receive(timeout)
        jobs: list[SlottedJob] = []
        while len(jobs) < limit:
            try:
                jobs.append(self._backlog.popleft())
            except IndexError:
                break
        return jobs

    @property
    def more_soon(self) -> bool:
        """Whether another task is at hand, which is then a short one."""
        return bool(self._unbegun)

    def _receive(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._backlog:
            if self.drained:
                raise Drained
            left = _LOOK_SECONDS if deadline is None else deadline - time.monotonic()
            if self._page.held(self._number):
                time.sleep(_HELD_PAUSE)
            elif left > 0 and self._page.stage != slots.STAGE_DRAIN:
                # Not for ever: another thread may find that this process is to take no more.
                self._poller().poll(min(left, _LOOK_SECONDS) * 1000)
            if not self._page.held(self._number) and self._receive_one():
                return
            if deadline is not None and left <= 0 and not self.drained:
                return

    def _receive_one(self) -> bool:
        """Take what is there, one thread at a time: what two took at once might be more than the slots can
        announce, and what is not announced the engine gives to others."""
        with self._taking:
            if self._backlog:
                return True
            if len(self._free) < slots.TOGETHER:
                time.sleep(_HELD_PAUSE)
                return False
            draining = self._page.stage == slots.STAGE_DRAIN
            frame = self._channel.receive(block=False)
            if frame is None and draining:
                frame = b""  # where a datagram socket shows no end
            if frame == b"":
                self.drained = True
            return self._admit(frame) if frame else False

    def _poller(self) -> select.poll:
        """One for each thread: a poll object serves one at a time."""
        poller: select.poll | None = getattr(self._local, "poller", None)
        if poller is None:
            poller = self._local.poller = select.poll()
            poller.register(self._channel.fileno(), select.POLLIN)
        return poller

    def _admit(self, frame: bytes) -> bool:
        """Announce what came; False when it is void."""
        if self._failpoints:
            self._failpoints.hit("child.taken")
        epoch, assignments = frames.unpack_batch(frame, self.lease_valid)
        taken = [(self._announce(item.seq), item) for item in assignments]
        # Announce first, compare after: the engine raises the epoch first and reads the slots after, so one of
        # the two always sees the other (see `ledger`).
        if epoch != self._page.epoch:
            for slot, item in taken:
                self._dropped(item.seq, epoch)
                self._release(slot)
            return False
        executor = self._executor()
        for slot, item in taken:
            job = SlottedJob(self, item, slot, executor.job(item))
            self.active[item.seq] = job
            self._unbegun.add(item.seq)
            self._backlog.append(job)
        if self._failpoints:
            self._failpoints.hit("child.announced")
        return True

    def has_more(self) -> bool:
        """Whether something waits in the inbox, for whoever takes it."""
        return bool(self._backlog) or bool(self._poller().poll(0))

    def expect(self, assignment: Assignment) -> None:
        """Announce what is to be run next and did not come through the inbox, and make it ready."""
        job = SlottedJob(self, assignment, self._announce(assignment.seq), self._executor().job(assignment))
        self.active[assignment.seq] = job
        job.inner.make_ready()

    def forget(self, seq: int) -> None:
        """What was expected, if anything, is not to be run."""
        job = self.active.pop(seq, None)
        if job is not None:
            self._release(job.slot)

    def go_on(self, assignment: Assignment) -> None:
        """Run what was expected next."""
        self._unbegun.add(assignment.seq)
        self._backlog.append(self.active[assignment.seq])

    def lease_valid(self) -> bool:
        return time.monotonic() < self._page.lease_until

    def gives_up(self) -> bool:
        """Whether the worker is to end, and has waited long enough for ends that cannot be stored."""
        return 0.0 < self._page.give_up_at <= time.monotonic()

    # slots --------------------------------------------------------------------------------------------------

    def _announce(self, seq: int) -> int:
        slot = self._free.popleft()
        self._page.announce(self._number, slot, seq)
        return slot

    def _release(self, slot: int) -> None:
        self._page.clear(self._number, slot)
        self._free.append(slot)

    def begin(self, job: SlottedJob) -> bool:
        """Note the start of a task; False when the engine has given it to somebody else."""
        self._unbegun.discard(job.assignment.seq)
        if self._page.start(self._number, job.slot, job.assignment.seq, time.monotonic()) != slots.MARK_STOLEN:
            if self._failpoints:
                self._failpoints.hit("child.started")
            return True
        self.active.pop(job.assignment.seq, None)
        self._dropped(job.assignment.seq, self._page.epoch)
        self._release(job.slot)
        return False

    def hold_outcome(self, seq: int) -> None:
        """`seq` has ended, and its outcome waits a moment for others: whatever kills this process, it was not it."""
        job = self.active.get(seq)
        if job is not None:
            self._page.end(self._number, job.slot)

    def finish(self, seq: int) -> None:
        """The outcome of `seq` is on its way."""
        job = self.active.pop(seq, None)
        if job is not None:
            self.done += not job.assignment.joined  # which was counted when it ran
            self._release(job.slot)

    def interrupt_marked(self) -> None:
        """Act on the marks that the engine wrote; called from a signal handler on the main thread.

        A job of the main thread is interrupted last, since that raises.
        """
        marked = [holding for holding in self._page.holdings(self._number) if holding.mark in INTERRUPTS]
        here = threading.main_thread().ident
        found = [(self.active.get(holding.seq), holding.mark) for holding in marked]
        jobs = [(job, mark) for job, mark in found if job is not None and job.obeyed != mark]
        for job, mark in sorted(jobs, key=lambda pair: pair[0].inner.thread_id == here):
            job.obeyed = mark
            job.inner.interrupt(INTERRUPTS[mark])
