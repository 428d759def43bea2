"""The child's side of an end: records, parts of chords, publications, verdict, in that order, and in batches.

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
from typing import TYPE_CHECKING, Final, NamedTuple

from kernel import errors, states
from kernel.interfaces.backend import Preparing, Record, StoreState
from kernel.interfaces.broker import Verdict
from kernel.worker.assignment import Ending
from kernel.worker.failpoints import Failpoints
from kernel.worker.running.chords import Chords
from kernel.worker.running.steps import GivenUp, Steps

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_HOLD_SECONDS: Final = 0.003
_SOON_SECONDS: Final = 0.002
_LATE_SECONDS: Final = 0.01
"""When the thread looks for ends that the next task keeps waiting. A thread that woke more often would take the
interpreter from the tasks themselves."""
_BATCH: Final = 64
_LONGEST_WAIT: Final = 5.0

Resume = Callable[[int, Record], Ending | None]
Deliver = Callable[[Sequence[Ending]], None]


class _Entry(NamedTuple):
    ending: Ending
    early: bool
    direct: bool
    """Nothing is to be stored or published here: it only has to be handed on."""


class Outbox:
    """Carries out ends. `deliver` hands finished ends on and never blocks for long; `resume` gives the end
    that belongs to a terminal record that stood already; `valid` says whether this worker's lease holds, and
    `gives_up` whether it is to end and no longer waits for what cannot be stored. `carry_out` settles an end with all
    that belongs to it, if it may. `late` is called on the thread that sees to what is left behind.

    Every end that is added is delivered, if not as it was meant: handed back when the lease is lost over it, kept
    as a dead letter when it cannot be stored at all. An end that vanished would hold its slot for ever.
    """

    def __init__(
        self,
        app: Kernel,
        *,
        atomic: bool,
        atomic_chords: bool = False,
        deliver: Deliver,
        resume: Resume,
        valid: Callable[[], bool],
        gives_up: Callable[[], bool],
        failpoints: Failpoints,
        held: Callable[[int], None] | None = None,
        carry_out: Callable[[Ending], bool] | None = None,
        late: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self.atomic = atomic
        self._atomic_chords = atomic_chords
        self._deliver = deliver
        self._resume = resume
        self._gives_up = gives_up
        self._steps = Steps(app, valid=valid, gives_up=gives_up)
        self._chords = Chords(app, self._steps, atomic=atomic_chords, ready=self._prepare, failpoints=failpoints)
        self._failpoints = failpoints
        self._held = held
        self._carry_out_here = carry_out
        self._late = late
        self._pending: deque[_Entry] = deque()
        self._flushing = threading.Lock()
        self._left = threading.Event()
        self._hurry = threading.Event()
        self._preparing: tuple[Preparing | None] | None = None
        self._closed = False
        self._flusher: threading.Thread | None = None
        self._oldest = 0.0
        self._recorded = 0.0

    def add(self, ending: Ending, *, more_soon: bool, early_ack: bool = False) -> None:
        """Carry out `ending`, now or, when `more_soon`, within about three milliseconds (ten behind a task that
        should have been short and is not); at once when it has records and no other had for three milliseconds.

        A message that was acknowledged early has no settlement left that its records could travel with.
        """
        if self._failpoints:
            self._failpoints.hit("task.decided")
        direct = self._is_direct(ending, early_ack)
        if direct and not more_soon and not self._pending:
            if self._carry_out_here is None or not self._carry_out_here(ending):
                self._deliver((ending,))
            return
        now = time.monotonic()
        if not self._pending:
            self._oldest = now
        if self._held is not None:
            self._held(ending.seq)
        self._pending.append(_Entry(ending, early_ack, direct))
        # Somebody may wait for a record: one that comes after none for a while is not kept for company.
        is_lone = bool(ending.records) and now - self._recorded >= _HOLD_SECONDS
        if more_soon and not is_lone and len(self._pending) < _BATCH and now - self._oldest < _HOLD_SECONDS:
            self.see_to_it()
            return
        self.flush()
        if ending.records:
            # From when it was stored: where that takes long, those that come meanwhile would all be lone.
            self._recorded = time.monotonic()

    def _is_direct(self, ending: Ending, early_ack: bool) -> bool:
        """Whether nothing is to be stored or published here; then it is ready for the engine."""
        if not self.atomic or early_ack:
            return not (ending.records or ending.publications or ending.for_chords)
        # Whose a broken chord is, and which queues an exchange means, is found out by storing and by publishing.
        if ending.breaks or any(item.exchange for item in ending.publications):
            return False
        if ending.join is not None:
            if ending.join.here or not self._atomic_chords:
                return False
            ending.parts = (ending.join.part,)
        return self._prepare(ending)

    def _prepare(self, ending: Ending) -> bool:
        """Make its records ready to be stored by the engine; whether that can be."""
        if not (ending.records or ending.parts or ending.completes):
            return True
        if self._preparing is None:
            try:
                # None of a backend whose records are the same everywhere.
                self._preparing = (self._app.opened.preparing,)
            except errors.KernelError as exc:
                _log.debug("the result backend cannot be opened yet: %s", exc)
                return False
        (backend,) = self._preparing
        if backend is None:
            return True
        prepared = [backend.prepare(record) for record in ending.records]
        ready = [record for record in prepared if record is not None]
        if len(ready) < len(prepared):
            return False
        ending.records = ready
        ending.parts = [backend.prepare_part(part) for part in ending.parts]
        ending.completes = ending.completes and backend.prepare_chord(ending.completes)
        return True

    def flush(self) -> None:
        """Carry out everything that waits. Ends added meanwhile by other threads go along."""
        while self._pending and self._flushing.acquire(blocking=False):
            try:
                self._carry_out_pending()
            finally:
                self._flushing.release()

    def flush_now(self) -> None:
        """The same, and wait for whoever is at it already: for a bounded time, since a server may be away."""
        if self._flushing.acquire(timeout=_LONGEST_WAIT):
            try:
                # What waits now may wait for whoever had this lock, and has not begun with it.
                while self._pending:
                    self._carry_out_pending()
            finally:
                self._flushing.release()

    def flush_soon(self) -> None:
        """The same within about two milliseconds, on a thread: for callers that must not wait for a server."""
        if self._pending:
            self._hurry.set()
            self.see_to_it()

    def see_to_it(self) -> None:
        """Have the thread look at what is pending now, in case nobody else does."""
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_late, name="kernel-outbox", daemon=True)
            self._flusher.start()
        if not self._left.is_set():
            self._left.set()

    def close(self) -> None:
        """Flush, and end the thread."""
        self.flush()
        self._closed = True
        self._hurry.set()
        self._left.set()
        if self._flusher is not None:
            self._flusher.join(timeout=5)
        with self._flushing:
            while self._pending:
                self._carry_out_pending()

    def _carry_out_pending(self) -> None:
        batch: list[_Entry] = []
        while self._pending and len(batch) < _BATCH:
            batch.append(self._pending.popleft())
        if not batch:
            return
        own = [entry for entry in batch if not entry.direct]
        direct = [entry.ending for entry in batch if entry.direct]
        self._deliver(direct + self._carry_out(own) if own else direct)

    def _carry_out(self, batch: list[_Entry]) -> list[Ending]:
        """The ends of `batch` as they came out."""
        try:
            return self._store_and_publish(batch)
        except GivenUp as exc:
            _log.error("%d ends were given up, %s while storing them failed: %s", len(batch), self._why(), exc)
            back = [
                Ending(entry.ending.seq, Verdict.REQUEUE, task=entry.ending.task) for entry in batch if not entry.early
            ]
            # Nobody else has those that were acknowledged early.
            early = [entry for entry in batch if entry.early]
            if early and self._gives_up():
                _log.error("the results of %d tasks that were acknowledged early are lost", len(early))
                return back + [entry.ending for entry in early]
            return back + self._carry_out(early) if early else back
        except Exception as exc:
            if len(batch) == 1:
                return [_kept(batch[0].ending, exc)]
            _log.error("storing %d ends failed, now one by one: %r", len(batch), exc)
        return [ending for entry in batch for ending in self._carry_out([entry])]

    def _why(self) -> str:
        return "the worker was to end" if self._gives_up() else "the lease was lost"

    def _store_and_publish(self, batch: list[_Entry]) -> list[Ending]:
        endings, early = [entry.ending for entry in batch], [entry.early for entry in batch]
        all_early = all(early)
        self._store_records(endings, all_early)
        if self._failpoints:
            self._failpoints.hit("result.stored")
        along: set[int] = set()
        if any(ending.for_chords for ending in endings):
            along, bodies = self._chords.carry_out(endings, early, all_early)
        else:
            bodies = []
        publications = [
            (at, item) for at, ending in enumerate(endings) if at not in along for item in ending.publications
        ]
        refused = self._steps.publish(publications, all_early)
        self._chords.publish(endings, bodies, all_early)
        for at, error in refused.items():
            endings[at] = _kept(endings[at], error)
        if self._failpoints:
            self._failpoints.hit("successors.published")
        if not self.atomic:
            return endings
        return [ending if at in along else ending.carried_out() for at, ending in enumerate(endings)]

    def _store_records(self, endings: list[Ending], for_ever: bool) -> None:
        """Store them; in place of an end whose record was there already comes what that one means."""
        records = [(at, record) for at, ending in enumerate(endings) for record in ending.records]
        if not records:
            return
        outcomes = self._steps.store([record for _, record in records], for_ever)
        for (at, _), outcome in zip(records, outcomes, strict=True):
            standing = outcome.standing
            # Whatever this end wanted, a retry too: the task has ended before, and that end counts.
            if outcome.state is StoreState.STANDING and standing and standing.state in states.READY_STATES:
                endings[at] = self._resume(endings[at].seq, standing) or endings[at]

    def _flush_late(self) -> None:
        while not self._closed:
            self._left.wait()
            self._left.clear()
            if self._hurry.wait(_LATE_SECONDS):
                self._hurry.clear()
                time.sleep(_SOON_SECONDS)
            if self._late is not None:
                self._late()
            if self._pending and not self._closed:
                self.flush()


def _kept(ending: Ending, error: BaseException) -> Ending:
    """In place of an end that nothing will make possible: a dead letter with the reason."""
    reason = f"its end ({ending.verdict.value}) could not be stored: {type(error).__name__}: {error}"[:2000]
    _log.error("%s", reason, exc_info=error)
    return Ending(ending.seq, Verdict.DEAD, state=ending.state, reason=reason, runtime=ending.runtime, task=ending.task)
