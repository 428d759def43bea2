"""The end of a task, in its one order: decided, frozen, recorded, published, settled, observed.

`end` turns a decision into an `Ending`: the ids of the successors are derived from the task's own, so that they are the
same whenever they are worked out again; the record names them; the publications carry them; the verdict comes last.
Whoever gets the ending carries these out in that order. `observe` is for after that. `resume` makes the ending of a
task whose terminal record stands already: what may be missing is published again, and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kernel import attempt, errors, failure, states
from kernel.attempt import Conclusion, call_hook
from kernel.canvas.chord import no_part
from kernel.interfaces.backend import Record
from kernel.interfaces.broker import Verdict
from kernel.interfaces.outcome import Outcome
from kernel.message import Publication
from kernel.signature import Signature
from kernel.worker.assignment import Break, Ending, Join
from kernel.worker.running import replacing
from kernel.worker.running.joins import breaking, joining
from kernel.worker.running.life import Life
from kernel.worker.running.recording import encode_error, record, stores, unreached
from kernel.worker.running.successors import callbacks, errbacks, tasks_of

__all__ = ["Life", "encode_error", "end", "observe", "resume"]

_log: Final = logging.getLogger("kernel.worker")

_REASON_CHARS: Final = 2000


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
        if conclusion.replacement is not None:
            records, publications = replacing.parts(life, conclusion.replacement)
            return _ending(
                life, Verdict.ACK, conclusion.outcome, records=records, publications=publications
            ), conclusion
    except Exception as exc:
        runtime = conclusion.outcome.runtime
        if state == states.RETRY:
            conclusion = attempt.rejected(errors.Reject(exc, requeue=False))
        else:
            conclusion = attempt.failed(life.prepared, exc)
        conclusion.outcome.runtime = runtime
        state = conclusion.outcome.state
    if state == states.IGNORED:
        return _ignored(life, conclusion.outcome), conclusion
    if state == states.REJECTED:
        return _rejection(life, conclusion), conclusion
    return _failure(life, conclusion.outcome), conclusion


def resume(life: Life, standing: Record) -> Ending:
    """The ending of a task that has ended before, with the record `standing`: its successors, marked as repeated, and
    what it means for its chord."""
    publications: Sequence[Publication] = ()
    join: Join | None = None
    breaks: Sequence[Break] = ()
    request, codecs = life.request, life.app.codecs
    # What the settlement of this very claim has yet to take was never published.
    again = life.again or not life.assignment.joined
    try:
        if standing.state == states.SUCCESS:
            join = joining(life, standing, again=again)
            if request.callbacks or request.chain:
                value = codecs.decode_result(standing.result, standing.content_type, standing.content_encoding)
                publications = callbacks(life, value, again=again)
        elif request.errbacks or request.chord or request.chain:
            data = codecs.decode_result(standing.result, standing.content_type, standing.content_encoding)
            error = failure.decode_exception(data)
            breaks = breaking(life, error, again=again)
            if standing.state == states.FAILURE and request.errbacks:
                publications = errbacks(life, Outcome(states.FAILURE, error=error), again=again)
    except Exception:
        _log.exception("task %s[%s] has ended before, and its successors cannot be made again", life.name, life.id)
    return _ending(life, life.verdict or Verdict.ACK, publications=publications, join=join, breaks=breaks)


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
        publications = callbacks(life, outcome.value, again=life.again)
    records: tuple[Record, ...] = ()
    join: Join | None = None
    if stores(life):
        data = life.app.codecs.encode_result(outcome.value)
        records = (record(life, outcome, data, publications),)
        join = joining(life, records[0], again=life.again) if request.chord is not None else None
    return _ending(life, Verdict.ACK, outcome, records=records, publications=publications, join=join)


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
        publications = errbacks(life, outcome, again=life.again)
    breaks: Sequence[Break] = ()
    if life.request.chord is not None or life.request.chain:
        breaks = breaking(life, error, again=life.again)
    records = _failure_records(life, outcome, error, publications)
    verdict = life.verdict
    if verdict is None:
        verdict = Verdict.ACK
        if task is not None and outcome.state == states.FAILURE:
            on_failure = task.acks_on_failure
            if not (task.acks_on_failure_or_timeout if on_failure is None else on_failure):
                verdict = Verdict.DEAD
    reason = failure.one_line(error) if verdict is Verdict.DEAD else ""
    return _ending(life, verdict, outcome, records=records, publications=publications, reason=reason, breaks=breaks)


def _failure_records(
    life: Life, outcome: Outcome, error: BaseException, publications: Sequence[Publication]
) -> tuple[Record, ...]:
    task = None if life.prepared is None else life.prepared.task
    if not stores(life, errors_too=task is not None and bool(task.store_errors_even_if_ignored)):
        return ()
    return _broken_off(life, outcome, error, publications)


def _broken_off(
    life: Life, outcome: Outcome, error: BaseException, publications: Sequence[Publication]
) -> tuple[Record, ...]:
    """The record of a failure, and those of the tasks of its chain, which nobody will run."""
    data = encode_error(life.app, error)
    records = [record(life, outcome, data, publications)]
    if life.request.chain:
        for following in tasks_of(life, life.request.chain):
            if isinstance(following.id, str):
                reply_to = following.options.get("reply_to")
                records.append(unreached(life, following.id, data, traceback=outcome.traceback, reply_to=reply_to))
    return tuple(records)


def _ignored(life: Life, outcome: Outcome) -> Ending:
    """With the record that the task asked for itself, if it did."""
    records: tuple[Record, ...] = ()
    asked = life.request.asked_end
    if asked is not None and stores(life):
        records = (record(life, Outcome(asked[0], runtime=outcome.runtime), asked[1], ()),)
    return _ending(life, Verdict.ACK, outcome, records=records, breaks=_left_out(life))


def _left_out(life: Life) -> Sequence[Break]:
    """What a member that was ignored does to its chord, which would wait for its value. One that made something else
    take its place by itself (an `on_replace` of its own) has left that to it."""
    request = life.request
    if request.gave_way or not (request.chord or request.chain):
        return ()
    return breaking(life, no_part(), again=life.again)


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
    if stores(life):
        error = outcome.error or retry
        records = (record(life, outcome, encode_error(life.app, error), ()),)
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
    if stores(life):
        stored = Outcome(states.FAILURE, runtime=outcome.runtime, error=error, traceback=outcome.traceback)
        records = _broken_off(life, stored, error, ())
    breaks = breaking(life, error, again=life.again) if life.request.chord is not None or life.request.chain else ()
    return _ending(life, Verdict.DEAD, outcome, records=records, reason=reason, breaks=breaks)


def _ending(
    life: Life,
    verdict: Verdict,
    outcome: Outcome | None = None,
    *,
    records: Sequence[Record] = (),
    publications: Sequence[Publication] = (),
    reason: str = "",
    charged: bool = False,
    join: Join | None = None,
    breaks: Sequence[Break] = (),
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
        join=join,
        breaks=breaks,
    )
