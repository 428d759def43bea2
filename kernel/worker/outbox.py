"""The child's side of an end: records, publications, verdict, in that order, and in batches.

Where the broker ends a task in one transaction (`atomic`), everything travels to the engine with the verdict and
leaves at once. Otherwise this process stores and publishes first; ends that come while it does so go
together in the next batch, and a thread sees to it that none waits for a task that happens to be slow.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from kernel import errors, states
from kernel.interfaces.backend import Record, StoreState
from kernel.message import Publication
from kernel.worker.assignment import Ending
from kernel.worker.failpoints import Failpoints

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_HOLD_SECONDS: Final = 0.001
_BATCH: Final = 64
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0

_T = TypeVar("_T")

Resume = Callable[[int, Record], Ending | None]
Deliver = Callable[[Sequence[Ending]], None]


class Outbox:
    """Carries out ends. `deliver` hands finished ends on and never blocks for long; `resume` gives the end
    that belongs to a terminal record that stood already; `valid` says whether this worker's lease holds."""

    def __init__(
        self,
        app: Kernel,
        *,
        atomic: bool,
        deliver: Deliver,
        resume: Resume,
        valid: Callable[[], bool],
        failpoints: Failpoints,
    ) -> None:
        self._app = app
        self.atomic = atomic
        self._deliver = deliver
        self._resume = resume
        self._valid = valid
        self._failpoints = failpoints
        self._pending: deque[Ending] = deque()
        self._flushing = threading.Lock()
        self._left = threading.Event()
        self._closed = False
        self._flusher: threading.Thread | None = None
        self._oldest = 0.0

    def add(self, ending: Ending, *, more_soon: bool, early_ack: bool = False) -> None:
        """Carry out `ending`, now or, when `more_soon`, within about a millisecond.

        A message that was acknowledged early has no settlement left that its records could travel with.
        """
        if self._failpoints:
            self._failpoints.hit("task.decided")
        if (self.atomic and not early_ack) or not (ending.records or ending.publications):
            self._deliver((ending,))
            return
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append(ending)
        if more_soon and len(self._pending) < _BATCH and time.monotonic() - self._oldest < _HOLD_SECONDS:
            self._watch_over()
            return
        self.flush()

    def flush(self) -> None:
        """Carry out everything that waits. Ends added meanwhile by other threads go along."""
        while self._pending and self._flushing.acquire(blocking=False):
            try:
                self._carry_out_pending()
            finally:
                self._flushing.release()

    def close(self) -> None:
        """Flush, and end the thread."""
        self.flush()
        self._closed = True
        self._left.set()
        if self._flusher is not None:
            self._flusher.join(timeout=5)
        with self._flushing:
            self._carry_out_pending()

    def _carry_out_pending(self) -> None:
        batch: list[Ending] = []
        while self._pending and len(batch) < _BATCH:
            batch.append(self._pending.popleft())
        if batch:
            self._deliver(self._carry_out(batch))

    def _carry_out(self, batch: list[Ending]) -> list[Ending]:
        """Store, then publish; what could not be done because the lease is lost is left out."""
        records = [(at, record) for at, ending in enumerate(batch) for record in ending.records]
        if records:
            outcomes = self._insist(lambda: self._app.backend.store([record for _, record in records]))
            if outcomes is None:
                return []
            for (at, record), outcome in zip(records, outcomes, strict=True):
                standing = outcome.standing
                terminal = record.state in states.READY_STATES
                if outcome.state is StoreState.STANDING and standing is not None and terminal:
                    batch[at] = self._resume(batch[at].seq, standing) or batch[at]
        if self._failpoints:
            self._failpoints.hit("result.stored")
        publications = [item for ending in batch for item in ending.publications]
        if publications and self._insist(lambda: self._publish(publications)) is None:
            return []
        if self._failpoints:
            self._failpoints.hit("successors.published")
        return batch

    def _publish(self, publications: Sequence[Publication]) -> bool:
        self._app.publisher.send(publications)
        return True

    def _insist(self, step: Callable[[], _T]) -> _T | None:
        """The answer of `step`, however often it takes; None when the lease was lost over it."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return step()
            except (errors.OperationalError, errors.BackendError) as exc:
                if not self._valid():
                    _log.error("an end was given up, its lease is lost while storing it failed: %s", exc)
                    return None
                _log.warning("an end cannot be stored yet, next try in %.2fs: %s", pause, exc)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _watch_over(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_late, name="kernel-outbox", daemon=True)
            self._flusher.start()
        self._left.set()

    def _flush_late(self) -> None:
        while not self._closed:
            self._left.wait()
            self._left.clear()
            time.sleep(2 * _HOLD_SECONDS)
            if self._pending and not self._closed:
                self.flush()
