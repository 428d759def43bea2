"""`AsyncResult[R]`: the handle of a call that was published."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

from kernel import errors, states
from kernel.results.bar import Progress, report_of, shown
from kernel.results.eager import EagerResult, as_exception
from kernel.results.joining import allow_join_result, assert_will_not_block, denied_join_result, joining
from kernel.results.known import Known
from kernel.results.reading import load
from kernel.results.revoking import Revocable
from kernel.waiter import Waiter

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend, Record

__all__ = [
    "AsyncResult",
    "EagerResult",
    "allow_join_result",
    "assert_will_not_block",
    "children_text",
    "denied_join_result",
    "forgotten",
    "joining",
    "refresh",
    "result_from_tuple",
]

_log: Final = logging.getLogger("kernel.results")

R_co = TypeVar("R_co", covariant=True)

OnMessage = Callable[[dict[str, Any]], object]
OnError = Callable[[Any], object]
Callback = Callable[[str, Any], object]


class AsyncResult(Known, Revocable, Generic[R_co]):
    """The result of a task, by the id of the task. Making one costs no I/O.

    Everything that asks the backend raises `NotImplementedError` when none is configured, `OperationalError` or
    `BackendError` when it fails, and `DecodeError` or `ContentDisallowed` when what it holds cannot be read.
    A terminal record is read once and kept.
    """

    __slots__ = ("__weakref__",)

    TimeoutError: ClassVar = errors.TimeoutError

    def __init__(
        self,
        id: str,
        backend: Backend | None = None,
        task_name: str | None = None,
        app: Kernel | None = None,
        parent: Any = None,
        *,
        ignored: bool = False,
    ) -> None:
        super().__init__(id, backend, task_name, app)
        self.parent = parent
        self.ignored = ignored

    # --- waiting --------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
        progress: Progress = False,
    ) -> R_co:
        """Wait for the end of the task, at most `timeout` seconds (None: for ever), and return its value.

        Raises the task's exception (with `propagate` False it is returned), `kernel.errors.TimeoutError`, and
        RuntimeError inside a task. `on_message` is called with the meta of every state that is seen, `on_interval`
        every `interval` seconds, `callback` with the id and the value. `no_ack` is there for Celery's callers.
        With `progress` true a bar on standard error shows what the task reports (`Task.progress`), or plain lines
        where that is no terminal; a function is called with each report instead.
        """
        if self.ignored:
            return cast("R_co", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if follow_parents and propagate:
            self._throw_of_parents()
        if self._record is None:
            with self.waiter() as waiter, self._told(on_message, progress) as told:
                waiter.wait(self.id, timeout=timeout, on_record=told, on_interval=on_interval, interval=interval)
        return self._conclude(propagate, callback)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that `get` has
        propagate: bool = True,
        *,
        follow_parents: bool = True,
        callback: Callback | None = None,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        progress: Progress = False,
    ) -> R_co:
        """`get` for coroutines. Inside a task it works where the pool runs many coroutines at once."""
        if self.ignored:
            return cast("R_co", None)
        if disable_sync_subtasks:
            assert_will_not_block(awaiting=True)
        if follow_parents and propagate and self.parent is not None:
            import asyncio

            await asyncio.to_thread(self._throw_of_parents)
        if self._record is None:
            with self.waiter() as waiter, self._told(on_message, progress) as told:
                await waiter.wait_async(self.id, timeout=timeout, on_record=told)
        return self._conclude(propagate, callback)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.aget().__await__()

    def then(self, callback: Callable[[Any], object], on_error: OnError | None = None, weak: bool = False) -> Any:
        """Call `callback` with this result when the task has ended, well or not; returns the result.

        At once when its end is known, otherwise on a thread that is for such calls. What `callback` raises, and why
        no result can be had, is given to `on_error`, or logged. With `weak` nobody is called once the program
        itself no longer has this result.
        """
        if self.known:
            _call(callback, self, on_error)
            return self
        cancel: Callable[[], None] | None = None
        held: Callable[[], AsyncResult[R_co] | None]
        held = weakref.ref(self, lambda _: cancel and cancel()) if weak else lambda: self

        def end(item: Record | Exception) -> None:
            result = held()
            if result is None:
                return
            if isinstance(item, Exception):
                _fail(item, result, on_error)
                return
            result._keep(item)
            _call(callback, result, on_error)

        with self.waiter(lasting=True) as waiter:
            cancel = waiter.notify(self.id, end)
        return self

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        """The value or meta as it is now; the task's exception is raised when it failed."""
        record = self._load()
        if record is not None:
            return self._answer(record, propagate, callback)
        if callback is not None:
            callback(self.id, None)
        return None

    maybe_reraise = maybe_throw
    throw = maybe_throw

    def _conclude(self, propagate: bool, callback: Callback | None) -> R_co:
        record = self._record
        assert record is not None, "a wait ends with a terminal record"
        return cast("R_co", self._answer(record, propagate, callback))

    def _answer(self, record: Record, propagate: bool, callback: Callback | None) -> Any:
        """What `record` says; an error that is raised is told by that, and not to `callback`."""
        value = self._value_of(record)
        if propagate and record.state in states.PROPAGATE_STATES:
            raise _with_traceback(value, record)
        if callback is not None:
            callback(self.id, value)
        return value

    def _throw_of_parents(self) -> None:
        # A member of a chord that fails makes the body fail, with a `ChordError` that names it: whoever waits for
        # the body is told that, and not now one and now the other, as it happens.
        throw_of([parent for parent in self.parents() if not hasattr(parent, "results")])

    def waiter(self, *, lasting: bool = False) -> AbstractContextManager[Waiter]:
        """The app's waiter, or one for this call alone where the result has a backend of its own; with `lasting` that
        is refused."""
        backend = self._backend
        if backend is None or (self._app is not None and backend is self._app.backend):
            self._warn_of_eager()
            return nullcontext(self.app.waiter)
        if lasting:
            raise NotImplementedError(
                f"the result {self.id} has a backend of its own, and nobody listens to that: make it with "
                "app.AsyncResult(id) and no backend"
            )
        return closing(Waiter(lambda: backend))

    def _told(
        self, on_message: OnMessage | None, progress: Progress
    ) -> AbstractContextManager[Callable[[Record], object]]:
        """What is to be called with each record that comes while somebody waits."""
        return self._telling(on_message, progress) if on_message or progress else nullcontext(self._note)

    @contextmanager
    def _telling(self, on_message: OnMessage | None, progress: Progress) -> Iterator[Callable[[Record], object]]:
        with shown(progress, self.task_name or self.id[:8]) as report:

            def tell(record: Record) -> None:
                self._note(record)
                if on_message is not None:
                    on_message(self._meta(record))
                if report is not None and (found := report_of(record.state, self._value_of(record))) is not None:
                    report(found)

            yield tell

    # --- doing ----------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the record, and those of its parents."""
        self.backend.forget(forgotten([self]))

    def _revoked(self) -> str:
        return self.id

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """The same for all tasks that bear one of these stamps: names, each with a value or a list of them."""
        self.app.control.broadcast(
            "revoke_by_stamped_headers",
            {"headers": dict(headers), "terminate": terminate, "signal": signal or "SIGTERM"},
        )

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The app stays behind: whoever reads this has its own, or runs in a task.
        return _rebuilt, (self.id, self.task_name, self.parent, self.ignored)


