"""The records of an end."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kernel import errors, failure, states
from kernel.interfaces.backend import Record
from kernel.interfaces.outcome import Outcome
from kernel.message import Publication
from kernel.result import AsyncResult, children_text
from kernel.results.extended import extend
from kernel.worker.running.life import Life

if TYPE_CHECKING:
    from kernel.app import Kernel

_log: Final = logging.getLogger("kernel.worker")

Encoded = tuple[bytes, str, str]


def stores(life: Life, *, errors_too: bool = False) -> bool:
    """Whether the end of this task is kept."""
    return life.has_backend and (errors_too or life.keeps_results) and life.request.id is not None


def encode_error(app: Kernel, error: BaseException) -> Encoded:
    """An exception as a stored result. A serializer that keeps objects keeps the exception itself, if it can; those of
    ours are data always, which Celery's readers take for their own of the same name."""
    codecs = app.codecs
    serializer = codecs.serializer(codecs.result_serializer)
    if not serializer.safe and type(error).__module__ != errors.__name__:
        try:
            data = codecs.encode_result(error)
            if isinstance(serializer.loads(data[0]), type(error)):
                return data
        except Exception as problem:
            _log.debug("%s cannot be stored as it is: %s", type(error).__name__, problem)
    plain = failure.encode_exception(error, serializer.dumps)
    return codecs.encode_result(plain)


def record(life: Life, outcome: Outcome, data: Encoded, publications: Sequence[Publication]) -> Record:
    """The record of the task itself."""
    request = life.request
    children = [*request.children] if request.has_children else []
    children += [AsyncResult(publication.message.id, app=life.app) for publication in publications]
    made = Record(
        id=life.id,
        state=outcome.state,
        result=data[0],
        content_type=data[1],
        content_encoding=data[2],
        traceback=outcome.traceback,
        children=children_text(children) if children else None,
        date_done=time.time() if outcome.state in states.READY_STATES else None,
        group_id=request.group,
        parent_id=request.parent_id,
        attempt=request.kernel_replay,
        reply_to=request.reply_to or None,
    )
    extend(made, request, life.app)
    return made


def unreached(
    life: Life, task_id: str, data: Encoded, *, traceback: str | None = None, reply_to: str | None = None
) -> Record:
    """The FAILURE of a task that nobody will run any more, and somebody may wait for: because of this one."""
    return Record(
        id=task_id,
        state=states.FAILURE,
        result=data[0],
        content_type=data[1],
        content_encoding=data[2],
        traceback=traceback,
        date_done=time.time(),
        parent_id=life.id,
        attempt=life.request.kernel_replay,
        # The rest of a canvas is awaited where its beginning was called.
        reply_to=reply_to or life.request.reply_to or None,
    )
