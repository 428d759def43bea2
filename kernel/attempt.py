"""One attempt at a task: from its arguments to a decision on how it ends. Workers and eager mode run it alike.

Nothing is stored or published here. What ends an attempt is a `Conclusion`; `kernel.worker.running.end` acts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, cast

from kernel import errors, failure, states
from kernel.again import publish_next
from kernel.guard import Guard
from kernel.interfaces.outcome import Decision, Fail, Outcome, RetryLater, Succeed
from kernel.request import Request
from kernel.result import joining
from kernel.signature import Signature
from kernel.task import Task

if TYPE_CHECKING:
    from kernel.app import Kernel

_log: Final = logging.getLogger("kernel.worker")

_CONTROL: Final = (errors.Ignore, errors.Retry, errors.Reject)
# They ask the interpreter to end, which a task has no business to do in a worker.
_EXITS: Final = (SystemExit, KeyboardInterrupt)

_CLOSE_SECONDS: Final = 1.0
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Body = Callable[..., Any]


@dataclass(slots=True)
class Conclusion:
    """How an attempt ends, before anything is done about it.

    `retry` is set with RETRY, `requeue` belongs to REJECTED, and `replacement` (IGNORED) is what runs in its place,
    under its id. `handed_back` says that the task ends nowhere: its lease is lost, and the message is somebody else's.
    """

    outcome: Outcome
    retry: errors.Retry | None = None
    requeue: bool = False
    handed_back: bool = False
    replacement: Signature[Any] | None = None


class Prepared:
    """What does not change from one call of a task to the next, worked out once."""

    __slots__ = (
        "after_return",
        "app",
        "autoretry",
        "before_start",
        "body",
        "is_coroutine",
        "looks_back",
        "name",
        "never_retry",
        "on_failure",
        "on_retry",
        "on_success",
        "own_call",
        "task",
        "throws",
        "wrapped",
    )

    def __init__(self, app: Kernel, task: Task[..., Any]) -> None:
        self.app = app
        self.task = task
        self.name = task.name
        self.is_coroutine = bool(task.is_coroutine)
        # A subclass that overrides __call__ means to be around every run; it marks the request as entered itself.
        self.own_call = type(task).__call__ is not Task.__call__
        self.body: Body = task if self.own_call else task.run
        self.wrapped = self._wrap()
        self.autoretry = tuple(task.autoretry_for or ())
        self.never_retry = (*_CONTROL, *(task.dont_autoretry_for or ()))
        self.throws = tuple(task.throws or ())
        self.before_start = _overridden(task, "before_start")
        self.on_success = _overridden(task, "on_success")
        self.on_failure = _overridden(task, "on_failure")
        self.on_retry = _overridden(task, "on_retry")
        self.after_return = _overridden(task, "after_return")
        # Its own hooks about a success may look for what is stored.
        self.looks_back = self.on_success is not None or self.after_return is not None

    def _wrap(self) -> Body | None:
        """The wrappers of plugins around the body, as a function of the request; None when there are none."""
        wrappers = self.app.extensions.collect("kernel_task_wrappers", app=self.app, task=self.task)
        if not wrappers:
            return None

        def innermost(request: Request) -> Any:
            return self.body(*request.args, **request.kwargs)

        composed: Body = innermost
        # The answers come with the plugin registered last in front, and that one is the innermost.
        for wrapper in wrappers:
            composed = _around(wrapper, composed)
        return composed


def _around(wrapper: Body, inner: Body) -> Body:
    def call(request: Request) -> Any:
        return wrapper(lambda: inner(request), request)

    return call


def _overridden(task: Task[..., Any], name: str) -> Callable[..., Any] | None:
    """The hook of that name, if the task's class or the task itself has one of its own."""
    if name in vars(task) or getattr(type(task), name) is not getattr(Task, name):
        return cast("Callable[..., Any]", getattr(task, name))
    return None


