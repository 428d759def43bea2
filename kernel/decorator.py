"""`@app.task`: from a function (or a class) to a registered task, at run time and for type checkers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, overload

from kernel import errors
from kernel.options import check_task_options
from kernel.task import Task

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.hooks import TaskOption

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T", bound=Task[..., Any])

_COPIED: Final = ("__doc__", "__module__", "__name__", "__qualname__", "__annotations__")
# From the warning to the line of the user's decorator: here, in the app, and in what the app's method returned.
_LEVELS: Final = 4

if TYPE_CHECKING:

    class CoroutineTask(Task[P, R_co]):
        """How a checker sees the task of a coroutine function: called directly it gives a coroutine, and a worker
        gives what that returns. At run time it is a `Task` like any other."""

        def __call__(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R_co]: ...


class Decorator(Protocol):
    """What `@app.task(...)` returns: a function becomes the task of its arguments."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """The same with `bind=True`: the first argument is the task itself, and no caller gives it."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


def decorate(app: Kernel, function: Callable[..., Any], options: Mapping[str, Any], *, bind: bool) -> Any:
    """The task of `function`, registered, or the one that has its name already.

    Raises TypeError and ValueError for options that cannot be.
    """
    options = dict(options)
    wanted, base, keep = options.pop("name", None), options.pop("base", None), options.pop("filter", None)
    check_task_options(options, lambda: _plugin_options(app))
    if wanted is None and not hasattr(function, "__name__"):
        raise TypeError(f"{function!r:.80} has no name of its own: give the task one with name=...")
    name = wanted or app.gen_task_name(function.__name__, function.__module__)
    with app.registering:
        standing = app.tasks.get(name)
        if standing is not None:
            if getattr(standing, "__wrapped__", None) is not function:
                warnings.warn(
                    f"a task {name!r} is registered already, and stays; {function.__module__}."
                    f"{function.__qualname__} is not registered: give it a name of its own with name=...",
                    errors.DuplicateTaskNameWarning,
                    stacklevel=_LEVELS,
                )
            return standing
        task = _make_task(function, base or app.Task, options, bind=bind)
        app.add_task(task, name)
    return task if keep is None else keep(task)


def register(app: Kernel, task: T | type[T]) -> T:
    """The instance of a `Task` class, registered; it takes the place of one that has its name."""
    instance = task() if isinstance(task, type) else task
    if not isinstance(instance, Task):
        raise TypeError(f"register_task takes a Task or a subclass of it; got {task!r:.60}")
    kind = type(instance)
    name = instance.name or app.gen_task_name(kind.__name__, kind.__module__)
    with app.registering:
        standing = app.tasks.get(name)
        if standing is not None and type(standing) is not kind:
            warnings.warn(
                f"{kind.__module__}.{kind.__qualname__} takes the place of the task {name!r}",
                errors.DuplicateTaskNameWarning,
                stacklevel=3,
            )
        app.add_task(instance, name)
    return instance


def _make_task(
    function: Callable[..., Any], base: type[Task[..., Any]], options: Mapping[str, Any], *, bind: bool
) -> Task[..., Any]:
    """A task whose body is `function`, and which looks like it to whoever reads its attributes."""
    task = base()
    fields = task.__dict__
    fields.update(options)
    fields["bind"] = bind
    fields["run"] = MethodType(function, task) if bind else function
    for name in _COPIED:
        value = getattr(function, name, None)
        if value is not None:
            fields[name] = value
    fields["__wrapped__"] = function
    return task


def _plugin_options(app: Kernel) -> Mapping[str, TaskOption]:
    """The options of `@app.task` that plugins own."""
    owned: dict[str, TaskOption] = {}
    for options in app.extensions.collect("kernel_task_options", app=app):
        owned.update(options)
    return owned
