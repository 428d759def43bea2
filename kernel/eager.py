"""Eager mode: a task run here, in the caller, as a worker would run it."""

from __future__ import annotations

import contextvars
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel import attempt, errors, states
from kernel.attempt import Conclusion, Loops, Prepared, call_hook
from kernel.failure import ExceptionInfo, encode_exception
from kernel.guard import Unguarded
from kernel.interfaces.backend import Record
from kernel.naming import new_id
from kernel.options import stamps_of
from kernel.request import Request, current_request
from kernel.result import EagerResult
from kernel.signature import Signature, as_signatures

if TYPE_CHECKING:
    from kernel.task import Task

_FIELDS: Final = frozenset(
    {
        *("root_id", "parent_id", "group_index", "reply_to", "shadow", "expires", "eta", "origin", "chord", "chain"),
        *("time_limit", "soft_time_limit", "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps"),
        *("argsrepr", "kwargsrepr", "logfile", "loglevel"),
    }
)
"""Options that the request of a call shows under the same name."""


def apply(
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    link: Any = None,
    link_error: Any = None,
    task_id: str | None = None,
    retries: int = 0,
    throw: bool | None = None,
    headers: Mapping[str, Any] | None = None,
    **options: Any,
) -> EagerResult[Any]:
    """Run `task` here, with hooks, retries (at once, without waiting) and links, and return its result.

    `throw` (default `task_eager_propagates`) raises the task's error instead. Nothing is stored unless the task
    says `store_eager_result`. Time limits have no effect here. Raises what a link that cannot be called raises.
    """
    app = task.app
    if throw is None:
        throw = bool(app.conf.task_eager_propagates)
    call_id = task_id or new_id()
    given = {name: value for name, value in options.items() if name in _FIELDS and value is not None}
    if options.get("stamped_headers"):
        given["stamps"] = stamps_of(options)
    request = Request(
        **{
            "app": app,
            "id": call_id,
            "task": task.name,
            "args": args,
            "kwargs": kwargs,
            "retries": retries,
            "root_id": call_id,
            "correlation_id": call_id,
            "hostname": socket.gethostname(),
            "called_directly": False,
            "is_eager": True,
            "callbacks": as_signatures(link, app) or None,
            "errbacks": as_signatures(link_error, app) or None,
            "group": options.get("group_id"),
            "delivery_info": {
                "is_eager": True,
                "exchange": options.get("exchange"),
                "routing_key": options.get("routing_key"),
                "priority": options.get("priority"),
            },
            "outer": current_request.get(),
            **given,
        }
    )
    request.headers = headers
    # A context of its own, so that the request is the current one in there alone.
    return contextvars.copy_context().run(_run, Prepared(app, task), request, throw)


def _run(prepared: Prepared, request: Request, throw: bool) -> EagerResult[Any]:
    loops = Loops()
    try:
        request, conclusion = _attempts(prepared, request, loops)
        outcome = conclusion.outcome
        if outcome.state == states.SUCCESS:
            _call_links(prepared, request, request.callbacks, (outcome.value,), throw=throw)
        elif outcome.state == states.FAILURE:
            _call_errbacks(prepared, request, conclusion, loops)
    finally:
        loops.close()
    if throw and outcome.state in states.PROPAGATE_STATES and outcome.error is not None:
        raise outcome.error
    value = outcome.value if outcome.state == states.SUCCESS else outcome.error
    return EagerResult(request.id or "", value, outcome.state, traceback=outcome.traceback, name=prepared.name)


def _attempts(prepared: Prepared, request: Request, loops: Loops) -> tuple[Request, Conclusion]:
    """As many as it takes; the last one, or the one that ended otherwise having asked for a retry."""
    ended: tuple[Request, Conclusion] | None = None
    while True:
        current_request.set(request)
        conclusion = attempt.run(prepared, request, guard=Unguarded(), loops=loops)
        outcome = conclusion.outcome
        retry = conclusion.retry
        if outcome.state != states.RETRY:
            retry, ended = request.asked_retry, ended or (request, conclusion)
        _store(prepared, request, conclusion)
        _observe(prepared, request, conclusion, loops)
        if retry is None:
            assert ended is not None, "a RETRY has its exception"
            return ended
        request = _next(request, retry)