def result_from_tuple(data: Any, app: Kernel | None = None) -> Any:
    """The result that `as_tuple` described, an `AsyncResult` or a `GroupResult`. Raises ValueError for anything
    else."""
    if isinstance(data, AsyncResult):
        return data
    chain: list[tuple[str, Any]] = []
    node = data
    while node is not None:
        if isinstance(node, str):
            chain.append((node, None))
            break
        head = node[0] if isinstance(node, Sequence) and len(node) == 2 else None
        if isinstance(head, str):
            head = (head, None)
        if head is None or len(head) != 2 or not isinstance(head[0], str):
            raise ValueError(f"a result is stored as [[id, parent], members or null]; got {data!r:.80}")
        chain.append((head[0], node[1]))
        node = head[1]
    if not chain:
        raise ValueError(f"a result is stored as [[id, parent], members or null]; got {data!r:.80}")
    result: Any = None
    for result_id, members in reversed(chain):
        if members is None:
            result = AsyncResult(result_id, app=app, parent=result)
        else:
            result = _group_of(result_id, members, result, app)
    return result


def refresh(results: Sequence[Any]) -> None:
    """Look once for the ends of all these results that have not been seen, in as few round trips as there are backends
    (one, as a rule)."""
    unknown: dict[int, tuple[Backend, list[AsyncResult[Any]]]] = {}
    for result in results:
        if isinstance(result, AsyncResult) and result._record is None:
            backend = result.backend
            unknown.setdefault(id(backend), (backend, []))[1].append(result)
    for backend, waiting in unknown.values():
        waiting[0]._warn_of_eager()
        records = load(waiting[0]._app, backend, [result.id for result in waiting])
        for result, record in zip(waiting, records, strict=True):
            if record is not None:
                result._note(record)


