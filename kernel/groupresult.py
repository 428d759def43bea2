"""`ResultSet`: results that are asked and awaited together; `GroupResult`: those of a group."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from kernel import errors, states
from kernel.request import current_request
from kernel.result import AsyncResult, EagerResult, assert_will_not_block, refresh, result_from_tuple

if TYPE_CHECKING:
    from typing import Self

    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend

Callback = Callable[[str, Any], object]

# So many results are looked at together before one of them is waited for.
_WINDOW: Final = 500


class ResultSet:
    """Results in order, each once. What is asked of all of them costs one round trip."""

    def __init__(self, results: Iterable[Any] = (), app: Kernel | None = None) -> None:
        self._app = app
        self.results: list[Any] = []
        self.update(results)

    @property
    def app(self) -> Kernel:
        """Its own app, or that of its first result, or of the running task. Raises `ImproperlyConfigured`."""
        if self._app is not None:
            return self._app
        for result in self.results:
            found = getattr(result, "_app", None)
            if found is not None:
                app: Kernel = found
                return app
        request = current_request.get()
        if request is None or request.app is None:
            raise errors.ImproperlyConfigured(
                f"{self!r:.80} belongs to no app, and no task is running here that would say which: give it app=..."
            )
        return request.app

    # --- what is in it --------------------------------------------------------------------------------------

    def add(self, result: Any) -> None:
        """Put `result` at the end, unless it is there."""
        if result not in self.results:
            self.results.append(result)

    def update(self, results: Iterable[Any]) -> None:
        """`add` for many."""
        present = set(self.results)
        for result in results:
            if result not in present:
                present.add(result)
                self.results.append(result)

    def remove(self, result: Any) -> None:
        """Take out a result, or the one of an id. Raises KeyError."""
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        if result in self.results:
            self.results.remove(result)

    def clear(self) -> None:
        self.results.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    # --- waiting --------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[Any]:
        """The values in order, when all tasks have ended, within `timeout` seconds altogether.

        With `callback`, that is called with each id and value, and the list is empty. Raises the first error in
        the order of the results (with `propagate` False errors are among the values), `kernel.errors.TimeoutError`,
        and RuntimeError inside a task.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        deadline = None if timeout is None else time.monotonic() + timeout
        values: list[Any] = []
        for index, result in enumerate(self.results):
            self._look(index)
            value = result.get(
                timeout=None if deadline is None else max(0.0, deadline - time.monotonic()),
                propagate=propagate,
                interval=interval,
                on_message=on_message,
                on_interval=on_interval,
                disable_sync_subtasks=False,
            )
            if callback is None:
                values.append(value)
            else:
                callback(result.id, value)
        return values

    join = get
    join_native = get

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that `get` has
        propagate: bool = True,
        *,
        callback: Callback | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """`get` for coroutines. Inside a task it works where the pool runs many coroutines at once."""
        import asyncio

        if disable_sync_subtasks:
            assert_will_not_block(awaiting=True)
        waits = [result.aget(timeout, propagate=propagate, disable_sync_subtasks=False) for result in self.results]
        values: list[Any] = list(await asyncio.gather(*waits, return_exceptions=True))
        for value in values:
            if propagate and isinstance(value, BaseException):
                raise value
        if callback is None:
            return values
        for result, value in zip(self.results, values, strict=True):
            callback(result.id, value)
        return []

    ajoin = aget

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.aget().__await__()

    def _look(self, index: int) -> None:
        """Before the first of results whose ends are not known is waited for, see which of the next are there."""
        result = self.results[index]
        if isinstance(result, AsyncResult) and not result.known and index % _WINDOW == 0:
            refresh(self.results[index : index + _WINDOW])

    # --- what is known now ----------------------------------------------------------------------------------

    def _states(self) -> list[Any]:
        refresh(self.results)
        return self.results

    def ready(self) -> bool:
        """Whether all have ended."""
        return all(result.ready() for result in self._states())

    def waiting(self) -> bool:
        """Whether one has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have ended well."""
        return all(result.successful() for result in self._states())

    def failed(self) -> bool:
        """Whether one has failed."""
        return any(result.failed() for result in self._states())

    def completed_count(self) -> int:
        """How many have ended well."""
        return sum(int(result.successful()) for result in self._states())

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> None:
        """Raise the error of the first that has failed."""
        for result in self._states():
            result.maybe_throw(propagate=propagate, callback=callback)

    maybe_reraise = maybe_throw

    # --- doing ----------------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """The ids of all tasks in it, those of groups in it among them."""
        found: list[str] = []
        for result in self.results:
            found += result.ids() if isinstance(result, ResultSet) else [result.id]
        return found

    def forget(self) -> None:
        """Delete the records of all."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to run these tasks, in one command; arguments as those of `AsyncResult.revoke`."""
        for result in self.results:
            if isinstance(result, EagerResult):
                result.revoke()
        ids = [task_id for task_id in self.ids() if task_id]
        if ids and not all(isinstance(result, EagerResult) for result in self.results):
            self.app.control.revoke(ids, terminate=terminate, signal=signal or "SIGTERM")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.results)}>"


class GroupResult(ResultSet):
    """The results of a group, under its id, in the order of its members."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] = (),
        parent: AsyncResult[Any] | EagerResult[Any] | None = None,
        *,
        app: Kernel | None = None,
    ) -> None:
        self.id = id or ""
        self.parent = parent
        super().__init__(results, app)

    @property
    def children(self) -> list[Any]:
        return self.results

    @property
    def ignored(self) -> bool:
        """Whether nothing is kept of any member."""
        return bool(self.results) and all(result.ignored for result in self.results)

    def save(self, backend: Backend | None = None) -> Self:
        """Keep in the backend which results these are, for `restore`; as long as results are kept."""
        (backend or self.app.backend).save_group(self.id, json.dumps(self.as_tuple(), separators=(",", ":")))
        return self

    def delete(self, backend: Backend | None = None) -> None:
        """Delete what `save` kept; the records of the members stay."""
        (backend or self.app.backend).forget_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Backend | None = None, app: Kernel | None = None) -> GroupResult | None:
        """The group that was saved under `id`; None when there is none, or none any more.

        Outside a task, `app` says where. Raises ValueError for a document that is no group.
        """
        app = app if app is not None else ResultSet().app
        document = (backend or app.backend).load_group(id)
        if document is None:
            return None
        data = json.loads(document)
        # Celery's backends keep the same under a key, and so do documents of a serializer that knows no tuples.
        found = result_from_tuple(data["result"] if isinstance(data, Mapping) else data, app)
        if not isinstance(found, GroupResult):
            raise ValueError(f"what is kept under {id!r} is the result of one task, not of a group")
        return found

    def as_tuple(self) -> tuple[tuple[str, Any], list[Any]]:
        """``((id, parent_tuple), [member tuples])``, which `result_from_tuple` reads."""
        parent = None if self.parent is None else self.parent.as_tuple()
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def as_list(self) -> list[str]:
        """The id, and the ids of its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    @property
    def state(self) -> str:
        """SUCCESS when all have ended well, FAILURE when one has failed, else PENDING."""
        if self.failed():
            return states.FAILURE
        return states.SUCCESS if self.successful() else states.PENDING

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return other.id == self.id and other.results == self.results
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<GroupResult {self.id} of {len(self.results)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The app stays behind, as it does with the results in it.
        return GroupResult, (self.id, self.results, self.parent)
