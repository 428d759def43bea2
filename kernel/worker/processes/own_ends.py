"""Ends that a child carries out by itself, and what it goes on with then (`kernel.interfaces.shortcut`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

from kernel import errors, states
from kernel.interfaces.broker import Delivery, Settled, Settlement, Verdict
from kernel.interfaces.shortcut import Advanced, Shortcut, Shortcuts
from kernel.message import Message
from kernel.worker import slots
from kernel.worker.assignment import Assignment, Ending, Lent, Step
from kernel.worker.manifest import Manifest
from kernel.worker.processes.host import HostInbox
from kernel.worker.slots import Slots

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_LARGE: Final = 64 * 1024
"""Bytes of a message from which on it takes the usual way, where none is in more hands than it must be."""
_REST: Final = 5.0
_FAR: Final = 32
"""Links from which on the claim is made that of what runs: whoever gets its message again goes through so many."""
_YOUNG: Final = 10.0
_LASTING: Final = 600.0
"""Seconds that a record must live, so that nobody runs again what a row has behind it."""
_NO_LIMITS: Final = [None, None]


class OwnEnds:
    """What one child settles. `tell` is given each step, and whether the engine has to know of it before what follows
    runs."""

    def __init__(
        self,
        app: Kernel,
        facts: Manifest,
        page: Slots,
        inbox: HostInbox,
        number: int,
        *,
        tell: Callable[[Step, bool], None],
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
        expires = app.conf.result_expires
        seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
        self._keeps = not seconds or seconds >= _LASTING
        self._row = "", 0.0, 0
        limit = app.conf.task_delivery_limit
        self._counts_each = limit is not None and limit <= 1

    def carry_out(self, ending: Ending) -> bool:
        """Settle what has nothing left to be done but that, or go on with what follows; whether either was done."""
        job = self._inbox.active.get(ending.seq)
        lent = None if job is None else job.assignment.lent
        if job is None or lent is None or not _is_simple(ending) or time.monotonic() < self._rests_until:
            return False
        assignment = job.assignment
        if not assignment.holds():
            return False
        self._inbox.hold_outcome(ending.seq)
        try:
            return self._go_on(ending, assignment, lent) or self._finish(ending, assignment, lent)
        except errors.KernelError as exc:
            # The engine tries until it works; whether this has worked is seen then.
            _log.warning("an end takes the usual way, and so do others for %.0f s: %s", _REST, exc)
        except Exception as exc:
            _log.exception("an end takes the usual way: %r", exc)
        ending.unsure = True
        self._rests_until = time.monotonic() + _REST
        return False

    def _go_on(self, ending: Ending, assignment: Assignment, lent: Lent) -> bool:
        """Run next what follows, under the claim of what has ended."""
        if not self._may_go_on(ending, lent):
            return False
        (item,) = ending.publications
        settlement = Settlement(_claim(assignment, lent), Verdict.ACK, records=ending.records)
        following = Assignment(
            lent.following,
            item.message,
            item.queue,
            assignment.token,
            lent=Lent(lent.key, lent.following + 1, lent.last),
            valid=self._inbox.lease_valid,
        )

        def meanwhile() -> None:
            # Announced before the engine hears of it, which then finds it here.
            self._inbox.expect(following)
            ending.observed()

        advanced = Advanced.STALE
        try:
            moves = self._is_far(assignment.token)
            advanced = self._shortcut().advance(settlement, item, moves=moves, meanwhile=meanwhile)
        finally:
            if advanced is not Advanced.DONE:
                self._inbox.forget(following.seq)
        if advanced is not Advanced.DONE:
            return False
        self._tell(Step(ending, item.message), self._is_watched(item.message))
        self._inbox.go_on(following)
        return True

    def _finish(self, ending: Ending, assignment: Assignment, lent: Lent) -> bool:
        settlement = Settlement(
            _claim(assignment, lent), Verdict.ACK, records=ending.records, publications=ending.publications
        )
        if self._shortcut().finish(settlement) is not Settled.DONE:
            return False
        self._tell(Step(ending, None), True)
        return True

    def _shortcut(self) -> Shortcut:
        """Raises `OperationalError` while the server cannot be reached."""
        if self._way is None:
            self._way = cast("Shortcuts", self._app.opened.reader).shortcut(self._facts.queues)
        return self._way

    def _may_go_on(self, ending: Ending, lent: Lent) -> bool:
        """Whether this child may run what follows next: nobody else wants it, and nothing else waits here. What has no
        record would run again for whoever gets the first message of the row again."""
        if ending.state != states.SUCCESS or len(ending.publications) != 1 or not ending.records:
            return False
        if not self._keeps or not self._page.shortcuts:
            return False
        inbox, item = self._inbox, ending.publications[0]
        if inbox.drained or len(inbox.active) > 1 or self._page.held(self._number) or inbox.has_more():
            return False
        if self._most and inbox.done + 1 >= self._most:
            return False
        message = item.message
        facts = self._facts.tasks.get(message.task)
        if facts is None or not facts.acks_late or message.size > _LARGE or item.exchange:
            return False
        return lent.following < lent.last and self._page.stage == slots.STAGE_RUN

    def _is_watched(self, message: Message) -> bool:
        """Whether the engine has anything to do with this task while it runs, or must know what its process died of."""
        facts, headers = self._facts.tasks[message.task], message.headers
        return (
            self._counts_each
            or facts.time_limit is not None
            or facts.soft_time_limit is not None
            or facts.reject_on_worker_lost is False
            or headers.get("timelimit") not in (None, _NO_LIMITS)
            or bool(headers.get("stamped_headers"))
        )

    def _is_far(self, token: str) -> bool:
        """Whether what runs under this claim is far from its message by now: then it gets another. While it is near,
        all records in between are certainly there."""
        now, (known, since, count) = time.monotonic(), self._row
        if known != token:
            since, count = now, 0
        far = count >= _FAR or now - since >= _YOUNG
        self._row = (token, now, 0) if far else (token, since, count + 1)
        return far


def _claim(assignment: Assignment, lent: Lent) -> Delivery:
    return Delivery(assignment.message, assignment.queue, assignment.token, key=lent.key)


def _is_simple(ending: Ending) -> bool:
    """Whether it is a success with something to be stored or published, and means nothing for chords."""
    plain = ending.verdict is Verdict.ACK and not (ending.parts or ending.completes)
    return plain and bool(ending.records or ending.publications)
