"""`Blueprint`: tasks that are defined before there is an app, for one or several to take in."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, overload

from kernel import errors
from kernel.naming import task_name
from kernel.request import current_request
from kernel.signature import Signature

if TYPE_CHECKING:
    from typing import Unpack

    from kernel.app import Kernel
    from kernel.decorator import BoundDecorator, CoroutineTask, Decorator
    from kernel.options import TaskOptions
    from kernel.task import Task

P = ParamSpec("P")
R = TypeVar("R")

_HOME: Final = "__kernel_blueprint__"
"""The name in a module's dictionary of the blueprint that `shared_task` fills."""


class SharedTask:
    """A task of a blueprint. It is called and made signatures of before any app has it.

    Everything else (`delay`, `apply_async`, options) is that of the task it has become: in the app of the running
    task, or in the only app that has taken it in. Raises `ImproperlyConfigured` where no app has, or several have.
    """

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self._options = dict(options)
        self._tasks: weakref.WeakKeyDictionary[Kernel, Task[..., Any]] = weakref.WeakKeyDictionary()
        self.name: str = options.get("name") or task_name(function.__name__, function.__module__, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body here and now."""
        task = self._chosen()
        if task is not None:
            return task(*args, **kwargs)
        if self._options.get("bind"):
            return self._needed("call", None)
        return self.__wrapped__(*args, **kwargs)

    def signature(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature[Any]:
        """A call of it as data. Without an app yet, it belongs to the one in which it is used."""
        return Signature(self.name, args, kwargs, app=self._app(), **options)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        return self.signature(args, kwargs, immutable=True)

    def register(self, app: Kernel) -> Task[..., Any]:
        """Become a task of `app`; again, it is the same one."""
        task = self._tasks.get(app)
        if task is None:
            task = app.task(**{**self._options, "name": self.name})(self.__wrapped__)
            self._tasks[app] = task
        return task

    def _app(self) -> Kernel | None:
        task = self._chosen()
        return None if task is None else task.app

    def _chosen(self) -> Task[..., Any] | None:
        request = current_request.get()
        if request is not None and request.app is not None and request.app in self._tasks:
            return self._tasks[request.app]
        return next(iter(self._tasks.values())) if len(self._tasks) == 1 else None

    def _needed(self, name: str, task: Task[..., Any] | None) -> Any:
        if task is None:
            taken = len(self._tasks)
            why = "no app has taken it in: app.take(blueprint)" if not taken else f"{taken} apps have taken it in"
            raise errors.ImproperlyConfigured(
                f"{name} of the shared task {self.name!r} is that of an app, and {why}; "
                f"app.tasks[{self.name!r}] is the task of one app"
            )
        return getattr(task, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_tasks" not in self.__dict__:
            raise AttributeError(name)
        return self._needed(name, self._chosen())

    def __repr__(self) -> str:
        return f"<SharedTask {self.name}>"


class Blueprint:
    """A list of tasks to be: ``@blueprint.task`` defines them as ``@app.task`` does, `app.take(blueprint)` makes
    them tasks of an app, those that are defined later as well."""

    def __init__(self) -> None:
        self._tasks: list[SharedTask] = []
        self._apps: weakref.WeakSet[Kernel] = weakref.WeakSet()

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
    # The checker does not see that **options takes what the TypedDict of the overloads lists.
    def task(self, function: Any = None, /, **options: Any) -> Any:  # type: ignore[misc]
        """Define a task. Its options are those of `@app.task`, and are checked by the app that takes it in."""
        if function is None:
            return lambda found: self.add(found, options)
        return self.add(function, options)

    def add(self, function: Callable[..., Any], options: Mapping[str, Any]) -> SharedTask:
        """Put a task in. Raises TypeError for what is no function, or is a shared task already."""
        if isinstance(function, SharedTask) or not callable(function) or not hasattr(function, "__name__"):
            raise TypeError(f"a shared task is made of a function, once, with options by name; got {function!r:.60}")
        task = SharedTask(function, options)
        self._tasks.append(task)
        for app in self._apps:
            task.register(app)
        return task

    def register(self, app: Kernel) -> None:
        """Make all its tasks tasks of `app`; the same as `app.take`. Again, it does nothing."""
        self._apps.add(app)
        for task in self._tasks:
            task.register(app)

    def __len__(self) -> int:
        return len(self._tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Blueprint of {', '.join(task.name for task in self._tasks) or 'nothing yet'}>"


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
def shared_task(function: Any = None, /, **options: Any) -> Any:
    """Put a task into the blueprint of the module that defines it; an app takes in the modules it imports as its own
    (`include`, `imports`, `autodiscover_tasks`), and others with `app.take(module)`."""
    if function is None:
        return lambda found: _home_of(found).add(found, options)
    return _home_of(function).add(function, options)


def blueprints_of(module: ModuleType) -> list[Blueprint]:
    """Those that a module has: what `shared_task` filled, and those that are in its variables."""
    found: list[Blueprint] = []
    for value in [*vars(module).values()]:
        if isinstance(value, Blueprint) and all(value is not other for other in found):
            found.append(value)
    return found


def _home_of(function: Any) -> Blueprint:
    name = getattr(function, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if isinstance(function, SharedTask) or module is None:
        raise TypeError(f"a shared task is made of a function of a module, once; got {function!r:.60}")
    home = vars(module).get(_HOME)
    if home is None:
        home = Blueprint()
        setattr(module, _HOME, home)
    assert isinstance(home, Blueprint), "the name is ours"
    return home
