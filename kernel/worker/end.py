"""The end of a task, in its one order: decided, frozen, recorded, published, settled, observed.

`end` turns a decision into an `Ending`: the ids of the successors are derived from the task's own, so that they are the
same whenever they are worked out again; the record names them; the publications carry them; the verdict comes last.
Whoever gets the ending carries these out in that order. `observe` is for after that. `resume` makes the ending of a
task whose terminal record stands already: what may be missing is published again, and nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from kernel import attempt, errors, failure, states
from kernel.attempt import Conclusion, Loops, Prepared, call_hook, takes_request
from kernel.call import Call
from kernel.canvas.composite import Composite
from kernel.canvas.groups import as_group
from kernel.interfaces.backend import Record
from kernel.interfaces.broker import Verdict
from kernel.interfaces.outcome import Outcome
from kernel.message import Publication
from kernel.naming import derive_id
from kernel.request import Request
from kernel.result import AsyncResult, children_text
from kernel.signature import Lineage, Signature, maybe_signature
from kernel.worker.assignment import Assignment, Ending

if TYPE_CHECKING:
    from kernel.app import Kernel

_log: Final = logging.getLogger("kernel.worker")

_REASON_CHARS: Final = 2000


@dataclass(slots=True)
class Life:
    """One task on its way through an executor. `prepared` is None when no task of its name is registered."""

    app: Kernel
    assignment: Assignment
    request: Request
    prepared: Prepared | None
    hostname: str
    loops: Loops
    has_backend: bool
    verdict: Verdict | None = None
    """Set where it does not follow from the outcome: whoever found out knows what becomes of the message."""
    refusal: Exception | None = None
    """Why it cannot be run at all."""

    @property
    def id(self) -> str:
        return self.request.id or ""

    @property
    def name(self) -> str:
        return self.request.task or ""

    @property
    def again(self) -> bool:
        """Whether its successors may have been published before."""
        return self.assignment.seen or self.request.redelivered

    @property
    def keeps_results(self) -> bool:
        if self.request.ignore_result is not None:
            return not self.request.ignore_result
        return self.prepared is None or not self.prepared.task.ignore_result


def end(life: Life, conclusion: Conclusion) -> tuple[Ending, Conclusion]:
    """What is to be done about `conclusion`, and the conclusion itself, which is another one where the task cannot
    end as it wanted: a result or a successor that cannot be encoded makes it fail."""
    if conclusion.handed_back:
        return _ending(life, Verdict.REQUEUE), conclusion
    state = conclusion.outcome.state
    try:
        if state == states.SUCCESS:
            return _success(life, conclusion.outcome), conclusion
        if state == states.RETRY:
            return _retry(life, conclusion), conclusion
    except Exception as exc:
        runtime = conclusion.outcome.runtime
        if state == states.RETRY:
            conclusion = attempt.rejected(errors.Reject(exc, requeue=False))
        else:
            conclusion = attempt.failed(life.prepared, exc)
        conclusion.outcome.runtime = runtime
        state = conclusion.outcome.state
    if state == states.IGNORED:
        return _ending(life, Verdict.ACK, conclusion.outcome), conclusion
    if state == states.REJECTED:
        return _rejection(life, conclusion), conclusion
    return _failure(life, conclusion.outcome), conclusion


def resume(life: Life, standing: Record) -> Ending:
    """The ending of a task that has ended before, with the record `standing`: its successors, marked as repeated."""
    publications: Sequence[Publication] = ()
    try:
        if standing.state == states.SUCCESS:
            if life.request.callbacks or life.request.chain:
                codecs = life.app.codecs
                value = codecs.decode_result(standing.result, standing.content_type, standing.content_encoding)
                publications = _callbacks(life, value, again=True)
        elif standing.state == states.FAILURE and life.request.errbacks:
            codecs = life.app.codecs
            data = codecs.decode_result(standing.result, standing.content_type, standing.content_encoding)
            error = failure.decode_exception(data)
            publications = _errbacks(life, Outcome(states.FAILURE, error=error), again=True)
    except Exception:
        _log.exception("task %s[%s] has ended before, and its successors cannot be made again", life.name, life.id)
    return _ending(life, life.verdict or Verdict.ACK, publications=publications)


def observe(life: Life, conclusion: Conclusion) -> None:
    """Tell the task's own hooks and the plugins. Their errors are logged, and change nothing."""
    if conclusion.handed_back:
        return
    outcome = conclusion.outcome
    extensions = life.app.extensions
    hooks = extensions.hot.kernel_task_end
    if hooks is not None:
        extensions.observe(hooks, life.request, outcome)
    prepared = life.prepared
    if prepared is None:
        return
    if outcome.state == states.SUCCESS:
        if prepared.on_success is not None:
            _tell(life, prepared.on_success, "on_success", outcome.value)
    elif outcome.state == states.FAILURE and prepared.on_failure is not None:
        info = _info(outcome)
        _tell(life, prepared.on_failure, "on_failure", info.exception, info)
    elif outcome.state == states.RETRY and prepared.on_retry is not None:
        info = _info(outcome)
        _tell(life, prepared.on_retry, "on_retry", info.exception, info)
    if prepared.after_return is not None and outcome.state in (states.SUCCESS, states.FAILURE):
        value = outcome.value if outcome.state == states.SUCCESS else outcome.error
        request = life.request
        args = (outcome.state, value, request.id, request.args, request.kwargs, None)
        call_hook(prepared.after_return, "after_return", args, loops=life.loops)


