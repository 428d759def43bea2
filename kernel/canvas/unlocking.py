"""`celery.chord_unlock`: how chords that Celery made are joined where the result backend does not count parts for it.

Celery publishes it with the header, and it looks for the results of the members until all are there. Chords that were
made here never need it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel import errors, failure, states
from kernel.canvas.chord import dependency_error
from kernel.canvas.composite import walk
from kernel.groupresult import GroupResult
from kernel.interfaces.backend import Record, StoreState
from kernel.result import result_from_tuple
from kernel.signature import Signature, as_signatures

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.task import Task

UNLOCK: Final = "celery.chord_unlock"


def add_unlock_task(app: Kernel) -> None:
    """Register it."""

    def celery_chord_unlock(
        self: Task[..., Any],
        group_id: str,
        callback: Mapping[str, Any],
        interval: float | None = None,
        max_retries: int | None = None,
        result: Sequence[Any] = (),
    ) -> None:
        """Call `callback` with the results, when all are there."""
        header = GroupResult(group_id, [result_from_tuple(each, app) for each in result], app=app)
        body = Signature.from_dict(callback, app)
        culprit = _failed(header)
        if culprit is not None:
            _fail(app, body, dependency_error(*culprit))
        elif header.ready():
            body.delay(header.get(disable_sync_subtasks=False))
        else:
            self.max_retries = None
            pause = app.conf.result_chord_retry_interval if interval is None else interval
            if max_retries is not None and self.request.retries >= max_retries:
                _fail(app, body, errors.ChordError(f"{UNLOCK} could not be retried: it was {max_retries} times"))
                return
            raise self.retry(countdown=pause)

    app.task(name=UNLOCK, bind=True, max_retries=None, ignore_result=True)(celery_chord_unlock)


def _failed(header: GroupResult) -> tuple[str, BaseException] | None:
    """A member that has failed, and its error."""
    for member in header.results:
        if isinstance(member, GroupResult):
            found = _failed(member)
            if found is not None:
                return found
        elif member.state in states.PROPAGATE_STATES:
            error = member.result
            return member.id, error if isinstance(error, BaseException) else errors.TaskError(str(error))
    return None


def _fail(app: Kernel, body: Signature[Any], error: errors.ChordError) -> None:
    """Store the failure of all that the body is, and call its errbacks, unless somebody did."""
    codecs = app.codecs
    data = codecs.encode_result(failure.encode_exception(error, codecs.serializer(codecs.result_serializer).dumps))
    records = [
        Record(
            id=task.id,
            state=states.FAILURE,
            result=data[0],
            content_type=data[1],
            content_encoding=data[2],
            date_done=time.time(),
        )
        for task in walk(body)
        if task.id is not None
    ]
    outcomes = app.backend.store(records)
    if any(outcome.state is StoreState.STANDING for outcome in outcomes):
        return  # it was told before: a member that failed in a worker of ours did so
    for errback in as_signatures(body.options.get("link_error"), app):
        errback.delay(body.id)
