"""`RequestStack`: the requests of one task in this context."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kernel.request import Request, current_request

if TYPE_CHECKING:
    from kernel.task import Task


class RequestStack:
    """What `Task.request_stack` is. The innermost request is what `Task.request` gives; a thread or coroutine sees its
    own. Made anew each time it is asked for, and always of the moment."""

    def __init__(self, task: Task[..., Any]) -> None:
        self._task = task

    @property
    def top(self) -> Request | None:
        """The request that runs now; None when the task does not run in this context."""
        return next(self._mine(), None)

    @property
    def stack(self) -> list[Request]:
        """All of them, the innermost last."""
        return [*self._mine()][::-1]

    def push(self, request: Request) -> None:
        """Make `request` the current one until it is popped. Raises TypeError for what is none."""
        if not isinstance(request, Request):
            raise TypeError(f"a request is needed, not {request!r:.80}; task.push_request(**fields) makes one")
        outer = current_request.get()
        if any(each is request for each in _around(outer)):
            request = copy.copy(request)  # it stands in one place only
        request.task = self._task.name
        if request.app is None:
            request.app = self._task._app
        request.outer = outer
        current_request.set(request)

    def pop(self) -> Request | None:
        """Take the innermost request of the task away, and return it; None if there is none."""
        inner, request = None, current_request.get()
        while request is not None and request.task != self._task.name:
            inner, request = request, request.outer
        if request is None:
            return None
        if inner is None:
            current_request.set(request.outer)
        else:
            inner.outer = request.outer
        return request

    def __len__(self) -> int:
        return sum(1 for _ in self._mine())

    def __bool__(self) -> bool:
        return self.top is not None

    def __iter__(self) -> Iterator[Request]:
        return iter(self.stack)

    def __repr__(self) -> str:
        return f"<RequestStack of {self._task.name}: {len(self)}>"

    def _mine(self) -> Iterator[Request]:
        return (request for request in _around(current_request.get()) if request.task == self._task.name)


def _around(request: Request | None) -> Iterator[Request]:
    """A request, and those that it was made in."""
    while request is not None:
        yield request
        request = request.outer
