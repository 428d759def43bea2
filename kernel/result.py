"""`AsyncResult[R]`: the handle of a call that was published; `EagerResult[R]`: of one that ran here."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

from kernel import errors, failure, states
from kernel.request import current_request, running_request
from kernel.waiter import Waiter

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend, Record

R_co = TypeVar("R_co", covariant=True)

OnMessage = Callable[[dict[str, Any]], object]
Callback = Callable[[str, Any], object]
Joining = Literal["allowed", "awaited", "denied"]

joining: Final[ContextVar[Joining | None]] = ContextVar("kernel_joining", default=None)
"""Whether this context may wait for results inside a task: `awaited` allows `await`, not `get()`."""

_UNSET: Final = object()


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Inside it, a task may wait for results of other tasks."""
    token = joining.set("allowed")
    try:
        yield
    finally:
        joining.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Inside it, waiting for results is refused, in a task or not."""
    token = joining.set("denied")
    try:
        yield
    finally:
        joining.reset(token)


def assert_will_not_block(*, awaiting: bool = False) -> None:
    """Raises RuntimeError where waiting for a result could block the worker that would have to produce it."""
    policy = joining.get()
    if policy == "allowed" or (awaiting and policy == "awaited"):
        return
    if policy != "denied":
        request = running_request()
        if request is None or request.is_eager:
            return
    raise RuntimeError(
        "Never call result.get() within a task! It holds a slot of the worker while it waits, and all slots may wait. "
        "Let a link continue with the result, or wrap the call in allow_join_result() "
        "(or pass disable_sync_subtasks=False) if the task waited for runs on other workers"
    )


class AsyncResult(Generic[R_co]):
    """The result of a task, by the id of the task. Making one costs no I/O.

    Everything that asks the backend raises `NotImplementedError` when none is configured, `OperationalError` or
    `BackendError` when it fails, and `DecodeError` or `ContentDisallowed` when what it holds cannot be read.
    A terminal record is read once and kept.
    """

    __slots__ = ("__weakref__", "_app", "_backend", "_record", "_value", "id", "ignored", "parent", "task_name")

    def __init__(
        self,
        id: str,
        backend: Backend | None = None,
        task_name: str | None = None,
        app: Kernel | None = None,
        parent: AsyncResult[Any] | None = None,
        *,
        ignored: bool = False,
    ) -> None:
        if not id:
            raise ValueError(f"a result needs the id of its task, not {id!r}")
        self.id = id
        self._app = app
        self._backend = backend
        self._record: Record | None = None
        self._value: Any = _UNSET
        self.task_name = task_name
        self.parent = parent
        self.ignored = ignored

    # --- where it looks -------------------------------------------------------------------------------------

    @property
    def app(self) -> Kernel:
        """The app it was made by, or the app of the running task. Raises `ImproperlyConfigured` elsewhere."""
        if self._app is None:
            request = current_request.get()
            if request is None or request.app is None:
                raise errors.ImproperlyConfigured(
                    f"the result {self.id} belongs to no app, and no task is running here that would say which: "
                    "make it with app.AsyncResult(id)"
                )
            self._app = request.app
        return self._app

    @property
    def backend(self) -> Backend:
        return self._backend if self._backend is not None else self.app.backend

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def known(self) -> bool:
        """Whether its end was seen already, or none will be: then waiting for it costs no I/O."""
        return self._record is not None or self.ignored

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
    ) -> R_co:
        """Wait for the end of the task, at most `timeout` seconds (None: for ever), and return its value.

        Raises the task's exception (with `propagate` False it is returned), `kernel.errors.TimeoutError`, and
        RuntimeError inside a task. `on_message` is called with the meta of every state that is seen, `on_interval`
        every `interval` seconds, `callback` with the id and the value. `no_ack` is there for Celery's callers.
        """
        if self.ignored:
            return cast("R_co", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if follow_parents and propagate:
            self._throw_of_parents()
        if self._record is None:
            on_record = None if on_message is None else self._forwarding(on_message)
            with self._waiter() as waiter:
                record = waiter.wait(
                    self.id, timeout=timeout, on_record=on_record, on_interval=on_interval, interval=interval
                )
            self._keep(record)
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
    ) -> R_co:
        """`get` for coroutines. Inside a task it works where the pool runs many coroutines at once."""
        if self.ignored:
            return cast("R_co", None)
        if disable_sync_subtasks:
            assert_will_not_block(awaiting=True)
        if follow_parents and propagate:
            self._throw_of_parents()
        if self._record is None:
            on_record = None if on_message is None else self._forwarding(on_message)
            with self._waiter() as waiter:
                record = await waiter.wait_async(self.id, timeout=timeout, on_record=on_record)
            self._keep(record)
        return self._conclude(propagate, callback)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.aget().__await__()

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        """The value or meta as it is now; the task's exception is raised when it failed."""
        record = self._load()
        value = None if record is None else self._value_of(record)
        if callback is not None:
            callback(self.id, value)
        if propagate and record is not None and record.state in states.PROPAGATE_STATES:
            raise _with_traceback(value, record)
        return value

    maybe_reraise = maybe_throw
    throw = maybe_throw

    def _conclude(self, propagate: bool, callback: Callback | None) -> R_co:
        record = self._record
        assert record is not None, "a wait ends with a terminal record"
        value = self._value_of(record)
        if callback is not None:
            callback(self.id, value)
        if propagate and record.state in states.PROPAGATE_STATES:
            raise _with_traceback(value, record)
        return cast("R_co", value)

    def _throw_of_parents(self) -> None:
        parent = self.parent
        while parent is not None:
            parent.maybe_throw()
            parent = parent.parent

    @contextmanager
    def _waiter(self) -> Iterator[Waiter]:
        """The app's waiter, or one for this call alone where the result has a backend of its own."""
        backend = self._backend
        if backend is None:
            yield self.app.waiter
            return
        waiter = Waiter(lambda: backend)
        try:
            yield waiter
        finally:
            waiter.close()

    def _forwarding(self, on_message: OnMessage) -> Callable[[Record], object]:
        return lambda record: on_message(self._meta(record))

    # --- what is known now ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The state now; PENDING when nothing is known."""
        record = self._load()
        return states.PENDING if record is None else record.state

    @property
    def status(self) -> str:
        return self.state

    @property
    def result(self) -> Any:
        """The return value, the exception, or the meta of any other state; None when nothing is known."""
        record = self._load()
        return None if record is None else self._value_of(record)

    @property
    def info(self) -> Any:
        return self.result

    @property
    def traceback(self) -> str | None:
        """The text of the traceback of a task that failed or is retried."""
        record = self._load()
        return None if record is None else record.traceback

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether the backend knows the id."""
        return self._load() is not None

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks that this one called; None when it called none or has not ended."""
        record = self._load()
        if record is None or record.children is None:
            return None
        return [result_from_tuple(item, self.app) for item in json.loads(record.children)]

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in UTC."""
        record = self._load()
        if record is None or record.date_done is None:
            return None
        return datetime.fromtimestamp(record.date_done, tz=UTC)

    @property
    def parent_id(self) -> str | None:
        """The id of the task that called this one."""
        record = self._load()
        return None if record is None else record.parent_id

    @property
    def group_id(self) -> str | None:
        record = self._load()
        return None if record is None else record.group_id

    # The following are known when the setting `result_extended` is on.

    @property
    def name(self) -> str | None:
        record = self._load()
        return self.task_name if record is None else record.name or self.task_name

    @property
    def args(self) -> Any:
        return self._decoded("args")

    @property
    def kwargs(self) -> Any:
        return self._decoded("kwargs")

    @property
    def worker(self) -> str | None:
        record = self._load()
        return None if record is None else record.worker

    @property
    def retries(self) -> int | None:
        record = self._load()
        return None if record is None else record.retries

    @property
    def queue(self) -> str | None:
        record = self._load()
        return None if record is None else record.queue

    def _load(self) -> Record | None:
        if self._record is not None:
            return self._record
        record = self.backend.load([self.id])[0]
        if record is not None and record.state in states.READY_STATES:
            self._keep(record)
        return record

    def _keep(self, record: Record) -> None:
        self._record, self._value = record, _UNSET

    def _decoded(self, name: str) -> Any:
        record = self._load()
        data = None if record is None else getattr(record, name)
        if record is None or data is None:
            return None
        return self.app.codecs.decode_result(data, record.content_type, record.content_encoding)

    def _value_of(self, record: Record) -> Any:
        if record is self._record and self._value is not _UNSET:
            return self._value
        value = self.app.codecs.decode_result(record.result, record.content_type, record.content_encoding)
        if record.state in states.EXCEPTION_STATES:
            value = failure.decode_exception(value)
        if record is self._record:
            self._value = value
        return value

    def _meta(self, record: Record) -> dict[str, Any]:
        """A record with Celery's names, as `on_message` gets it."""
        done = record.date_done
        return {
            "status": record.state,
            "result": self._value_of(record),
            "traceback": record.traceback,
            "children": None if record.children is None else json.loads(record.children),
            "date_done": None if done is None else datetime.fromtimestamp(done, tz=UTC).isoformat(),
            "task_id": record.id,
        }

    # --- doing ----------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the record, and those of its parents."""
        self._record, self._value = None, _UNSET
        ids = self.as_list()
        parent = self.parent
        while parent is not None:
            parent._record, parent._value = None, _UNSET
            parent = parent.parent
        self.backend.forget(ids)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to run the task; with `terminate`, to end it if it runs; see `Control.revoke`.

        `connection`, `wait` and `timeout` are there for Celery's callers: no answers are collected.
        """
        self.app.control.revoke(self.id, terminate=terminate, signal=signal or "SIGTERM")

    # --- as data --------------------------------------------------------------------------------------------

    def as_tuple(self) -> tuple[tuple[str, Any], None]:
        """``((id, parent_tuple), None)``, which `result_from_tuple` reads."""
        made: tuple[tuple[str, Any], None] | None = None
        for task_id in reversed(self.as_list()):
            made = ((task_id, made), None)
        assert made is not None, "a list of ids begins with one's own"
        return made

    def as_list(self) -> list[str]:
        """The id, and the ids of its parents."""
        ids = []
        result: AsyncResult[Any] | None = self
        while result is not None:
            ids.append(result.id)
            result = result.parent
        return ids

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult | EagerResult):
            return bool(other.id == self.id)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The app stays behind: whoever reads this has its own, or runs in a task.
        return _rebuilt, (self.id, self.task_name, self.parent, self.ignored)


class EagerResult(Generic[R_co]):
    """The result of a task that ran in this process; always ready."""

    __slots__ = ("__weakref__", "_result", "_state", "_traceback", "id", "name", "parent")

    ignored = False
    children = None

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        self.id = id
        self._result = ret_value
        self._state = state
        self._traceback = traceback
        self.name = name
        self.parent: EagerResult[Any] | None = None

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **options: Any,
    ) -> R_co:
        """The value; the task's exception is raised, or with `propagate` False returned. Other arguments of
        `AsyncResult.get` are taken and mean nothing here."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if propagate and self._state in states.PROPAGATE_STATES:
            raise _as_exception(self._result)
        return cast("R_co", self._result)

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True, **options: Any) -> R_co:  # noqa: ASYNC109
        return self.get(propagate=propagate, disable_sync_subtasks=False)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.aget().__await__()

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        value = self.get(propagate=propagate, disable_sync_subtasks=False)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw
    throw = maybe_throw

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def task_name(self) -> str | None:
        return self.name

    @property
    def state(self) -> str:
        return self._state

    @property
    def status(self) -> str:
        return self._state

    @property
    def result(self) -> Any:
        return self._result

    @property
    def info(self) -> Any:
        return self._result

    @property
    def traceback(self) -> str | None:
        return self._traceback

    def ready(self) -> bool:
        return True

    def successful(self) -> bool:
        return self._state == states.SUCCESS

    def failed(self) -> bool:
        return self._state == states.FAILURE

    def forget(self) -> None:
        """Nothing is stored that could be forgotten."""

    def revoke(self, *args: Any, **options: Any) -> None:
        """It has run; from now on it says that it was revoked."""
        self._state = states.REVOKED
        self._result = errors.TaskRevokedError("revoked")

    def as_tuple(self) -> tuple[tuple[str, None], None]:
        return (self.id, None), None

    def as_list(self) -> list[str]:
        return [self.id]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult | EagerResult):
            return bool(other.id == self.id)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<EagerResult {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return EagerResult, (self.id, self._result, self._state, self._traceback, self.name)


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
        if isinstance(result, AsyncResult) and result._record is None and not result.ignored:
            backend = result.backend
            unknown.setdefault(id(backend), (backend, []))[1].append(result)
    for backend, waiting in unknown.values():
        for result, record in zip(waiting, backend.load([result.id for result in waiting]), strict=True):
            if record is not None and record.state in states.READY_STATES:
                result._keep(record)


def _group_of(group_id: str, members: Any, parent: Any, app: Kernel | None) -> Any:
    from kernel.groupresult import GroupResult

    if not isinstance(members, Sequence) or isinstance(members, str):
        raise ValueError(f"the members of group {group_id!r} are {members!r:.80}; a list of results is needed")
    return GroupResult(group_id, [result_from_tuple(member, app) for member in members], parent=parent, app=app)


def children_text(children: Iterable[Any]) -> str:
    """The JSON text of the results that a task has as children, for its record."""
    return json.dumps([child.as_tuple() for child in children], separators=(",", ":"))


def _rebuilt(id: str, task_name: str | None, parent: AsyncResult[Any] | None, ignored: bool) -> AsyncResult[Any]:
    return AsyncResult(id, task_name=task_name, parent=parent, ignored=ignored)


def _as_exception(value: Any) -> BaseException:
    return value if isinstance(value, BaseException) else errors.RemoteError(str(value))


def _with_traceback(value: Any, record: Record) -> BaseException:
    """The exception to raise in the caller, with the worker's traceback as a note, once."""
    exc = _as_exception(value)
    note = f"The task {record.id} failed with:\n{record.traceback}"
    if record.traceback and note not in getattr(exc, "__notes__", ()):
        exc.add_note(note)
    return exc
