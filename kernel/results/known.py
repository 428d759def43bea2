"""`Known`: what can be said of a task by its record."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from kernel import errors, failure, states
from kernel.request import current_request
from kernel.results.node import ResultNode
from kernel.results.reading import load, remembers

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend, Record

_UNSET: Final = object()
_EXTENDED: Final = ("name", "worker", "retries", "queue", "group_id", "parent_id")
_ARGUMENTS: Final = ("args", "kwargs")
_SEEN: Final = 1000
"""States that a result remembers of those that it was told."""


class Known(ResultNode):
    """What `AsyncResult` says without waiting. A terminal record is read once and kept."""

    __slots__ = ("_app", "_backend", "_record", "_seen", "_value", "id", "ignored", "parent", "task_name")

    def __init__(self, id: str, backend: Backend | None, task_name: str | None, app: Kernel | None) -> None:
        if not id:
            raise ValueError(f"a result needs the id of its task, not {id!r}")
        self.id = id
        self.task_name = task_name
        self.parent: Any = None
        self.ignored = False
        self._app = app
        self._backend = backend
        self._record: Record | None = None
        self._value: Any = _UNSET
        # The times at which this object was told of records, and those; made when there are any.
        self._seen: list[tuple[float, Record]] | None = None

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
    def supports_native_join(self) -> bool:
        """Whether the backend tells of results by itself, and is not asked again and again."""
        return self.backend.capabilities.push

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def known(self) -> bool:
        """Whether its end was seen already, or none will be: then waiting for it costs no I/O."""
        return self._record is not None or self.ignored

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
        """The results of the tasks that this one called; None when it has not ended."""
        from kernel.result import result_from_tuple

        record = self._load()
        if record is None or (record.children is None and record.state not in states.READY_STATES):
            return None
        return [result_from_tuple(item, self.app) for item in json.loads(record.children or "[]")]

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

    @property
    def scoreboard(self) -> dict[str, Any]:
        """What became of the task, for people: a dictionary of JSON values with `id`, `name`, `state`, `worker`,
        `retries`, `runtime` (seconds from the last start to the end), `queue`, `parent_id`, `group_id`, and `states`.

        `states` has every state that is known, the oldest first: `state`, `at` (Unix seconds), `info` (its result or
        meta, as short text), `worker`, `retries`. With `complete` true the backend keeps them all; otherwise these
        are the one that stands and those that this object was told of, at the time when it was.
        """
        from kernel.interfaces.backend import Remembering
        from kernel.results.scoreboard import scoreboard

        backend = self.backend
        complete = isinstance(backend, Remembering)
        past: Iterable[tuple[float | None, Record]]
        if isinstance(backend, Remembering):
            (past,) = backend.past([self.id])
        else:
            record = self._load()
            past = self._seen or ([] if record is None else [(None, record)])
        entries = [self._entry(at, record) for at, record in past]
        last = [*past][-1][1] if entries else None
        return scoreboard(
            self.id,
            name=(last.name if last else None) or self.task_name,
            states=entries,
            complete=complete,
            queue=last.queue if last else None,
            parent_id=last.parent_id if last else None,
            group_id=last.group_id if last else None,
        )

    def _entry(self, at: float | None, record: Record) -> dict[str, Any]:
        try:
            info = self._value_of(record)
        except errors.KernelError as exc:
            info = exc  # a scoreboard is for looking at what went wrong
        worker = record.worker
        if worker is None and record.state == states.STARTED and isinstance(info, Mapping):
            worker = str(info.get("hostname") or "") or None
        done = record.date_done
        return {
            "state": record.state,
            "at": at if done is None else done,
            "info": info,
            "worker": worker,
            "retries": record.retries,
        }

    # --- records --------------------------------------------------------------------------------------------

    def _load(self) -> Record | None:
        if self._record is not None:
            return self._record
        self._warn_of_eager()
        app = self._app
        if app is None or self._backend is not None or not remembers(app):
            (record,) = load(app, self.backend, [self.id])
        else:
            record = app.waiter.remembered.find(self.id)
            if record is None:
                (record,) = load(app, self.backend, [self.id])
                if record is not None:
                    app.waiter.remembered.add(record, most=app.conf.result_cache_max)
        if record is not None:
            self._note(record)
        return record

    def _warn_of_eager(self) -> None:
        conf = None if self._app is None else self._app.conf
        if conf is not None and conf.task_always_eager and not conf.task_store_eager_result:
            warnings.warn(
                f"the result {self.id} is looked for in the backend, and with task_always_eager nothing is stored "
                "there unless task_store_eager_result is on: use the result that the call returned",
                RuntimeWarning,
                stacklevel=4,
            )

    def _note(self, record: Record) -> None:
        """The backend told of `record`."""
        if record.state in states.READY_STATES:
            self._keep(record)
        elif self._seen is None:
            self._seen = [(time.time(), record)]
        elif not _same(self._seen[-1][1], record) and len(self._seen) < _SEEN:
            self._seen.append((time.time(), record))

    def _keep(self, record: Record) -> None:
        self._record, self._value = record, _UNSET
        if self._seen is not None:
            self._seen.append((time.time(), record))

    def _forget_record(self) -> None:
        if self._app is not None and remembers(self._app):
            self._app.waiter.remembered.forget((self.id,))
        self._record, self._value, self._seen = None, _UNSET, None

    def _decoded(self, name: str) -> Any:
        record = self._load()
        data = None if record is None else getattr(record, name)
        return None if record is None or data is None else self._decode(record, data)

    def _decode(self, record: Record, data: bytes) -> Any:
        return self.app.codecs.decode_result(data, record.content_type, record.content_encoding)

    def _value_of(self, record: Record) -> Any:
        if record is self._record and self._value is not _UNSET:
            return self._value
        value = self._decode(record, record.result)
        if record.state in states.EXCEPTION_STATES:
            value = failure.decode_exception(value)
        if record is self._record:
            self._value = value
        return value

    def as_meta(self) -> dict[str, Any]:
        """What is known, with Celery's names."""
        record = self._load()
        if record is None:
            return {"status": states.PENDING, "result": None, "task_id": self.id}
        return self._meta(record)

    def _meta(self, record: Record) -> dict[str, Any]:
        """A record with Celery's names, as `on_message` gets it."""
        done = record.date_done
        meta: dict[str, Any] = {
            "status": record.state,
            "result": self._value_of(record),
            "traceback": record.traceback,
            "children": None if record.children is None else json.loads(record.children),
            "date_done": None if done is None else datetime.fromtimestamp(done, tz=UTC).isoformat(),
            "task_id": record.id,
        }
        for name in _EXTENDED:
            if (value := getattr(record, name)) is not None:
                meta[name] = value
        for name in _ARGUMENTS:
            if (value := getattr(record, name)) is not None:
                meta[name] = self._decode(record, value)
        return meta


def _same(one: Record, other: Record) -> bool:
    return one is other or (one.state, one.result, one.attempt) == (other.state, other.result, other.attempt)