class Loops:
    """An event loop for each thread that runs coroutines one by one; it lives as long as its thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it to its end on this thread. Where a loop runs already, a thread is started for it."""
        # Not inside an except clause: that error would be the context of everything the coroutine raises.
        return _run_elsewhere(coroutine) if _loop_runs_here() else self._own().run(coroutine)

    def _own(self) -> _ThreadLoop:
        loop: _ThreadLoop | None = getattr(self._local, "loop", None)
        if loop is None:
            loop = self._local.loop = _ThreadLoop()
        return loop

    def close(self) -> None:
        """Close the loop of this thread, if it has one."""
        loop: _ThreadLoop | None = self._local.__dict__.pop("loop", None)
        if loop is not None:
            loop.close()


class _ThreadLoop:
    def __init__(self) -> None:
        # In a context of its own, since a loop keeps the one it was made in: that would be the first task's.
        self._loop = contextvars.Context().run(asyncio.new_event_loop)
        self._pid = os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        # A forked process shares the descriptor in which the loop's own ones are registered, and must not undo that.
        if self._loop.is_closed() or self._pid != os.getpid():
            return
        if not _loop_runs_here():
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._end_tasks())
        self._loop.close()

    async def _end_tasks(self) -> None:
        """What coroutines left running behind them."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CLOSE_SECONDS)
        await self._loop.shutdown_asyncgens()

    def __del__(self) -> None:
        # A thread's locals are dropped on the thread itself as it ends, and with them its loop.
        with contextlib.suppress(Exception):
            self.close()


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="kernel-coroutine") as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()


def run(prepared: Prepared, request: Request, *, guard: Guard, loops: Loops) -> Conclusion:
    """Run it on this thread until it has ended. Never raises.

    The request must be the current one.
    """
    started = time.perf_counter()
    conclusion = _run(prepared, request, guard, loops)
    conclusion.outcome.runtime = time.perf_counter() - started
    conclusion = _decided(prepared, request, conclusion)
    return conclusion if request.asked_retry is None else _asked(prepared, request, conclusion)


async def arun(prepared: Prepared, request: Request, *, guard: Guard) -> Conclusion:
    """The same for a coroutine function, on the running loop."""
    started = time.perf_counter()
    token = joining.set("awaited")
    try:
        conclusion = await _arun(prepared, request, guard)
    finally:
        joining.reset(token)
    conclusion.outcome.runtime = time.perf_counter() - started
    conclusion = _decided(prepared, request, conclusion)
    if request.asked_retry is None:
        return conclusion
    return await asyncio.to_thread(_asked, prepared, request, conclusion)


# The frames of these two are part of the error's traceback. They keep nothing that leads back to the error, or each
# failure would leave a cycle behind, and with it the arguments of the task, until the collector comes by.


def _run(prepared: Prepared, request: Request, guard: Guard, loops: Loops) -> Conclusion:
    in_body = False
    try:
        _observe_start(prepared, request)
        in_body = True
        request.entered = not prepared.own_call
        if prepared.is_coroutine:
            value = loops.run(_finished(guard.acall(_called, prepared, request)))
        elif prepared.wrapped is None:
            value = guard.call(prepared.body, *request.args, **request.kwargs)
        else:
            value = guard.call(prepared.wrapped, request)
        if type(value) is CoroutineType:
            # A plain function that returns a coroutine, as a decorator around a coroutine function does.
            value = loops.run(_finished(Guard().acall(_itself, value)))
        if type(value) is _Raised:
            return _concluded(prepared, request, guard, value.take(), in_body)
    except BaseException as exc:
        return _concluded(prepared, request, guard, exc, in_body)
    return Conclusion(Outcome(states.SUCCESS, value=value))


async def _arun(prepared: Prepared, request: Request, guard: Guard) -> Conclusion:
    in_body = False
    try:
        _observe_start(prepared, request)
        in_body = True
        request.entered = not prepared.own_call
        value = await guard.acall(_called, prepared, request)
    except BaseException as exc:
        return _concluded(prepared, request, guard, exc, in_body)
    return Conclusion(Outcome(states.SUCCESS, value=value))


def _observe_start(prepared: Prepared, request: Request) -> None:
    extensions = prepared.app.extensions
    hooks = extensions.hot.kernel_task_start
    if hooks is not None:
        extensions.observe(hooks, request)
    if prepared.before_start is not None:
        prepared.before_start(request.id, request.args, request.kwargs)


async def _called(prepared: Prepared, request: Request) -> Any:
    wrapped = prepared.wrapped
    value = prepared.body(*request.args, **request.kwargs) if wrapped is None else wrapped(request)
    return await value if isinstance(value, Awaitable) else value


async def _itself(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


class _Raised:
    """An exception on its way through an event loop, which would take some of them for its own end."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException | None = error

    def take(self) -> BaseException:
        error, self._error = self._error, None
        assert error is not None, "it is taken once"
        return error


