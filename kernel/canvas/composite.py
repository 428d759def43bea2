"""`Composite`: what signatures of several calls have in common."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from kernel import errors
from kernel.canvas.later import Later
from kernel.cycles import circle_of, cycle_of
from kernel.placing import PLACED, Given, Lineage, Place
from kernel.signature import Signature, maybe_signature

if TYPE_CHECKING:
    from typing import Self

    from kernel.app import Kernel


class Composite(Signature[Any]):
    """A signature whose members are signatures, in `kwargs['tasks']`.

    Frozen, it holds its members flat and each with its id; sent unfrozen, a copy of it is frozen, so that it can
    be sent any number of times.
    """

    composite: ClassVar[bool] = True

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Its members, in order."""
        tasks: list[Signature[Any]] = self.kwargs["tasks"]
        return tasks

    @tasks.setter
    def tasks(self, tasks: Iterable[Any]) -> None:
        self.kwargs["tasks"] = members(tasks, self["subtask_type"], self._app)

    @property
    def app(self) -> Kernel:
        """Its own app, or that of a member, or of the running task. Raises `ImproperlyConfigured`."""
        return self.known_app() or super().app

    def known_app(self) -> Kernel | None:
        """Its own app, or that of the first member that has one."""
        if self._app is not None:
            return self._app
        return next((app for member in self.tasks if (app := member.known_app()) is not None), None)

    def _read(self) -> None:
        tasks = self.kwargs.get("tasks")
        if tasks is None or isinstance(tasks, str | bytes | Mapping) or not isinstance(tasks, Iterable):
            raise errors.InvalidTaskError(f"a {self['subtask_type']} needs a list of signatures; got {tasks!r:.80}")
        self.kwargs["tasks"] = members(tasks, self["subtask_type"], self._app)

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy in which the given parts are replaced. Its members are copies, too."""
        given = dict(self.kwargs if kwargs is None else kwargs)
        given["tasks"] = [member.clone() for member in given["tasks"]]
        return super().replace(args, given, options)

    def ids(self) -> list[str]:
        return [task_id for member in self.tasks for task_id in member.ids()]

    def own_kwargs(self, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Keyword arguments for its members, out of the merged ones."""
        return {name: value for name, value in (kwargs or {}).items() if name != "tasks"}

    # --- calling --------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Publish it; the same as `delay`."""
        return self.apply_async(args, kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Publish what comes first, in one batch. All that is not published then travels with it."""
        if self._is_nothing():
            return self._made(options)[1]
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        made, result = self._made(options)
        calls = made.calls_with(Given(args or (), kwargs or {}, options, Lineage(reply_to=app.oid)))
        app.calls.send(calls, result, options, expected=made.ids)
        return result

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """`apply_async` for coroutines."""
        if self._is_nothing():
            return self._made(options)[1]
        app = self.app
        if app.conf.task_always_eager:
            import asyncio

            return await asyncio.to_thread(self.apply, args, kwargs, **options)
        made, result = self._made(options)
        calls = made.calls_with(Given(args or (), kwargs or {}, options, Lineage(reply_to=app.oid)))
        await app.calls.asend(calls, result, options, expected=made.ids)
        return result

    def __await__(self) -> Generator[Any, None, Any]:
        """``await signature``: publish, and wait for what comes of it."""
        return self._run().__await__()

    def _made(self, options: Mapping[str, Any]) -> tuple[Self, Any]:
        """A frozen copy, and its result. Raises ValueError for one that is a part of itself."""
        placed = {name: options[name] for name in PLACED if options.get(name) is not None}
        try:
            made = self._outer_copy()
            if options.get("ignore_result") is not None:
                made._ignore(bool(options["ignore_result"]))
            return made, made.freeze_at(Place(**placed))
        except RecursionError:
            circle = circle_of(self)
            if circle is None:
                raise
            raise cycle_of(circle) from None

    def _is_nothing(self) -> bool:
        """Whether there is no task in it, which needs no app."""
        return next(walk(self), None) is None

    def _outer_copy(self) -> Self:
        """A copy to be frozen. Where freezing copies the members, they need not be copied for it."""
        return self.clone()

    def _ignore(self, ignored: bool) -> None:
        """Let those results say so whose tasks the option will be given to."""

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        tasks = self.tasks
        # Whoever logs a canvas does not want it begun.
        is_read = not isinstance(tasks, Later) or tasks.is_read
        shown = ", ".join(repr(member) for member in tasks) if is_read else "<a generator>"
        return f"{self['subtask_type']}({shown})"


def members(tasks: Iterable[Any], kind: str, app: Kernel | None = None) -> list[Signature[Any]]:
    """Each of `tasks` as a signature. Raises `InvalidTaskError` naming the one that is none."""
    return [_member(task, kind, app) for task in tasks]


def members_later(tasks: Iterable[Any], kind: str, app: Kernel | None = None) -> list[Signature[Any]]:
    """The same; of an iterator, when they are first looked at."""
    if isinstance(tasks, Iterator):
        return Later(tasks, lambda task: _member(task, kind, app))
    return members(tasks, kind, app)


def _member(task: Any, kind: str, app: Kernel | None) -> Signature[Any]:
    found = maybe_signature(task, app)
    if not isinstance(found, Signature):
        raise errors.InvalidTaskError(f"a {kind} is made of signatures, such as task.s(); got {task!r:.80}")
    return found


def given_members(tasks: Sequence[Any]) -> Iterable[Any]:
    """What a primitive was called with: signatures, or one list, tuple or generator of them."""
    if len(tasks) == 1 and not isinstance(tasks[0], Mapping) and isinstance(tasks[0], Iterable):
        alone: Iterable[Any] = tasks[0]
        return alone
    return tasks


def walk(signature: Signature[Any]) -> Iterator[Signature[Any]]:
    """All tasks that come of a signature, those of nested ones among them."""
    if not isinstance(signature, Composite):
        yield signature
        return
    for task in signature.tasks:
        yield from walk(task)
    body = signature.kwargs.get("body")
    if isinstance(body, Signature):
        yield from walk(body)
