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
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from kernel import errors, states
from kernel.interfaces.backend import ChordPart, Record, StoreOutcome, StoreState
from kernel.interfaces.broker import Verdict
from kernel.message import Publication
from kernel.worker.assignment import Ending, Followed
from kernel.worker.failpoints import Failpoints
from kernel.worker.outage import Outage

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_HOLD_SECONDS: Final = 0.003
_SOON_SECONDS: Final = 0.002
_LATE_SECONDS: Final = 0.01
"""When the thread looks for ends that the next task keeps waiting. A thread that woke more often would take the
interpreter from the tasks themselves."""
_BATCH: Final = 64
_STORED_TOGETHER: Final = 500
_LOOKS: Final = 200
_LOOK_PAUSE: Final = 0.02
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LONGEST_WAIT: Final = 5.0

_T = TypeVar("_T")

Resume = Callable[[int, Record], Ending | None]
Deliver = Callable[[Sequence[Ending]], None]


class _Entry(NamedTuple):
    ending: Ending
    early: bool
    direct: bool
    """Nothing is to be stored or published here: it only has to be handed on."""


class _GivenUp(Exception):
    """The lease was lost while an end could not be stored."""


class Outbox:
    """Carries out ends. `deliver` hands finished ends on and never blocks for long; `resume` gives the end
    that belongs to a terminal record that stood already; `valid` says whether this worker's lease holds, and
    `gives_up` whether it is to end and no longer waits for what cannot be stored.

    Every end that is added is delivered, if not as it was meant: handed back when the lease is lost over it, kept
    as a dead letter when it cannot be stored at all. An end that vanished would hold its slot for ever.
    """

    def __init__(
        self,
        app: Kernel,
        *,
        atomic: bool,
        deliver: Deliver,
        resume: Resume,
        valid: Callable[[], bool],
        gives_up: Callable[[], bool],
        failpoints: Failpoints,
        held: Callable[[int], None] | None = None,
    ) -> None:
        self._app = app
        self.atomic = atomic
        self._deliver = deliver
        self._resume = resume
        self._valid = valid
        self._gives_up = gives_up
        self._failpoints = failpoints
        self._held = held
        self._pending: deque[_Entry] = deque()
        self._flushing = threading.Lock()
        self._left = threading.Event()
        self._hurry = threading.Event()
        self._outage = Outage()
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
        # Which queues an exchange means is found out by publishing to it.
        apart = ending.for_chords or (self.atomic and any(item.exchange for item in ending.publications))
        direct = not apart and ((self.atomic and not early_ack) or not (ending.records or ending.publications))
        if direct and not more_soon and not self._pending:
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
            self._see_to_it()
            return
        self.flush()
        if ending.records:
            # From when it was stored: where that takes long, those that come meanwhile would all be lone.
            self._recorded = time.monotonic()

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
            self._see_to_it()

    def _see_to_it(self) -> None:
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
        except _GivenUp as exc:
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
        endings = [entry.ending for entry in batch]
        all_early = all(entry.early for entry in batch)
        records = [(at, record) for at, ending in enumerate(endings) for record in ending.records]
        if records:
            outcomes = self._store([record for _, record in records], all_early)
            for (at, _), outcome in zip(records, outcomes, strict=True):
                standing = outcome.standing
                # Whatever this end wanted, a retry too: the task has ended before, and that end counts.
                if outcome.state is StoreState.STANDING and standing and standing.state in states.READY_STATES:
                    endings[at] = self._resume(endings[at].seq, standing) or endings[at]
        if self._failpoints:
            self._failpoints.hit("result.stored")
        publications = [(at, item) for at, ending in enumerate(endings) for item in ending.publications]
        bodies = self._chords(endings, all_early) if any(ending.for_chords for ending in endings) else []
        if publications or bodies:
            refused: dict[int, BaseException] = {}
            self._insist(lambda: self._publish(publications, refused), all_early)
            self._publish_bodies(endings, bodies, all_early)
            for at, error in refused.items():
                endings[at] = _kept(endings[at], error)
        if self._failpoints:
            self._failpoints.hit("successors.published")
        return [ending.carried_out() for ending in endings] if self.atomic else endings

    def _store(self, records: Sequence[Record], for_ever: bool) -> Sequence[StoreOutcome]:
        return self._insist(lambda: self._app.backend.store(records), for_ever)

    def _chords(self, endings: Sequence[Ending], for_ever: bool) -> list[tuple[int, Publication]]:
        """Bring parts to chords and break those that will not complete; what that gives to publish."""
        found: list[tuple[int, Followed]] = []
        joins = [(at, ending.join) for at, ending in enumerate(endings) if ending.join is not None]
        if joins:
            parts = [join.part for _, join in joins]
            found_states = self._insist(lambda: self._app.backend.chord_parts(parts), for_ever)
            found += [
                (at, join.complete(state.parts))
                for (at, join), state in zip(joins, found_states, strict=True)
                if state.complete
            ]
        breaks = [(at, item) for at, ending in enumerate(endings) for item in ending.breaks]
        if breaks:
            own = self._own([item.guard for _, item in breaks], for_ever)
            found += [(at, item.follow()) for (at, item), is_own in zip(breaks, own, strict=True) if is_own]
        self._store_followed([followed for _, followed in found], for_ever)
        if self._failpoints and found:
            self._failpoints.hit("chord.joined")
        return [(at, item) for at, followed in found for item in followed.publications]

    def _own(self, guards: Sequence[Record], for_ever: bool) -> list[bool]:
        """Store them, and say of each whether what follows it is to be done here."""
        outcomes = self._store(guards, for_ever)
        backend = self._app.backend
        if not (backend.capabilities.to_caller and backend.capabilities.chords):
            return [_is_own(guard, outcome) for guard, outcome in zip(guards, outcomes, strict=True)]
        # Where records go to the caller none stands that would say. A chord of one says who was its first part.
        claims = [
            ChordPart(f"{guard.id}.broken", 1, 0, Record(id=guard.parent_id or "", state=guard.state))
            for guard in guards
        ]
        first: dict[int, str] = {}
        for _ in range(_LOOKS):
            left = [at for at in range(len(claims)) if at not in first]
            if not left:
                break
            found = self._insist(lambda left=left: backend.chord_parts([claims[at] for at in left]), for_ever)  # type: ignore[misc]
            first.update({at: state.parts[0].id for at, state in zip(left, found, strict=True) if state.parts})
            if len(first) < len(claims):
                time.sleep(_LOOK_PAUSE)  # somebody else looks at the same moment
        return [first.get(at) == guard.parent_id for at, guard in enumerate(guards)]

    def _store_followed(self, found: Sequence[Followed], for_ever: bool) -> None:
        records = [record for followed in found for record in followed.records]
        for start in range(0, len(records), _STORED_TOGETHER):
            self._store(records[start : start + _STORED_TOGETHER], for_ever)

    def _publish_bodies(self, endings: Sequence[Ending], bodies: list[tuple[int, Publication]], for_ever: bool) -> None:
        """A body that is refused does not spoil the end of the member that brought the last part: it fails itself."""
        refused: dict[int, BaseException] = {}
        if bodies:
            self._insist(lambda: self._publish(bodies, refused), for_ever)
        for at, error in refused.items():
            join = endings[at].join
            if join is None:
                _log.error("errbacks of a chord cannot be published: %r", error)
                continue
            followed = join.refuse(error)
            self._store_followed([followed], for_ever)
            left = [(at, item) for item in followed.publications]
            self._insist(lambda left=left: self._publish(left, {}), for_ever)  # type: ignore[misc]

    def _publish(self, publications: list[tuple[int, Publication]], refused: dict[int, BaseException]) -> None:
        """Publish what is in the list, and take out what has an answer. Raises what is worth another try."""
        answers = self._app.publisher.deliver([item for _, item in publications])
        left: list[tuple[int, Publication]] = []
        again: BaseException | None = None
        for pair, answer in zip(publications, answers, strict=True):
            if isinstance(answer, errors.OperationalError) and not isinstance(answer, errors.PublishRefused):
                left.append(pair)
                again = answer
            elif answer is not None:
                refused[pair[0]] = answer
        publications[:] = left
        if again is not None:
            raise again

    def _insist(self, step: Callable[[], _T], for_ever: bool) -> _T:
        """The answer of `step`, however often it takes. Raises `_GivenUp` when the lease was lost over it, or
        the worker is to end.

        Settings that a server refuses (a login that was changed under us, a database that is not there) are no fault
        of the task whose end this is: who mends them finds it here, or in the queue, not among the dead letters.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                found = step()
            except (errors.OperationalError, errors.BackendError, errors.ImproperlyConfigured) as exc:
                if self._gives_up() or not (for_ever or self._valid()):
                    raise _GivenUp(str(exc)) from exc
                self._outage.failed("an end cannot be stored", pause, exc)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                if pause > _FIRST_PAUSE:
                    self._outage.ended("ends are stored again")
                return found

    def _flush_late(self) -> None:
        while not self._closed:
            self._left.wait()
            self._left.clear()
            if self._hurry.wait(_LATE_SECONDS):
                self._hurry.clear()
                time.sleep(_SOON_SECONDS)
            if self._pending and not self._closed:
                self.flush()


def _is_own(guard: Record, outcome: StoreOutcome) -> bool:
    """Whether what follows a record is for whoever wanted to store it: it did, now or in an earlier life."""
    standing = outcome.standing
    if outcome.state is not StoreState.STANDING or standing is None:
        return outcome.state is not StoreState.STANDING
    return standing.state == guard.state and standing.parent_id == guard.parent_id


def _kept(ending: Ending, error: BaseException) -> Ending:
    """In place of an end that nothing will make possible: a dead letter with the reason."""
    reason = f"its end ({ending.verdict.value}) could not be stored: {type(error).__name__}: {error}"[:2000]
    _log.error("%s", reason, exc_info=error)
    return Ending(ending.seq, Verdict.DEAD, state=ending.state, reason=reason, runtime=ending.runtime, task=ending.task)