def _next(request: Request, retry: errors.Retry) -> Request:
    """The request of the next attempt: what the retry says, on top of what was."""
    fields = {**vars(request), "retries": request.retries + 1, "entered": False, "asked_retry": None, "asked_end": None}
    if isinstance(retry.sig, Signature):
        fields.update(args=tuple(retry.sig.args), kwargs=dict(retry.sig.kwargs))
        headers = retry.sig.options.get("headers")
        if headers:
            fields["_headers"] = {**(request.headers or {}), **headers}
    return Request(**fields)


def _observe(prepared: Prepared, request: Request, conclusion: Conclusion, loops: Loops) -> None:
    outcome = conclusion.outcome
    extensions = prepared.app.extensions
    hooks = extensions.hot.kernel_task_end
    if hooks is not None:
        extensions.observe(hooks, request, outcome)
    where = (request.id, request.args, request.kwargs)
    if outcome.state == states.SUCCESS:
        if prepared.on_success is not None:
            # Unlike in a worker there is somebody to tell.
            prepared.on_success(outcome.value, *where)
    elif outcome.error is not None and outcome.state in (states.FAILURE, states.RETRY):
        info = ExceptionInfo(outcome.error, outcome.traceback)
        hook, name = prepared.on_failure, "on_failure"
        if outcome.state == states.RETRY:
            hook, name = prepared.on_retry, "on_retry"
        call_hook(hook, name, (outcome.error, *where, info), loops=loops)
    if outcome.state in (states.SUCCESS, states.FAILURE):
        value = outcome.value if outcome.state == states.SUCCESS else outcome.error
        call_hook(prepared.after_return, "after_return", (outcome.state, value, *where, None), loops=loops)


def _store(prepared: Prepared, request: Request, conclusion: Conclusion) -> None:
    """The record of a task that wants its eager results stored."""
    task, outcome = prepared.task, conclusion.outcome
    ignored = task.ignore_result if request.ignore_result is None else request.ignore_result
    if not task.store_eager_result or ignored or outcome.state in (states.IGNORED, states.REJECTED):
        return
    app = prepared.app
    codecs = app.codecs
    value = outcome.value
    if outcome.state != states.SUCCESS:
        error = outcome.error or errors.TaskError(f"the task ended in {outcome.state}")
        value = encode_exception(error, codecs.serializer(codecs.result_serializer).dumps)
    data, content_type, encoding = codecs.encode_result(value)
    done = app.now().timestamp() if outcome.state in states.READY_STATES else None
    record = Record(
        id=request.id or "",
        state=outcome.state,
        result=data,
        content_type=content_type,
        content_encoding=encoding,
        traceback=outcome.traceback,
        date_done=done,
        group_id=request.group,
        parent_id=request.parent_id,
    )
    app.backend.store((record,))


def _call_links(
    prepared: Prepared, request: Request, links: Any, args: Sequence[Any], *, throw: bool | None = None
) -> None:
    for link in as_signatures(links, prepared.app):
        link.apply(args, root_id=request.root_id, parent_id=request.id, throw=throw)


def _call_errbacks(prepared: Prepared, request: Request, conclusion: Conclusion, loops: Loops) -> None:
    """Inline: with the request, the error and the traceback, or with the id alone, as the errback wants it."""
    outcome = conclusion.outcome
    for errback in as_signatures(request.errbacks, prepared.app):
        try:
            if attempt.takes_request(prepared.app, errback):
                attempt.call_errback(errback, request, outcome, loops=loops)
            else:
                _call_links(prepared, request, [errback], (request.id,), throw=False)
        except Exception:
            attempt.log_hook_failure(f"errback {errback.task}")
