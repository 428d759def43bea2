"""Ends that a child carries out by itself, and what it goes on with then (`kernel.interfaces.shortcut`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from kernel import errors
from kernel.interfaces.broker import Delivery, Settled, Settlement, Verdict
from kernel.interfaces.shortcut import Finished, Permit, Shortcut, Shortcuts
from kernel.worker import slots
from kernel.worker.assignment import Assignment, Ending
from kernel.worker.manifest import Manifest
from kernel.worker.processes.host import HostInbox
from kernel.worker.slots import Slots

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_LARGE: Final = 64 * 1024
"""Bytes of a message from which on it takes the usual way, where none is in more hands than it must be."""
_REST: Final = 5.0
_WAITS: Final = ("eta", "expires", "redelivered")
"""Headers of what is not simply to be run."""


class OwnEnds:
    """What one child settles. `tell` is given what was carried out: the ending, the number of what is run next, and the
    broker's note of it."""

    def __init__(
        self,
        app: Kernel,
        facts: Manifest,
        page: Slots,
        inbox: HostInbox,
        number: int,
        *,
        tell: Callable[[Ending, int, bytes], None],
    ) -> None:
        self._app = app
        self._facts = facts
        self._page = page
        self._inbox = inbox
        self._number = number
        self._tell = tell
        self._most = int(facts.settings.get("worker_max_tasks_per_child") or 0)
        self._way: Shortcut | None = None
        self._rests_until = 0.0

    def carry_out(self, ending: Ending) -> bool:
        """Settle what has nothing left to be done but that, if this child may; whether it did."""
        job = self._inbox.active.get(ending.seq)
        permit = None if job is None else job.assignment.permit
        if job is None or permit is None or not _is_simple(ending) or time.monotonic() < self._rests_until:
            return False
        assignment = job.assignment
        if not assignment.holds():
            return False
        self._inbox.hold_outcome(ending.seq)
        finished = self._finish(ending, assignment, permit)
        if finished is None or finished.settled is not Settled.DONE:
            return False
        following = self._following(assignment, finished)
        self._tell(ending, assignment.next_seq, finished.note)
        if following is not None:
            self._inbox.go_on(following)
        return True

    def _finish(self, ending: Ending, assignment: Assignment, permit: Permit) -> Finished | None:
        delivery = Delivery(assignment.message, assignment.queue, assignment.token)
        settlement = Settlement(delivery, Verdict.ACK, records=ending.records, publications=ending.publications)
        try:
            return self._shortcut().finish(settlement, permit, claims=self._may_go_on(ending))
        except errors.KernelError as exc:
            # The engine tries until it works; whether this has worked is seen then.
            _log.warning("an end takes the usual way, and so do others for %.0f s: %s", _REST, exc)
        except Exception as exc:
            _log.exception("an end takes the usual way: %r", exc)
        ending.unsure = True
        self._rests_until = time.monotonic() + _REST
        return None

    def _shortcut(self) -> Shortcut:
        """Raises `OperationalError` while the server cannot be reached."""
        if self._way is None:
            self._way = cast("Shortcuts", self._app.opened.reader).shortcut(self._facts.queues)
        return self._way

    def _may_go_on(self, ending: Ending) -> bool:
        """Whether this child may run what follows next: nobody else wants it, and nothing else waits."""
        if len(ending.publications) != 1 or not self._page.shortcuts or self._page.stage != slots.STAGE_RUN:
            return False
        inbox, item = self._inbox, ending.publications[0]
        if inbox.drained or len(inbox.active) > 1 or self._page.held(self._number) or inbox.has_more():
            return False
        if self._most and inbox.done + 1 >= self._most:
            return False
        message = item.message
        facts = self._facts.tasks.get(message.task)
        if facts is None or not facts.acks_late or message.size > _LARGE:
            return False
        return item.due is None and not item.exchange and not any(message.headers.get(name) for name in _WAITS)

    def _following(self, before: Assignment, finished: Finished) -> Assignment | None:
        """What was claimed, announced in a slot: before the engine hears of it, so that it finds it here."""
        claimed = finished.following
        if claimed is None:
            return None
        following = Assignment(
            before.next_seq,
            claimed.message,
            claimed.queue,
            claimed.token,
            permit=finished.permit,
            next_seq=before.next_seq + 1,
            valid=self._inbox.lease_valid,
        )
        self._inbox.expect(following)
        return following


def _is_simple(ending: Ending) -> bool:
    """Whether it is a success with something to be stored or published, and means nothing for chords."""
    plain = ending.verdict is Verdict.ACK and not (ending.parts or ending.completes)
    return plain and bool(ending.records or ending.publications)