def _tell(life: Life, hook: Any, name: str, value: Any, *more: Any) -> None:
    request = life.request
    call_hook(hook, name, (value, request.id, request.args, request.kwargs, *more), loops=life.loops)


def _info(outcome: Outcome) -> failure.ExceptionInfo:
    error = outcome.error or errors.TaskError(f"the task ended in {outcome.state}")
    return failure.ExceptionInfo(error, outcome.traceback)


# --- the four ways to end -----------------------------------------------------------------------------------


def _success(life: Life, outcome: Outcome) -> Ending:
    request = life.request
    publications: Sequence[Publication] = ()
    if request.callbacks or request.chain:
        publications = _callbacks(life, outcome.value, again=life.again)
    records: tuple[Record, ...] = ()
    if _stores(life):
        data = life.app.codecs.encode_result(outcome.value)
        records = (_record(life, outcome, data, publications),)
    return _ending(life, Verdict.ACK, outcome, records=records, publications=publications)


def _failure(life: Life, outcome: Outcome) -> Ending:
    """FAILURE and REVOKED."""
    task = None if life.prepared is None else life.prepared.task
    error = outcome.error or errors.TaskError(f"the task ended in {outcome.state}")
    late = not life.assignment.early_ack
    if task is not None and late and life.verdict is None and isinstance(error, errors.TimeLimitExceeded):
        on_timeout = task.acks_on_timeout
        if not (task.acks_on_failure_or_timeout if on_timeout is None else on_timeout):
            # It will run again, so it has no end to be recorded.
            return _ending(life, Verdict.REQUEUE, outcome, charged=True)
    publications: Sequence[Publication] = ()
    if outcome.state == states.FAILURE and life.request.errbacks:
        publications = _errbacks(life, outcome, again=life.again)
    records = _failure_records(life, outcome, error, publications)
    verdict = life.verdict
    if verdict is None:
        verdict = Verdict.ACK
        if task is not None and outcome.state == states.FAILURE:
            on_failure = task.acks_on_failure
            if not (task.acks_on_failure_or_timeout if on_failure is None else on_failure):
                verdict = Verdict.DEAD
    reason = failure.one_line(error) if verdict is Verdict.DEAD else ""
    return _ending(life, verdict, outcome, records=records, publications=publications, reason=reason)


