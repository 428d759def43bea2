"""`ResultSet`: results that are asked and awaited together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from kernel import errors
from kernel.request import current_request
from kernel.result import AsyncResult, EagerResult, OnError, assert_will_not_block, ended, forgotten, throw_of
from kernel.results.bar import Progress, shown
from kernel.results.gathering import Leaf, OnMessage, Tally, end_of, ends, ends_async, leaves
from kernel.results.revoking import Revocable

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend

Callback = Callable[[str, Any], object]


class ResultSet(Revocable):
    """Results in order, each once. What is asked of all of them costs a few round trips, however many they are, and
    whoever waits for all uses one connection."""

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

    @property
    def backend(self) -> Backend:
        return self.app.backend

    @property
    def supports_native_join(self) -> bool:
        """Whether the backend tells of results by itself."""
        return self.backend.capabilities.push

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
        """Take out a result, or the one of an id, if it is there."""
        if result in self.results:
            self.results.remove(result)

    def clear(self) -> None:
        """Take out all. Their records stay where they are."""
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
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        progress: Progress = False,
    ) -> list[Any]:
        """The values in order, when all tasks have ended, within `timeout` seconds altogether.

        With `callback`, that is called with each id and value in the order in which they end, and the list is empty.
        The first error that comes is raised at once (with `propagate` False errors are among the values); also
        `kernel.errors.TimeoutError`, and RuntimeError inside a task. With `progress` true a bar on standard error
        shows how many have ended; a function is called with each report instead.
        """
        waiting = partial(ends, timeout=timeout, on_message=on_message, on_interval=on_interval, interval=interval)
        return self._gather(waiting, propagate, callback, disable_sync_subtasks, progress) or []

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        progress: Progress = False,
    ) -> list[Any]:
        """`get` in the order of the results: so `callback` is called, and of several errors the first is raised."""
        waiting = partial(ends, timeout=timeout, on_message=on_message, on_interval=on_interval, interval=interval)
        return self._gather(waiting, propagate, callback, disable_sync_subtasks, progress, ordered=True) or []

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """`get`; with `callback` it returns None."""
        waiting = partial(ends, timeout=timeout, on_message=on_message, on_interval=on_interval, interval=interval)
        return self._gather(waiting, propagate, callback, disable_sync_subtasks)

    def _gather(
        self,
        waiting: Callable[[Sequence[Leaf]], Generator[Leaf, None, None]],
        propagate: bool,
        callback: Callback | None,
        guarded: bool,
        progress: Progress = False,
        *,
        ordered: bool = False,
    ) -> list[Any] | None:
        if guarded:
            assert_will_not_block()
        if propagate:
            throw_of(self._before())
        found = leaves(self.results)
        handing = _Handing(self.results, propagate=propagate, callback=callback, ordered=ordered)
        tally = Tally(len(found))
        with shown(progress, f"{len(found)} tasks") as report, closing(waiting(found)) as coming:
            for leaf in coming:
                if report is not None:
                    report(tally.add(leaf))
                handing.add(leaf)
        return handing.values()

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """The id and the meta of each result as it ends; of a group in it, when all its members have, its id and
        their results. Raises `TimeoutError`."""
        waiting = partial(ends, timeout=timeout, on_message=on_message, on_interval=on_interval, interval=interval)
        places = _Places(self.results)
        with closing(waiting(leaves(self.results))) as coming:
            for leaf in coming:
                for member in places.ended_with(leaf):
                    yield self._meta_at(member)

    iterate = iter_native

    async def aiter_native(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that `iter_native` has
        *,
        on_message: OnMessage | None = None,
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """`iter_native` for coroutines: ``async for id, meta in group_result.aiter_native()``."""
        places = _Places(self.results)
        async with aclosing(ends_async(leaves(self.results), timeout=timeout, on_message=on_message)) as coming:
            async for leaf in coming:
                for member in places.ended_with(leaf):
                    yield self._meta_at(member)

    def _meta_at(self, place: int) -> tuple[str, Any]:
        member = self.results[place]
        return member.id, _meta_of(member)

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that `get` has
        propagate: bool = True,
        *,
        callback: Callback | None = None,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        progress: Progress = False,
    ) -> list[Any]:
        """`get` for coroutines. Inside a task it works where the pool runs many coroutines at once."""
        if disable_sync_subtasks:
            assert_will_not_block(awaiting=True)
        if propagate and (before := self._before()):
            import asyncio

            await asyncio.to_thread(throw_of, before)
        found = leaves(self.results)
        handing = _Handing(self.results, propagate=propagate, callback=callback, ordered=False)
        tally = Tally(len(found))
        with shown(progress, f"{len(found)} tasks") as report:
            async with aclosing(ends_async(found, timeout=timeout, on_message=on_message)) as coming:
                async for leaf in coming:
                    if report is not None:
                        report(tally.add(leaf))
                    handing.add(leaf)
        return handing.values() or []

    ajoin = aget

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.aget().__await__()

    def then(self, callback: Callable[[Any], object], on_error: OnError | None = None, weak: bool = False) -> Any:
        """Call `callback` with this set when all tasks in it have ended; see `AsyncResult.then`."""
        found = leaves(self.results)
        left, lock = len(found), Lock()

        def one(_: Any) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if last:
                callback(self)

        if not found:
            EagerResult("", None, "SUCCESS").then(lambda _: callback(self), on_error)
        for leaf in found:
            leaf.then(one, on_error, weak)
        return self

    def _before(self) -> list[Leaf]:
        """The results that these came of; a group alone has such."""
        return []

    # --- what is known now ----------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether all have ended."""
        found = leaves(self.results)
        return len(ended(found)) == len(found)

    def waiting(self) -> bool:
        """Whether one has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have ended well."""
        found = leaves(self.results)
        return len(_succeeded(found)) == len(found)

    def failed(self) -> bool:
        """Whether one has failed."""
        return any(result.failed() for result in ended(leaves(self.results)))

    def completed_count(self) -> int:
        """How many have ended well; a group in it is one."""
        well = {id(leaf) for leaf in _succeeded(leaves(self.results))}
        return sum(all(id(leaf) in well for leaf in leaves([member])) for member in self.results)

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise the error of the first that has failed. `callback` is called with the id and value of all before it.
        (The order of the arguments is Celery's, and another one than that of `AsyncResult.maybe_throw`.)"""
        found = leaves(self.results)
        for result in ended(found) if callback is None else found:
            result.maybe_throw(propagate=propagate, callback=callback)

    maybe_reraise = maybe_throw

    # --- doing ----------------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """The ids of all tasks in it, those of groups in it among them."""
        return [leaf.id for leaf in leaves(self.results)]

    def forget(self) -> None:
        """Delete the records of all, and those of their parents."""
        backends: dict[int, tuple[Backend, list[Any]]] = {}
        for leaf in leaves(self.results):
            if isinstance(leaf, AsyncResult):
                backend = leaf.backend
                backends.setdefault(id(backend), (backend, []))[1].append(leaf)
        for backend, members in backends.values():
            backend.forget(forgotten(members))

    def _revoked(self) -> list[str]:
        found = leaves(self.results)
        for leaf in found:
            if isinstance(leaf, EagerResult):
                leaf.revoke()
        return [] if all(isinstance(leaf, EagerResult) for leaf in found) else [leaf.id for leaf in found if leaf.id]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.results)}>"


