"""Waiting for several results at once: one watch, and each is handed out as it ends."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernel import states
from kernel.result import AsyncResult, EagerResult

if TYPE_CHECKING:
    from kernel.interfaces.backend import Record

OnMessage = Callable[[dict[str, Any]], object]
Leaf = AsyncResult[Any] | EagerResult[Any]


def leaves(results: Iterable[Any]) -> list[Leaf]:
    """The results of single calls among these, those in groups among them, in order."""
    found: list[Leaf] = []
    stack = [iter(results)]
    while stack:
        for result in stack[-1]:
            if isinstance(result, AsyncResult | EagerResult):
                found.append(result)
            else:
                stack.append(iter(result.results))
                break
        else:
            stack.pop()
    return found


def end_of(leaf: Leaf, *, propagate: bool) -> Any:
    """The value of one that has ended; raises its exception with `propagate`."""
    if isinstance(leaf, EagerResult):
        return leaf.get(propagate=propagate, disable_sync_subtasks=False)
    return None if leaf.ignored else leaf._conclude(propagate, None)


def ends(
    found: Sequence[Leaf],
    *,
    timeout: float | None = None,
    on_message: OnMessage | None = None,
    on_interval: Callable[[], object] | None = None,
    interval: float = 0.5,
) -> Generator[Leaf, None, None]:
    """Each of these results as it ends, all within `timeout` seconds: first, in order, those whose end is known.
    Close it where it is not read to its end."""
    deadline = None if timeout is None else time.monotonic() + timeout
    yield from (leaf for leaf in found if not _open(leaf))
    for part in _parts(found):
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        with part.first.waiter() as waiter:
            records = waiter.wait_many(
                [*part.by_id],
                timeout=left,
                on_record=part.telling(on_message),
                on_interval=on_interval,
                interval=interval,
            )
            with closing(records):
                for record in records:
                    yield from part.of(record.id)


async def ends_async(
    found: Sequence[Leaf],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - the name that `get` has
    on_message: OnMessage | None = None,
) -> AsyncGenerator[Leaf, None]:
    """`ends` for coroutines."""
    deadline = None if timeout is None else time.monotonic() + timeout
    for leaf in found:
        if not _open(leaf):
            yield leaf
    for part in _parts(found):
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        with part.first.waiter() as waiter:
            batches = waiter.wait_many_async([*part.by_id], timeout=left, on_record=part.telling(on_message))
            async with aclosing(batches):
                async for batch in batches:
                    for record in batch:
                        for leaf in part.of(record.id):
                            yield leaf


@dataclass(slots=True)
class _Part:
    """The results of one backend, and those that stand for the same call as one of them."""

    first: AsyncResult[Any]
    by_id: dict[str, AsyncResult[Any]] = field(default_factory=dict)
    others: dict[str, list[AsyncResult[Any]]] = field(default_factory=dict)

    def add(self, leaf: AsyncResult[Any]) -> None:
        if self.by_id.setdefault(leaf.id, leaf) is not leaf:
            self.others.setdefault(leaf.id, []).append(leaf)

    def of(self, task_id: str) -> Sequence[AsyncResult[Any]]:
        others = self.others.get(task_id) if self.others else None
        return (self.by_id[task_id], *others) if others else (self.by_id[task_id],)

    def telling(self, on_message: OnMessage | None) -> Callable[[Record], object]:
        def tell(record: Record) -> None:
            found = self.of(record.id)
            for leaf in found:
                leaf._note(record)
            if on_message is not None:
                on_message(found[0]._meta(record))

        return tell


def _open(leaf: Leaf) -> bool:
    return isinstance(leaf, AsyncResult) and not leaf.known


def _parts(found: Sequence[Leaf]) -> list[_Part]:
    parts: dict[int, _Part] = {}
    for leaf in found:
        if isinstance(leaf, AsyncResult) and not leaf.known:
            place = leaf.app if leaf._backend is None else leaf._backend
            part = parts.get(id(place))
            if part is None:
                part = parts[id(place)] = _Part(leaf)
            part.add(leaf)
    return [*parts.values()]


class Tally:
    """How many of a set have ended, as a report of progress."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = self._failed = 0

    def add(self, leaf: Leaf) -> dict[str, Any]:
        self._ended += 1
        state = leaf.state if isinstance(leaf, EagerResult) or not leaf.ignored else states.SUCCESS
        self._failed += state in states.PROPAGATE_STATES
        message = f"{self._failed} failed" if self._failed else ""
        return {"current": self._ended, "total": self._total, "message": message}
