"""Whether somebody may wait for results here: inside a task that could block the worker that would make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal

from kernel.request import running_request

Joining = Literal["allowed", "awaited", "denied"]

joining: Final[ContextVar[Joining | None]] = ContextVar("kernel_joining", default=None)
"""Whether this context may wait for results inside a task: `awaited` allows `await`, not `get()`."""


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