def ended(results: Sequence[Any]) -> list[Any]:
    """Those of these results of single calls that have ended, by one look (`refresh`)."""
    refresh(results)
    return [result for result in results if not isinstance(result, AsyncResult) or result._record is not None]


def throw_of(results: Sequence[Any]) -> None:
    """Raise the error of the first of these results of single calls that has failed, by one look."""
    for result in ended(results):
        result.maybe_throw()


def _group_of(group_id: str, members: Any, parent: Any, app: Kernel | None) -> Any:
    from kernel.groupresult import GroupResult

    if not isinstance(members, Sequence) or isinstance(members, str):
        raise ValueError(f"the members of group {group_id!r} are {members!r:.80}; a list of results is needed")
    return GroupResult(group_id, [result_from_tuple(member, app) for member in members], parent=parent, app=app)


def children_text(children: Iterable[Any]) -> str:
    """The JSON text of the results that a task has as children, for its record."""
    return json.dumps([child.as_tuple() for child in children], separators=(",", ":"))


def _rebuilt(id: str, task_name: str | None, parent: Any, ignored: bool) -> AsyncResult[Any]:
    return AsyncResult(id, task_name=task_name, parent=parent, ignored=ignored)


def forgotten(results: Iterable[Any]) -> list[str]:
    """The ids of all these, of members and of parents, whose records they no longer know."""
    found: dict[str, None] = {}
    stack = [*results]
    while stack:
        result = stack.pop()
        if isinstance(result, AsyncResult):
            result._forget_record()
            found[result.id] = None
        else:
            stack += getattr(result, "results", ())
        parent = getattr(result, "parent", None)
        if parent is not None and parent.id not in found:
            stack.append(parent)
    return [*found]


def _call(callback: Callable[[Any], object], result: Any, on_error: OnError | None) -> None:
    try:
        callback(result)
    except Exception as exc:
        _fail(exc, result, on_error)


def _fail(exc: Exception, result: Any, on_error: OnError | None) -> None:
    if on_error is not None:
        on_error(exc)
    else:
        _log.error("a function that was to be called with the result %s failed", result, exc_info=exc)


def _with_traceback(value: Any, record: Record) -> BaseException:
    """The exception to raise in the caller, with the worker's traceback as a note, once."""
    exc = as_exception(value)
    note = f"The task {record.id} failed with:\n{record.traceback}"
    if record.traceback and note not in getattr(exc, "__notes__", ()):
        exc.add_note(note)
    return exc