def _failure_records(
    life: Life, outcome: Outcome, error: BaseException, publications: Sequence[Publication]
) -> tuple[Record, ...]:
    task = None if life.prepared is None else life.prepared.task
    if not _stores(life, errors_too=task is not None and bool(task.store_errors_even_if_ignored)):
        return ()
    data = encode_error(life.app, error)
    records = [_record(life, outcome, data, publications)]
    if outcome.state == states.FAILURE:
        for task_id, reply_to in _unreached(life):
            records.append(
                Record(
                    id=task_id,
                    state=states.FAILURE,
                    result=data[0],
                    content_type=data[1],
                    content_encoding=data[2],
                    traceback=outcome.traceback,
                    date_done=time.time(),
                    parent_id=life.id,
                    reply_to=reply_to,
                )
            )
    return tuple(records)


def _unreached(life: Life) -> list[tuple[str, str | None]]:
    """The ids of the rest of a chain, each with whom to tell: nobody will run it, and somebody may wait for it."""
    found = []
    for item in life.request.chain or ():
        try:
            following = _signature(life, item)
        except errors.InvalidTaskError:
            continue
        for member in following.tasks if isinstance(following, Composite) else [following]:
            # The rest of a chain is awaited where its beginning was called.
            reply_to = member.options.get("reply_to") or life.request.reply_to or None
            found += [(task_id, reply_to) for task_id in member.ids() if isinstance(task_id, str)]
    return found


def _retry(life: Life, conclusion: Conclusion) -> Ending:
    outcome, retry, request = conclusion.outcome, conclusion.retry, life.request
    assert retry is not None, "a RETRY has its exception"
    signature = retry.sig if isinstance(retry.sig, Signature) else None
    delay = outcome.retry_in or 0.0
    rewritten = signature is not None and getattr(signature, "rewrites", True)
    publication = life.app.publisher.prepare_retry(
        life.assignment.message,
        queue=life.assignment.queue,
        retries=request.retries + 1,
        due=time.time() + delay if delay else None,
        args=signature.args if signature is not None and rewritten else None,
        kwargs=signature.kwargs if signature is not None and rewritten else None,
        options=_given_options(signature),
    )
    records: tuple[Record, ...] = ()
    if _stores(life):
        error = outcome.error or retry
        records = (_record(life, outcome, encode_error(life.app, error), ()),)
    return _ending(life, Verdict.ACK, outcome, records=records, publications=(publication,))


