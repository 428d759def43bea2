"""`group`: tasks side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernel.call import Call
from kernel.canvas.composite import Composite, given_members, members_later
from kernel.groupresult import GroupResult
from kernel.placing import PLACED, Given, Place
from kernel.signature import Signature

if TYPE_CHECKING:
    from typing import Self


class group(Composite):  # noqa: N801 - Celery's name
    """``group(a, b, c)``: all of them are published in one batch, with the same arguments and options.

    Its result is a `GroupResult` with one result for each member, in order. Groups in it are flattened. A generator of
    members is read when somebody first looks at them: when it is sent, copied, counted or joined to something.
    """

    def __init__(self, *tasks: Any, **options: Any) -> None:
        app = options.pop("app", None)
        found = members_later(given_members(tasks), "group", app)
        dict.__init__(
            self,
            task="celery.group",
            args=(),
            kwargs={"tasks": found},
            options=options,
            subtask_type="group",
            immutable=False,
        )
        self._app = app

    def __len__(self) -> int:
        return len(self.tasks)

    # --- making ---------------------------------------------------------------------------------------------

    def spread(self) -> list[Signature[Any]]:
        """Copies of its members with its own arguments and options; groups among them are flattened."""
        options = {name: value for name, value in self.options.items() if name not in PLACED}
        own_kwargs = self.own_kwargs(self.kwargs)
        found: list[Signature[Any]] = []
        for task in self.tasks:
            member = as_group(task).clone(self.args, own_kwargs, **options)
            found += member.spread() if isinstance(member, group) else [member]
        return found

    def freeze_at(self, place: Place) -> GroupResult:
        """Give it and every member an id. A group in a group has an id of its own."""
        own: str = self.options.setdefault("task_id", place.task_id or place.ids())
        flat = self.spread()
        self["args"] = ()
        self["kwargs"] = {"tasks": flat}
        self["options"] = {"task_id": own}
        inside = place.at(task_id=None, group_id=own, ids=place.ids_for(len(flat)))
        said, results = inside.options(), []
        for index, member in enumerate(flat):
            if type(member).freeze_at is Signature.freeze_at:
                # What is the same for all members is worked out once.
                said["group_index"] = index
                result = member.settle(inside.ids, said)
            else:
                result = member.freeze_at(inside.at(group_index=index))
            if result is not None:
                results.append(result)
        return GroupResult(own, results, app=self.known_app())

    def calls_with(self, given: Given) -> Iterable[Call]:
        new_args, new_kwargs, new_options = self.merged(given.args, given.kwargs, given.options)
        inside = Given(new_args, self.own_kwargs(new_kwargs), self._member_options(new_options), given.lineage)
        return (call for member in self.tasks for call in member.calls_with(inside))

    def _member_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        if options.get("link"):
            raise TypeError("a group has no end that a link could be called at: link to its members, or use a chord")
        if options.get("link_error"):
            raise TypeError("give link_error to the tasks of a group: group.link_error() does so for each of them")
        if options.get("chain"):
            raise TypeError("a group that other tasks follow is the header of a chord: make it chord(group, task)")
        return {name: value for name, value in options.items() if name not in PLACED}

    def _outer_copy(self) -> Self:
        return Signature.replace(self) if type(self) is group else self.clone()

    def _ignore(self, ignored: bool) -> None:
        self.options["ignore_result"] = ignored

    def _made(self, options: Mapping[str, Any]) -> tuple[Self, Any]:
        made, result = super()._made(options)
        return made, _collapsed(result)

    # --- calling --------------------------------------------------------------------------------------------

    if TYPE_CHECKING:  # what `Composite` does, with its type

        def __call__(self, *args: Any, **kwargs: Any) -> GroupResult: ...

        def delay(  # type: ignore[override]
            self, *args: Any, **kwargs: Any
        ) -> GroupResult: ...

        def apply_async(  # type: ignore[override]
            self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
        ) -> GroupResult: ...

        async def aapply_async(  # type: ignore[override]
            self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
        ) -> GroupResult: ...

    # --- running it here ------------------------------------------------------------------------------------

    def apply(  # type: ignore[override]
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Run the members here, one after another."""
        return _collapsed(self.gather(args, kwargs, **options))

    def gather(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """The same for a header, whose body gets one value for each member even if it has one alone."""
        made, _ = self._made(options)
        new_args, new_kwargs, new_options = made.merged(args or (), kwargs, options)
        given = made._member_options(new_options)
        lineage = {name: options[name] for name in ("root_id", "parent_id") if options.get(name) is not None}
        own_kwargs = made.own_kwargs(new_kwargs)
        results = [member.apply(new_args, own_kwargs, **given, **lineage) for member in made.tasks]
        return GroupResult(made.id, [found for found in results if found is not None], app=made.known_app())

    # --- changing its members -------------------------------------------------------------------------------

    def link(self, callback: Signature[Any]) -> Signature[Any]:
        """Call `callback`, with no more arguments, after the first member."""
        if self.tasks:
            self.tasks[0].link(callback.clone().set(immutable=True))
        return callback

    def link_error(self, errback: Signature[Any]) -> Signature[Any]:
        """Call a copy of `errback` for each member that fails."""
        for member in self.tasks:
            member.link_error(errback.clone())
        return errback

    def set_immutable(self, immutable: bool) -> None:
        for member in self.tasks:
            member.set_immutable(immutable)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Let each member begin `step` seconds after the one before, the first after `start`, none after `stop`."""
        countdown = float(start)
        for member in self.tasks:
            member.set(countdown=countdown)
            if stop is None or countdown + step <= stop:
                countdown += step
        return self


def _collapsed(result: GroupResult) -> GroupResult:
    """Of a group of one that is itself a group in the end, that one's."""
    alone = result.results[0] if len(result) == 1 else None
    return alone if isinstance(alone, GroupResult) else result


def as_group(signature: Signature[Any]) -> Signature[Any]:
    """The group that a signature stands for (as `chunks` do); any other comes back as it is."""
    make = getattr(signature, "group", None)
    return make() if callable(make) else signature
