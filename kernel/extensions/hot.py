"""The hooks that are called for every message, as plain tuples of functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Bound(tuple[tuple[str, Callable[..., Any]], ...]):
    """The implementations of a hot hook in the order of their call: pairs of plugin name and function, which takes
    the hook's arguments by position. `hook` is the hook's name."""

    hook: str

    @classmethod
    def of(cls, hook: str, pairs: Sequence[tuple[str, Callable[..., Any]]]) -> Bound | None:
        """None when there are none, so that a caller's ``if`` is all that an idle hook costs."""
        if not pairs:
            return None
        bound = cls(pairs)
        bound.hook = hook
        return bound


class HotHooks:
    """One attribute for each hot hook: None while nobody implements it, or its `Bound` functions."""

    __slots__ = (
        "kernel_message_received",
        "kernel_message_settled",
        "kernel_publish_end",
        "kernel_publish_start",
        "kernel_task_admit",
        "kernel_task_decide",
        "kernel_task_end",
        "kernel_task_start",
    )

    kernel_message_received: Bound | None
    kernel_message_settled: Bound | None
    kernel_publish_end: Bound | None
    kernel_publish_start: Bound | None
    kernel_task_admit: Bound | None
    kernel_task_decide: Bound | None
    kernel_task_end: Bound | None
    kernel_task_start: Bound | None

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, None)