def _succeeded(found: Sequence[Leaf]) -> list[Leaf]:
    return [leaf for leaf in ended(found) if leaf.successful()]


class _Places:
    """Which members of a set have ended, as their leaves do: a group has when all of its own have."""

    def __init__(self, results: list[Any]) -> None:
        # By identity: of members that are a leaf, and of the leaves of groups with how many of each group are left.
        self._alone: dict[int, int] = {}
        self._inside: dict[int, list[int]] = {}
        self._left: dict[int, int] = {}
        for place, member in enumerate(results):
            if isinstance(member, AsyncResult | EagerResult):
                self._alone[id(member)] = place
                continue
            own = leaves([member])
            self._left[place] = len(own)
            for leaf in own:
                self._inside.setdefault(id(leaf), []).append(place)

    def ended_with(self, leaf: Leaf) -> list[int]:
        alone = self._alone.pop(id(leaf), None)
        done = [] if alone is None else [alone]
        for place in self._inside.pop(id(leaf), ()):
            self._left[place] -= 1
            if not self._left[place]:
                done.append(place)
        return done


class _Handing:
    """Values of the members of a set, handed out as they come or in order."""

    def __init__(self, results: list[Any], *, propagate: bool, callback: Callback | None, ordered: bool) -> None:
        self._results = results
        self._propagate = propagate
        self._callback = callback
        self._ordered = ordered
        self._places = _Places(results)
        self._done: set[int] = set()
        self._next = 0
        self._values: list[Any] = [[] if _is_empty(result) else None for result in results]
        self._skip_empty()

    def add(self, leaf: Leaf) -> None:
        """`leaf` has ended. Raises its error, at once or in its turn, and what `callback` raises."""
        done = self._places.ended_with(leaf)
        if not self._ordered:
            if self._propagate and not done:
                # In a group that has not ended: its error is not kept back until then.
                end_of(leaf, propagate=True)
            for place in done:
                self._hand(place)
            return
        self._done.update(done)
        while self._next in self._done:
            self._hand(self._next)
            self._next += 1
            self._skip_empty()

    def _skip_empty(self) -> None:
        while self._next < len(self._results) and _is_empty(self._results[self._next]):
            self._next += 1

    def _hand(self, place: int) -> None:
        member = self._results[place]
        value = _value_of(member, propagate=self._propagate)
        if self._callback is None:
            self._values[place] = value
        else:
            self._callback(member.id, value)

    def values(self) -> list[Any] | None:
        return None if self._callback is not None else self._values


def _is_empty(member: Any) -> bool:
    return isinstance(member, ResultSet) and not leaves([member])


def _value_of(member: Any, *, propagate: bool) -> Any:
    if isinstance(member, ResultSet):
        return [_value_of(each, propagate=propagate) for each in member.results]
    return end_of(member, propagate=propagate)


def _meta_of(member: Any) -> Mapping[str, Any] | list[Any]:
    if isinstance(member, ResultSet):
        return member.results
    found: dict[str, Any] = member.as_meta()
    return found
