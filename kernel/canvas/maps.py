"""`xmap`, `xstarmap` and `chunks`: one task over many items, in one message or in a few."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kernel import errors
from kernel.canvas.groups import group
from kernel.canvas.unlocking import add_unlock_task
from kernel.placing import Given, Place
from kernel.signature import Signature, maybe_signature

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.call import Call
    from kernel.task import Task

MAP: Final = "celery.map"
STARMAP: Final = "celery.starmap"
ACCUMULATE: Final = "celery.accumulate"

# What the message of a map takes from the task that it calls.
_ROUTE: Final = ("queue", "exchange", "routing_key", "priority")


class xmap(Signature[list[Any]]):  # noqa: N801 - Celery's name
    """``xmap(task, items)``: one message; a worker calls the task with each item in turn. The result is the list.

    It goes where messages of the task go. One item that fails makes all of it fail.
    """

    task_name: ClassVar[str] = MAP

    def __init__(
        self,
        task: Task[..., Any] | Signature[Any] | Mapping[str, Any],
        it: Iterable[Any],
        *,
        app: Kernel | None = None,
        **options: Any,
    ) -> None:
        called = _called(task)
        kwargs = {"task": called, "it": _listed(it, called)}
        super().__init__(self.task_name, (), kwargs, options, immutable=True, app=app or called._app)
        self["subtask_type"] = type(self).__name__

    @property
    def app(self) -> Kernel:
        app = super().app
        app.add_builtin_tasks()
        return app

    def _read(self) -> None:
        task = maybe_signature(self.kwargs.get("task"), self._app)
        if not isinstance(task, Signature) or not isinstance(self.kwargs.get("it"), list | tuple):
            raise errors.InvalidTaskError(f"a {self['subtask_type']} needs a signature 'task' and a list 'it'")
        self.kwargs["task"] = task
        self._app = self._app or task._app

    def merged(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
        new_args, new_kwargs, new_options = super().merged(args, kwargs, options)
        return new_args, new_kwargs, {**self._route(), **new_options}

    def check_items(self) -> None:
        """Raises TypeError for an item that does not fit the task, where it is known and says so of calls."""
        called: Signature[Any] = self.kwargs["task"]
        task = self.app.tasks.get(called.task)
        if task is not None:
            for args in self._arguments():
                task.checked(args, None)

    def _arguments(self) -> Iterable[Sequence[Any]]:
        """What the task will be called with, but for calls that are alike."""
        return [(None,)] if self.kwargs["it"] else []

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        self.check_items()
        return super().apply_async(args, kwargs, **options)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        self.check_items()
        return await super().aapply_async(args, kwargs, **options)

    def calls_with(self, given: Given) -> Iterable[Call]:
        if given.lineage.parent_id is None:
            # What a worker publishes after a task must not make that task fail.
            self.check_items()
        return super().calls_with(given)

    def _route(self) -> dict[str, Any]:
        called: Signature[Any] = self.kwargs["task"]
        app = self._app or called._app
        task = None if app is None else app.tasks.get(called.task)
        found = {} if task is None else {name: getattr(task, name, None) for name in _ROUTE}
        found.update({name: called.options.get(name) or found.get(name) for name in _ROUTE})
        return {name: value for name, value in found.items() if value is not None}

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        return f"[{self.kwargs['task'].task}(x) for x in {self.kwargs['it']!r:.200}]"


class xstarmap(xmap):  # noqa: N801 - Celery's name
    """`xmap` whose items are lists of arguments."""

    task_name: ClassVar[str] = STARMAP

    def _arguments(self) -> Iterable[Sequence[Any]]:
        for item in self.kwargs["it"]:
            if not isinstance(item, Iterable):
                task = self.kwargs["task"].task
                raise TypeError(f"an item of the starmap of {task} is {item!r:.60}; a list of its arguments is needed")
        # The task is asked how many it takes, and not what they are.
        return {len(item): tuple(item) for item in self.kwargs["it"] if isinstance(item, list | tuple)}.values()

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        return f"[{self.kwargs['task'].task}(*x) for x in {self.kwargs['it']!r:.200}]"


class chunks(Signature[list[list[Any]]]):  # noqa: N801 - Celery's name
    """``chunks(task, items, n)``: a group of starmaps of `n` items each. The result is a list for each of them."""

    composite: ClassVar[bool] = True

    def __init__(
        self,
        task: Task[..., Any] | Signature[Any] | Mapping[str, Any],
        it: Iterable[Any],
        n: int,
        *,
        app: Kernel | None = None,
        **options: Any,
    ) -> None:
        called = _called(task)
        kwargs = {"task": called, "it": _listed(it, called), "n": n}
        super().__init__("celery.chunks", (), kwargs, options, immutable=True, app=app or called._app)
        self["subtask_type"] = "chunks"
        self._read()

    def _read(self) -> None:
        task, n = maybe_signature(self.kwargs.get("task"), self._app), self.kwargs.get("n")
        if not isinstance(task, Signature) or not isinstance(self.kwargs.get("it"), list | tuple):
            raise errors.InvalidTaskError("chunks need a signature 'task' and a list 'it'")
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise errors.InvalidTaskError(f"chunks of {n!r:.40} items cannot be made: 'n' is a number of 1 or more")
        self.kwargs["task"] = task
        self._app = self._app or task._app

    def group(self) -> group:
        """The group that it is."""
        task, items, n = self.kwargs["task"], iter(self.kwargs["it"]), self.kwargs["n"]
        parts = iter(lambda: list(itertools.islice(items, n)), [])
        return group([xstarmap(task, part, app=self._app) for part in parts], app=self._app, **self.options)

    def freeze_at(self, place: Place) -> Any:
        raise TypeError("chunks are made a group before they are frozen: freeze chunks.group()")

    def calls_with(self, given: Given) -> Iterable[Call]:
        raise TypeError("chunks are made a group before they are sent: use chunks.group()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Publish the group; returns its `GroupResult`. Arguments are ignored: the items are."""
        return self.group().apply_async(**options)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        return await self.group().aapply_async(**options)

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        return self.group().apply(**options)


