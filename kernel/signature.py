"""`Signature`: a call as data, to be sent later or by somebody else (as a link).

It is a dictionary of JSON values with the keys that Celery's signatures have (`task`, `args`, `kwargs`,
`options`, `subtask_type`, `immutable`), and travels inside messages as such. Signatures of several calls are in
`kernel.canvas`; which class reads a dictionary follows from its `subtask_type`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from kernel import errors
from kernel.call import NO_OPTIONS, Call
from kernel.calldata import CallData
from kernel.cycles import cycle_of, leads_to
from kernel.placing import Given, Lineage, Place

if TYPE_CHECKING:
    from typing import Self

    from kernel import result as result_module
    from kernel.app import Kernel
    from kernel.canvas.stamping import StampingVisitor
    from kernel.task import Task

__all__ = ["Lineage", "Place", "Signature", "as_signatures", "maybe_signature", "signature"]

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T", bound="Signature[Any]")

# Freezing again changes these: what is sent from a task belongs to that one, wherever it was made.
_LINEAGE: Final = frozenset({"root_id", "parent_id"})

# The primitives, by the type in their dictionaries: loaded when one is met.
_PRIMITIVES: Final[Mapping[str, str]] = {
    "chain": "chains",
    "group": "groups",
    "chord": "chord",
    "xmap": "maps",
    "xstarmap": "maps",
    "chunks": "maps",
}


class Signature(CallData, Generic[R_co]):
    """A call of one task: its name, and the arguments and options that are known so far.

    Arguments given when it is called are put in front of the stored ones; keyword arguments and options given
    then win over stored ones. An immutable signature takes no more arguments.
    """

    composite: ClassVar[bool] = False
    """Whether it means more than one call, or one that is worked out when it is sent."""
    types: ClassVar[dict[str, type[Signature[Any]]]] = {}
    """Classes of the program's own by the type in their dictionaries: `register_type` fills it, as classes are made."""

    rewrites: bool = False
    """Set on the signature of a retry: its arguments are other than those of the message."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], app: Kernel | None = None) -> Signature[Any]:
        """The signature that `data` describes, of the class that its `subtask_type` names.

        Raises `InvalidTaskError` when it describes none.
        """
        kind = data.get("subtask_type")
        home = cls if kind is None else _class_of(kind, data)
        own = home.__dict__.get("from_dict")
        if own is not None and home is not cls and home is not Signature:
            found: Signature[Any] = home.from_dict(data, app)
            return found
        return home.of_data(data, app)

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[T]], type[T]]:
        """Decorator of a subclass: dictionaries whose `subtask_type` is `name` (the class's by default) become it."""

        def register(kind: type[T]) -> type[T]:
            cls.types[name or kind.__name__] = kind
            return kind

        return register

    @property
    def type(self) -> Task[..., Any]:
        """The registered task. Raises `NotRegistered`."""
        return self.app.tasks[self.task]

    def AsyncResult(self, task_id: str) -> result_module.AsyncResult[R_co]:  # noqa: N802 - Celery's name
        return self.app.AsyncResult(task_id, task_name=self.task)

    # --- being sent -----------------------------------------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Any:
        """Give it its task id now, once: frozen again, it keeps the first, and its other options, but for `root_id` and
        `parent_id`. Where results are sent to whoever called, that is whoever froze it (`reply_to`).

        Returns the result it will have: an `AsyncResult`, of a group a `GroupResult`, of an empty chain None.
        """
        app = self.known_app()
        if app is not None:
            options.setdefault("reply_to", app.oid)
        return self.freeze_at(
            Place(
                task_id=options.pop("task_id", None) if _id is None else _id,
                group_id=group_id,
                chord=chord,
                root_id=root_id,
                parent_id=parent_id,
                group_index=group_index,
                more=options,
            )
        )

    def freeze_at(self, place: Place) -> Any:
        """What `freeze` does; a class of one's own overrides this one."""
        return self.settle(place.task_id or place.ids, place.options())

    def settle(self, task_id: str | Callable[[], str], said: Mapping[str, Any]) -> result_module.AsyncResult[R_co]:
        """What `freeze_at` does for a call of one task, with the id or what makes it, and the options of its place."""
        options, app = self.options, self.app
        frozen: str = options.get("task_id") or (task_id if isinstance(task_id, str) else task_id())
        options["task_id"] = frozen
        for name, value in said.items():
            if name in _LINEAGE:
                options[name] = value
            else:
                options.setdefault(name, value)
        ignored = options.get("ignore_result")
        if ignored is None:
            task = app.tasks.get(self["task"])
            ignored = task is not None and task.ignore_result
        result = app.AsyncResult(frozen, task_name=self["task"])
        result.ignored = bool(ignored)
        return result

    def ids(self) -> list[str]:
        """The ids of all its tasks, once it is frozen."""
        return [] if self.id is None else [self.id]

    def calls(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        lineage: Lineage,
    ) -> list[Call]:
        """What is to be published first of all, with these arguments and options added."""
        return list(self.calls_with(Given(args, kwargs or NO_OPTIONS, options or NO_OPTIONS, lineage)))

    def calls_with(self, given: Given) -> Iterable[Call]:
        """What `calls` does, to be gone through once; each kind of signature has its own."""
        lineage, options = given.lineage, given.options
        if lineage.reply_to is not None and options.get("reply_to") is None and self.options.get("reply_to") is None:
            options = {**options, "reply_to": lineage.reply_to}
        new_args, new_kwargs, new_options = self.merged(given.args, given.kwargs, options)
        return [
            Call(
                self["task"],
                new_args,
                new_kwargs,
                new_options,
                task_id=self.id,
                root_id=lineage.root_id,
                parent_id=lineage.parent_id,
                redelivered=lineage.redelivered,
            )
        ]

    # --- links ----------------------------------------------------------------------------------------------

    def link(self, callback: Signature[Any]) -> Signature[Any]:
        """Call `callback` with the return value; returns `callback`. Raises ValueError where that makes a cycle."""
        return self._append("link", callback)

    def link_error(self, errback: Signature[Any]) -> Signature[Any]:
        """Call `errback` when the task fails; returns `errback`."""
        return self._append("link_error", errback)

    def on_error(self, errback: Signature[Any]) -> Self:
        """The same, and returns this signature."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Signature[Any]]:
        """This signature and all that is linked to it, at any depth."""
        found: list[Signature[Any]] = [self]
        for link in as_signatures(self.options.get("link"), self._app):
            found.extend(link.flatten_links())
        return found

    def _append(self, option: str, signature: Signature[Any]) -> Signature[Any]:
        if not isinstance(signature, Mapping):
            raise TypeError(f"{option} is a signature, such as task.s(), and not a {type(signature).__name__}")
        if leads_to(signature, self):
            raise cycle_of([self] if signature is self else [self, signature])
        links = self.options.get(option)
        links = [] if links is None else links if isinstance(links, list) else [links]
        if signature not in links:
            links = [*links, signature]
        self.options[option] = links
        return signature

    def walk(self) -> Iterator[Signature[Any]]:
        """This signature and all that it is made of, at any depth: members of composites and bodies of chords."""
        yield self
        if self.composite:
            for part in self.parts():
                yield from part.walk()

    def parts(self) -> list[Signature[Any]]:
        """The signatures that it is made of, in place."""
        found: list[Signature[Any]] = []
        for name in ("tasks", "header", "body"):
            value = self.kwargs.get(name)
            if isinstance(value, Signature):
                found.append(value)
            elif isinstance(value, list | tuple):
                found += [item for item in value if isinstance(item, Signature)]
        return found

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Self:
        """Put stamps on it, on its links, and on all that it is made of; returns it.

        `headers` are stamps for all of them; `visitor` is asked for those of each. A stamp that is there already is
        replaced or, with `append_stamps`, becomes a list with the old one. Calls do not override stamps.
        """
        from kernel.canvas.stamping import stamp

        stamp(self, visitor, append=append_stamps, headers=headers)
        return self

    # --- putting together -----------------------------------------------------------------------------------

    def __or__(self, other: Any) -> Signature[Any]:  # type: ignore[override]
        """``a | b``: `b` is called with what `a` returned."""
        from kernel.canvas.chains import join

        following = maybe_signature(other, self._app)
        if isinstance(following, Signature):
            return join(self, following)
        if callable(getattr(other, "s", None)):
            raise TypeError(f"{self!r:.60} | {other!r:.60}: after | comes a signature, which .s() of the task makes")
        return NotImplemented

    def __ior__(self, other: Any) -> Signature[Any]:  # type: ignore[override]
        return self.__or__(other)

    def __ror__(self, other: Any) -> Signature[Any]:  # type: ignore[override]
        before = maybe_signature(other, self._app)
        return before.__or__(self) if isinstance(before, Signature) else NotImplemented

    # --- calling --------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        """Call the task here and now, in this process."""
        new_args, new_kwargs, _ = self.merged(args, kwargs)
        result: R_co = self.type(*new_args, **new_kwargs)
        return result

    def delay(self, *args: Any, **kwargs: Any) -> result_module.AsyncResult[R_co]:
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> result_module.AsyncResult[R_co]:
        """Publish the call; options of `Task.apply_async`."""
        new_args, new_kwargs, new_options = self.merged(args or (), kwargs, options)
        app = self.app
        task = app.tasks.get(self.task)
        if task is None:
            return app.send_task(self.task, new_args, new_kwargs, **new_options)
        return task.apply_async(new_args, new_kwargs, **new_options)

    async def adelay(self, *args: Any, **kwargs: Any) -> result_module.AsyncResult[R_co]:
        """`delay` for coroutines."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> result_module.AsyncResult[R_co]:
        """`apply_async` for coroutines."""
        new_args, new_kwargs, new_options = self.merged(args or (), kwargs, options)
        app = self.app
        task = app.tasks.get(self.task)
        if task is None:
            return await app.asend_task(self.task, new_args, new_kwargs, **new_options)
        return await task.aapply_async(new_args, new_kwargs, **new_options)

    def election(self) -> result_module.AsyncResult[R_co]:
        """Have exactly one worker run the call: that is so of every call, and this publishes it. No votes are cast."""
        return self.apply_async()

    def __await__(self) -> Generator[Any, None, R_co]:
        """``await signature``: publish, and wait for the value."""
        return self._run().__await__()

    async def _run(self) -> R_co:
        return await (await self.aapply_async())

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> result_module.EagerResult[R_co]:
        """Run the call here, as a worker would."""
        new_args, new_kwargs, new_options = self.merged(args or (), kwargs, options)
        return self.type.apply(new_args, new_kwargs, **new_options)

    def __invert__(self) -> R_co:
        """``~signature``: publish and wait for the value."""
        return self.apply_async().get()

    def __reduce__(self) -> tuple[Any, ...]:
        # The app stays behind: it is no data, and the other side has its own.
        return Signature.from_dict, (dict(self),)


def signature(
    task: str | Task[Any, Any] | Mapping[str, Any],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    app: Kernel | None = None,
    immutable: bool | None = None,
    **more_options: Any,
) -> Signature[Any]:
    """A call as data: of a name, of a task, or what a dictionary describes; of a signature, a clone.

    Arguments and options given with a dictionary or a signature are added as `clone` adds them.
    """
    if not isinstance(task, Mapping):
        return Signature(task, args, kwargs, options, immutable=bool(immutable), app=app, **more_options)
    found = task if isinstance(task, Signature) else Signature.from_dict(task, app)
    made = found.clone(args or (), kwargs, **{**(options or {}), **more_options})
    if immutable is not None:
        made.set_immutable(immutable)
    return made


def maybe_signature(data: Any, app: Kernel | None = None) -> Any:
    """A signature from a dictionary that describes one; anything else comes back as it is.

    One that is a signature already (as pickles are, which leave their app behind) becomes the app's if it has none.
    """
    if isinstance(data, Signature):
        if app is not None and data._app is None:
            data._app = app
        return data
    if isinstance(data, Mapping) and "task" in data:
        return Signature.from_dict(data, app)
    return data


def as_signatures(links: Any, app: Kernel | None = None) -> list[Signature[Any]]:
    """The value of `link` or `link_error` as a list. Raises TypeError for what is no signature."""
    if links is None:
        return []
    if isinstance(links, Mapping):
        links = [links]
    elif isinstance(links, str | bytes) or not isinstance(links, Iterable):
        raise TypeError(f"a link is a signature (such as task.s()) or a list of them, not {type(links).__name__}")
    found = []
    for item in links:
        signature = maybe_signature(item, app)
        if not isinstance(signature, Signature):
            raise TypeError(f"a link is a signature, such as task.s(); got {item!r:.80}")
        found.append(signature)
    return found


def _class_of(kind: Any, data: Mapping[str, Any]) -> type[Signature[Any]]:
    known = Signature.types.get(kind) if isinstance(kind, str) else None
    if known is not None:
        return known
    home = _PRIMITIVES.get(kind) if isinstance(kind, str) else None
    if home is None:
        raise errors.InvalidTaskError(
            f"the signature of {data.get('task')!r:.80} is of type {kind!r:.40}; known are "
            f"{', '.join(sorted({*_PRIMITIVES, *Signature.types}))}"
        )
    found: type[Signature[Any]] = getattr(importlib.import_module(f"kernel.canvas.{home}"), kind)
    return found
