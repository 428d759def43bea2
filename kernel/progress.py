"""States that a task reports while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kernel import failure, states
from kernel.interfaces.backend import Record

if TYPE_CHECKING:
    from kernel.task import Task


def update_state(task: Task[..., Any], task_id: str | None, state: str | None, meta: Any) -> None:
    """Store `state` with `meta` for `task_id`, by default for the call of `task` that runs in this context.

    Durable when it returns. Raises ValueError without an id or with a terminal state, `EncodeError` for a
    `meta` that cannot be serialized.
    """
    request = task.request
    own = task_id is None or task_id == request.id
    task_id = task_id or request.id
    if task_id is None:
        raise ValueError(f"update_state of {task.name} needs a task_id here: the task is not running in this context")
    if not isinstance(state, str) or not state:
        raise ValueError(f"state is {state!r:.60}; a text such as 'PROGRESS' is needed")
    if state in states.READY_STATES:
        raise ValueError(f"state {state} says how a task ended: return a value, raise an error or raise Ignore instead")
    app = task.app
    if isinstance(meta, BaseException):
        meta = failure.encode_exception(meta)
    data, content_type, encoding = app.codecs.encode_result(meta)
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
    if own and request.sink is not None:
        request.sink.progress([record])
    elif not request.is_eager or task.store_eager_result:
        task.backend.store([record])