def _listed(items: Any, called: Signature[Any]) -> list[Any]:
    if not isinstance(items, Iterable):
        raise TypeError(f"the items for {called.task} are {items!r:.60}; a list, or what can be made one, is needed")
    return list(items)


def _called(task: Any) -> Signature[Any]:
    """The task of a map as a signature. Raises TypeError."""
    if isinstance(task, Mapping):
        found = maybe_signature(task)
    else:
        make = getattr(task, "s", None)
        found = make() if callable(make) else None
    if not isinstance(found, Signature):
        raise TypeError(f"a map calls a task or the signature of one; got {task!r:.80}")
    return found


def add_builtin_tasks(app: Kernel) -> None:
    """Register the tasks that maps are messages of, and the one that a group's values go through, under the names that
    Celery's workers know, too."""
    if MAP in app.tasks:
        return

    def celery_map(task: Mapping[str, Any], it: Sequence[Any]) -> list[Any]:
        """Call `task` with each item of `it`."""
        call = Signature.from_dict(task, app).type
        return [_value(call(item)) for item in it]

    def celery_starmap(task: Mapping[str, Any], it: Sequence[Sequence[Any]]) -> list[Any]:
        """Call `task` with the arguments that each item of `it` is."""
        call = Signature.from_dict(task, app).type
        return [_value(call(*item)) for item in it]

    def celery_accumulate(*args: Any, index: int | None = None) -> Any:
        """What it was called with, or one of that."""
        return args if index is None else args[index]

    app.task(name=ACCUMULATE)(celery_accumulate)
    add_unlock_task(app)
    app.task(name=MAP)(celery_map)
    app.task(name=STARMAP)(celery_starmap)


def _value(found: Any) -> Any:
    """What a call of a task gave: a coroutine function's is run to its end."""
    if not hasattr(found, "__await__"):
        return found
    import asyncio

    return asyncio.run(_awaited(found))


async def _awaited(found: Any) -> Any:
    return await found
