"""States that a task reports while it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from kernel import failure, states
from kernel.interfaces.backend import Record
from kernel.results.extended import extend

if TYPE_CHECKING:
    from kernel.request import Request
    from kernel.task import Task

PROGRESS: Final = "PROGRESS"
_BURST: Final = 10
_PER_SECOND: Final = 10.0
_STASH: Final = "kernel.progress"


def update_state(task: Task[..., Any], task_id: str | None, state: str | None, meta: Any) -> None:
    """Store `state` with `meta` for `task_id`, by default for the call of `task` that runs in this context.

    Durable when it returns. A terminal state is how the call that runs here ends if it then raises `Ignore`, and is
    stored with that end. Raises ValueError without an id, or with a terminal state of another call, and `EncodeError`
    for a `meta` that cannot be serialized.
    """
    request = task.request
    own = task_id is None or task_id == request.id
    task_id = task_id or request.id
    if task_id is None:
        raise ValueError(f"update_state of {task.name} needs a task_id here: the task is not running in this context")
    if not isinstance(state, str) or not state:
        raise ValueError(f"state is {state!r:.60}; a text such as 'PROGRESS' is needed")
    ends = state in states.READY_STATES
    if ends and (not own or request.called_directly):
        raise ValueError(
            f"state {state} says how a task ended: it can be set by the task itself while it runs, which then raises "
            "Ignore; return a value or raise an error otherwise"
        )
    app = task.app
    if isinstance(meta, BaseException):
        meta = failure.encode_exception(meta)
    data, content_type, encoding = app.codecs.encode_result(meta)
    if ends:
        # Stored now, it would keep a task from running again whose process dies before its end.
        request.asked_end = state, (data, content_type, encoding)
        return
    record = Record(
        id=task_id,
        state=state,
        result=data,
        content_type=content_type,
        content_encoding=encoding,
        parent_id=request.parent_id if own else None,
        group_id=request.group if own else None,
        attempt=request.attempt if own else 0,
        reply_to=request.reply_to or None if own else None,
        name=task.name if own else None,
    )
    if own:
        extend(record, request, app)
    if own and request.sink is not None:
        request.sink.progress([record])
    elif not request.is_eager or task.store_eager_result:
        task.backend.store([record])


def report(task: Task[..., Any], current: float, total: float | None, message: str, *, always: bool) -> bool:
    """Store PROGRESS with the meta ``{"current", "total", "message"}`` for the call that runs in this context.

    Ten reports a second are stored, more for a moment, and the one that says that all is done; whether this one was.
    Raises ValueError for numbers that are none, or below 0, and where no call runs.
    """
    for name, value in (("current", current), ("total", total)):
        if name == "total" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value!r:.60}; a number from 0 is needed" + " (or None)" * (name == "total"))
    request = task.request
    if request.id is None:
        raise ValueError(f"{task.name} does not run in this context, so there is no progress of it to be stored")
    if not (always or (total is not None and current >= total)) and not _in_time(request):
        return False
    meta = {"current": current, "total": total, "message": str(message)}
    update_state(task, None, PROGRESS, meta)
    return True


def _in_time(request: Request) -> bool:
    """Whether a report may be stored: each takes one of ten, which come back in a second."""
    now = time.monotonic()
    left, then = request.stash.get(_STASH, (float(_BURST), now))
    left = min(float(_BURST), left + (now - then) * _PER_SECOND)
    allowed = bool(left >= 1)
    request.stash[_STASH] = (left - 1 if allowed else left, now)
    return allowed