async def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except BaseException as exc:
        return _Raised(exc)


# --- what an exception means --------------------------------------------------------------------------------


def _concluded(prepared: Prepared, request: Request, guard: Guard, exc: BaseException, in_body: bool) -> Conclusion:
    if in_body and prepared.autoretry and isinstance(exc, prepared.autoretry) and isinstance(exc, Exception):
        exc = _retried(prepared, request, exc)
    if isinstance(exc, errors.Retry):
        return _retry(prepared, request, exc)
    if isinstance(exc, errors.Ignore):
        sig = exc.sig if isinstance(exc, errors.Replaced) else None
        return Conclusion(Outcome(states.IGNORED), replacement=sig if isinstance(sig, Signature) else None)
    if isinstance(exc, errors.Reject):
        return rejected(exc)
    if isinstance(exc, errors.LeaseLost) and (guard.interrupted is errors.LeaseLost or not request.lease_valid()):
        return Conclusion(Outcome(states.IGNORED, error=exc), handed_back=True)
    if isinstance(exc, asyncio.CancelledError) and _being_cancelled():
        # The pool is ending, not the task: somebody else may run it.
        return Conclusion(Outcome(states.IGNORED, error=exc), handed_back=True)
    return failed(prepared, exc)


def failed(prepared: Prepared | None, exc: BaseException) -> Conclusion:
    """FAILURE with `exc`. An attempt to end the process counts as one: it is a `WorkerLostError`."""
    text = failure.traceback_text(exc, skip=_is_ours)
    if isinstance(exc, _EXITS):
        lost = errors.WorkerLostError(f"Worker exited prematurely: {type(exc).__name__}({_exit_code(exc)})")
        lost.__cause__ = exc
        return Conclusion(Outcome(states.FAILURE, error=lost, traceback=text))
    expected = prepared is not None and isinstance(exc, prepared.throws)
    return Conclusion(Outcome(states.FAILURE, error=exc, traceback=text, expected=expected))


def _exit_code(exc: BaseException) -> str:
    return "" if not exc.args else failure.one_line(exc).partition(": ")[2]


def _being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def _retried(prepared: Prepared, request: Request, exc: Exception) -> BaseException:
    """What `self.retry` makes of an exception that the task declares in `autoretry_for`."""
    task = prepared.task
    if isinstance(exc, prepared.never_retry):
        return exc
    options = dict(task.retry_kwargs or {})
    if task.retry_backoff:
        options["countdown"] = backoff(
            task.retry_backoff,
            retries=request.retries,
            maximum=task.retry_backoff_max,
            jitter=task.retry_jitter,
        )
    try:
        raise task.retry(exc=exc, **options)
    except BaseException as answer:
        return answer


def backoff(factor: float | bool, *, retries: int, maximum: float, jitter: bool) -> int:
    """Seconds before the next attempt: `factor` doubled at each retry, at most `maximum`; with `jitter` a random
    number from 0 to that."""
    base = int(max(1.0, factor))
    # Past sixty doublings any maximum is reached, and the number would only grow.
    countdown = int(min(maximum, base * 2 ** min(retries, 60)))
    return random.randint(0, countdown) if jitter else countdown


def _retry(prepared: Prepared, request: Request, retry: errors.Retry) -> Conclusion:
    error = retry.exc if isinstance(retry.exc, BaseException) else retry
    text = failure.traceback_text(error if error.__traceback__ is not None else retry, skip=_is_ours)
    # `Task.retry` has it in a local variable: its traceback would be part of a cycle, with the task's arguments.
    retry.__traceback__ = None
    delay = _delay(prepared.app, retry.when)
    return Conclusion(Outcome(states.RETRY, error=error, traceback=text, retry_in=delay), retry=retry)


