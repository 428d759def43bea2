"""The types of `@app.task`, by which a checker knows what `delay` takes and what `get` returns."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from kernel.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """What `@app.task(...)` returns: a function becomes the task of its arguments."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """The same with `bind=True`: the first argument is the task itself, and no caller gives it."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