def _given_options(signature: Signature[Any] | None) -> Mapping[str, Any]:
    """The options of a retry that may differ from the message's own; lineage and links never do."""
    if signature is None:
        return {}
    kept = ("task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "link", "link_error")
    return {name: value for name, value in signature.options.items() if name not in (*kept, "retries", "origin")}


def _rejection(life: Life, conclusion: Conclusion) -> Ending:
    outcome = conclusion.outcome
    if conclusion.requeue:
        return _ending(life, Verdict.REQUEUE, outcome)
    error = outcome.error or errors.Reject("rejected")
    cause = error.reason if isinstance(error, errors.Reject) else error
    reason = failure.one_line(cause) if isinstance(cause, BaseException) else str(cause or "rejected")
    records: tuple[Record, ...] = ()
    if _stores(life):
        stored = Outcome(states.FAILURE, runtime=outcome.runtime, error=error, traceback=outcome.traceback)
        records = (_record(life, stored, encode_error(life.app, error), ()),)
    return _ending(life, Verdict.DEAD, outcome, records=records, reason=reason)


def _ending(
    life: Life,
    verdict: Verdict,
    outcome: Outcome | None = None,
    *,
    records: Sequence[Record] = (),
    publications: Sequence[Publication] = (),
    reason: str = "",
    charged: bool = False,
) -> Ending:
    return Ending(
        life.assignment.seq,
        verdict,
        state="" if outcome is None else outcome.state,
        charged=charged,
        reason=reason[:_REASON_CHARS],
        records=records,
        publications=publications,
        runtime=0.0 if outcome is None else outcome.runtime,
        task=life.name,
    )


# --- records ------------------------------------------------------------------------------------------------


def _stores(life: Life, *, errors_too: bool = False) -> bool:
    return life.has_backend and (errors_too or life.keeps_results) and life.request.id is not None


def encode_error(app: Kernel, error: BaseException) -> tuple[bytes, str, str]:
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


def _record(life: Life, outcome: Outcome, data: tuple[bytes, str, str], publications: Sequence[Publication]) -> Record:
    request = life.request
    children = [*request.children] if request.has_children else []
    children += [AsyncResult(publication.message.id, app=life.app) for publication in publications]
    record = Record(
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
    if life.app.conf.result_extended:
        _extend(life, record)
    return record


def _extend(life: Life, record: Record) -> None:
    request = life.request
    record.name = request.task
    record.args = _encoded_or_text(life.app, list(request.args), request.argsrepr)
    record.kwargs = _encoded_or_text(life.app, dict(request.kwargs), request.kwargsrepr)
    record.worker = life.hostname
    record.retries = request.retries
    record.queue = life.assignment.queue
    if request.stamped_headers or request.stamps:
        stamps = {"stamped_headers": request.stamped_headers, "stamps": request.stamps}
        record.stamps = json.dumps(stamps, default=str)


def _encoded_or_text(app: Kernel, value: Any, text: str | None) -> bytes:
    """Arguments may have come by a serializer that knows more types than that of the results."""
    try:
        return app.codecs.encode_result(value)[0]
    except errors.EncodeError:
        return app.codecs.encode_result(text)[0]


# --- successors ---------------------------------------------------------------------------------------------


def _callbacks(life: Life, value: Any, *, again: bool) -> list[Publication]:
    """The links of a success, and the next task of its chain. Raises what `prepare` raises."""
    request = life.request
    calls: list[Call] = []
    for number, item in enumerate(request.callbacks or ()):
        calls += _successors(life, item, (value,), ("link", number), again=again)
    if request.chain:
        *rest, following = request.chain
        calls += _successors(life, following, (value,), ("chain", 0), again=again, chain=rest or None)
    prepare = life.app.publisher.prepare
    return [prepare(call) for call in calls]


def _errbacks(life: Life, outcome: Outcome, *, again: bool) -> list[Publication]:
    """The error links of a failure: those that take the request are called here, the others are published."""
    publications = []
    for number, item in enumerate(life.request.errbacks or ()):
        try:
            signature = _signature(life, item)
            if takes_request(life.app, signature):
                signature(life.request, outcome.error, outcome.traceback)
            else:
                calls = _successors(life, signature, (life.id,), ("errback", number), again=again)
                publications += [life.app.publisher.prepare(call) for call in calls]
        except Exception:
            _log.exception("an errback of task %s[%s] cannot be called: %.200r", life.name, life.id, item)
    return publications


def _successors(
    life: Life, item: Any, args: Sequence[Any], role: tuple[str, int], *, again: bool, **options: Any
) -> list[Call]:
    """What to publish for a link: one call, or those that a chain or a group of tasks begins with."""
    request = life.request
    signature = _signature(life, item)
    task_id, root_id = derive_id(life.id, *role), request.root_id or life.id
    if not signature.composite:
        return [
            Call.from_signature(
                signature,
                args,
                task_id=task_id,
                root_id=root_id,
                parent_id=life.id,
                redelivered=again,
                **options,
            )
        ]
    numbers = count()
    made = as_group(signature).clone()
    made.freeze(task_id, ids=lambda: derive_id(task_id, "canvas", next(numbers)))
    lineage = Lineage(root_id=root_id, parent_id=life.id, reply_to=request.reply_to or None, redelivered=again)
    return made.calls(args, {}, options, lineage=lineage)


def _signature(life: Life, item: Any) -> Signature[Any]:
    signature = maybe_signature(item, life.app)
    if not isinstance(signature, Signature):
        raise errors.InvalidTaskError(f"a link is {item!r:.80}; a signature is needed")
    return signature