def _asked(prepared: Prepared, request: Request, conclusion: Conclusion) -> Conclusion:
    """Publish what ``retry(throw=False)`` asked for, unless the end itself does; eager mode runs it instead."""
    retry, outcome = request.asked_retry, conclusion.outcome
    if retry is None or request.is_eager or conclusion.handed_back or conclusion.requeue:
        return conclusion
    if outcome.state == states.RETRY:
        return conclusion
    try:
        publish_next(prepared.app, request, retry, delay=_delay(prepared.app, retry.when))
    except Exception as exc:
        conclusion = rejected(errors.Reject(exc, requeue=False))
        conclusion.outcome.runtime = outcome.runtime
    return conclusion


def _delay(app: Kernel, when: float | datetime | None) -> float:
    if isinstance(when, datetime):
        if when.tzinfo is None:
            when = when.replace(tzinfo=app.timezone)
        return max(0.0, when.timestamp() - time.time())
    return 0.0 if when is None else max(0.0, float(when))


# --- what plugins decide ------------------------------------------------------------------------------------


def _decided(prepared: Prepared, request: Request, conclusion: Conclusion) -> Conclusion:
    extensions = prepared.app.extensions
    hooks = extensions.hot.kernel_task_decide
    if hooks is None or conclusion.handed_back:
        return conclusion
    outcome = conclusion.outcome
    try:
        decision = extensions.first("kernel_task_decide", hooks, request, outcome)
        if decision is not None:
            conclusion = _applied(prepared, request, conclusion, decision)
    except Exception as exc:
        conclusion = failed(prepared, exc)
    conclusion.outcome.runtime = outcome.runtime
    return conclusion


def _applied(prepared: Prepared, request: Request, conclusion: Conclusion, decision: Decision) -> Conclusion:
    outcome = conclusion.outcome
    if isinstance(decision, Succeed):
        return Conclusion(Outcome(states.SUCCESS, value=decision.value))
    if isinstance(decision, Fail):
        if decision.error is outcome.error and outcome.state == states.FAILURE:
            return conclusion
        return failed(prepared, decision.error)
    if isinstance(decision, RetryLater):
        return _retry(prepared, request, errors.Retry(exc=decision.error or outcome.error, when=decision.seconds))
    return rejected(errors.Reject(decision.reason, decision.requeue))


def rejected(reject: errors.Reject) -> Conclusion:
    """REJECTED: back to the queue, or to the dead letters."""
    return Conclusion(Outcome(states.REJECTED, error=reject), requeue=bool(reject.requeue))


def call_hook(hook: Callable[..., Any] | None, name: str, args: Sequence[Any], *, loops: Loops | None = None) -> None:
    """A hook of the task's own (`on_success` and the like). Its errors are logged and change nothing."""
    if hook is None:
        return
    try:
        answer = hook(*args)
        if type(answer) is CoroutineType and loops is not None:
            loops.run(answer)
    except BaseException:
        log_hook_failure(name)


def call_errback(errback: Signature[Any], request: Request, outcome: Outcome, *, loops: Loops) -> None:
    """Call one that takes the request (`takes_request`) here and now. Its errors are logged and change nothing."""
    try:
        answer = errback(request, outcome.error, outcome.traceback)
        if type(answer) is CoroutineType:
            loops.run(answer)
    except (Exception, SystemExit):
        log_hook_failure(f"the errback {errback.task}")


def log_hook_failure(name: str) -> None:
    """Something that was called about the end of a task has failed, with the exception that is being handled."""
    _log.exception("%s of a task failed; the task's own end stands", name)


def takes_request(app: Kernel, signature: Signature[Any]) -> bool:
    """Whether it is a function ``errback(request, exc, traceback)`` of this app: a task that is not bound and whose
    body takes more than one argument."""
    task = app.tasks.get(signature.task)
    if task is None or task.bind or task.arguments.signature is None:
        return False
    parameters = task.arguments.signature.parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return sum(parameter.kind in _POSITIONAL for parameter in parameters) > 1


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("kernel", "asyncio")
