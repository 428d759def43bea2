"""`chord`: a group whose results one more task is called with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from kernel import errors, states
from kernel.call import Call
from kernel.canvas.composite import Composite, members, walk
from kernel.canvas.groups import as_group, group
from kernel.groupresult import GroupResult
from kernel.options import ROUTED, SENDING
from kernel.placing import PLACED, Given, Lineage, Place
from kernel.results.eager import as_exception
from kernel.results.gathering import leaves as result_leaves
from kernel.signature import Signature, as_signatures, maybe_signature

if TYPE_CHECKING:
    from typing import Self

    from kernel.app import Kernel
    from kernel.interfaces.backend import Announcing

_log: Final = logging.getLogger("kernel")

CHORD: Final = "celery.chord"
SHAPE: Final = "kernel_shape"
"""Where the body of a chord says which of its parts belong together (see `shape_of`)."""

_PARTS: Final = ("header", "body", "kwargs")
# When the header begins and how it is sent is not how that is with the body; and what says whose place a call takes is
# placed by `freeze`.
_HEADER_ALONE: Final = frozenset({"countdown", "eta", "result_cls", *SENDING, *ROUTED, *PLACED})
_BODY_ALONE: Final = frozenset({"link", "link_error", "chain", *PLACED})


class chord(Composite):  # noqa: N801 - Celery's name
    """``chord(header, body)``, or ``chord(header)(body)``: `body` is called with the list of what the members of
    `header` returned, in their order.

    Its result is that of the body, whose `parent` is the `GroupResult` of the header. The body runs once, under an id
    that is fixed when the chord is made. It does not run when a member fails: then its result is a `ChordError`, and
    so are those of all that was to follow. Arguments that a chord is called with are given to the members; `link` and
    `link_error` are the body's. An empty header means that the body is called with an empty list.
    """

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = CHORD,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Kernel | None = None,
        **options: Any,
    ) -> None:
        dict.__init__(
            self,
            task=task,
            args=tuple(args or ()),
            kwargs={"kwargs": {}, **(kwargs or {}), "header": header, "body": body},
            options=options,
            subtask_type="chord",
            immutable=False,
        )
        self._app = app
        self._read()

    # --- what it says ---------------------------------------------------------------------------------------

    @property
    def header(self) -> group:
        """The group that it waits for."""
        header: group = self.kwargs["header"]
        return header

    @property
    def tasks(self) -> list[Signature[Any]]:
        """The members of the header."""
        return self.header.tasks

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self.kwargs["header"] = _as_header(tasks, self._app)

    @property
    def body(self) -> Signature[Any] | None:
        """What is called with the results; None for a chord that has yet to be given one."""
        body: Signature[Any] | None = self.kwargs["body"]
        return body

    @body.setter
    def body(self, body: Any) -> None:
        self.kwargs["body"] = None if body is None else as_group(members([body], "chord", self._app)[0])

    def known_app(self) -> Kernel | None:
        """Its own app, or that of the first member that has one, or of its body."""
        found = super().known_app()
        return found if found is not None or self.body is None else self.body.known_app()

    def __len__(self) -> int:
        return len(parts_of(self.tasks))

    def __bool__(self) -> bool:
        return True

    def _read(self) -> None:
        self.kwargs["header"] = _as_header(self.kwargs.get("header"), self._app)
        self.body = self.kwargs.get("body")

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy in which the given parts are replaced. Its header and its body are copies, too."""
        given = dict(self.kwargs if kwargs is None else kwargs)
        given["header"] = _as_header(given["header"], self._app).clone()
        body = maybe_signature(given.get("body"), self._app)
        given["body"] = body.clone() if isinstance(body, Signature) else body
        return Signature.replace(self, args, given, options)

    def own_kwargs(self, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
        given = dict(kwargs or {})
        stored = given.get("kwargs") or {}
        return {**stored, **{name: value for name, value in given.items() if name not in _PARTS}}

    def ids(self) -> list[str]:
        return self.header.ids() + ([] if self.body is None else self.body.ids())

    # --- making ---------------------------------------------------------------------------------------------

    def freeze_at(self, place: Place) -> Any:
        """Give the body its id, which is `task_id`, and all others theirs; returns the body's result."""
        body = self._whole()
        if self.header._app is None:
            self.header._app = self.app  # an empty one has no member that would say
        own_id = place.task_id
        if self.header.id is None:
            own_id = own_id or self.id
        before = self.header.freeze_at(place.inside(root_id=place.root_id, parent_id=place.parent_id))
        # Where Celery has it: it reads the header as a mere list.
        own = self.options["task_id"] = before.id
        for index, leaf in enumerate(parts_of(self.tasks)):
            # Groups at the ends of members have ids of their own, and yet their members are parts of this.
            leaf.options.update(group_id=own, group_index=index)
        result = body.freeze_at(place.at(task_id=own_id, parent_id=None))
        first = result
        while first is not None and first.parent is not None:
            first = first.parent
        if first is not None:
            first.parent = before
        return result

    def calls_with(self, given: Given) -> Iterable[Call]:
        new_args, new_kwargs, new_options = self.merged(given.args, given.kwargs, given.options)
        body = self._called_back(new_options, given.lineage)
        found = parts_of(self.tasks)
        if not found:
            return body.calls_with(Given(([],), {}, {"group_id": self.header.id}, given.lineage))
        check_chord(self.app, body, found)
        body["chord_size"] = len(found)
        shape = shape_of(self.tasks)
        if shape is not None:
            body[SHAPE] = shape
        options = {name: value for name, value in new_options.items() if name not in _BODY_ALONE}
        callback = as_data(body)
        announce(self.app, self.header, len(found), nested=shape is not None)
        inside = Given(new_args, self.own_kwargs(new_kwargs), options, given.lineage)
        part = inside.at(options={**options, "chord": callback})
        # One that is a part itself is told so with the call, and need not be copied for that.
        own = ((placed(member, callback), inside) if member.composite else (member, part) for member in self.tasks)
        return (call for member, with_it in own for call in member.calls_with(with_it))

    def _whole(self) -> Signature[Any]:
        """Its body. Raises TypeError where there is none."""
        body = self.body
        if body is None:
            raise TypeError("this chord has no body yet: call it with one, as in chord(header)(body)")
        return body

    def _outer_copy(self) -> Self:
        if type(self) is not chord:
            return self.clone()
        body = self.body
        parts = {"header": self.header._outer_copy(), "body": None if body is None else body.clone()}
        return Signature.replace(self, None, {**self.kwargs, **parts})

    def _ignore(self, ignored: bool) -> None:
        # Those of the members are parts, and always kept.
        self._whole().options["ignore_result"] = ignored

    def _called_back(self, options: Mapping[str, Any], lineage: Lineage) -> Signature[Any]:
        """A copy of the body with what options mean for it."""
        body = self._whole().clone()
        for link in as_signatures(options.get("link")):
            body.link(link.clone())
        for errback in as_signatures(options.get("link_error")):
            body.link_error(errback.clone())
        given = {name: value for name, value in options.items() if name not in _HEADER_ALONE | {"link", "link_error"}}
        body.options.update(given)
        if lineage.reply_to is not None:
            for task in walk(body):
                task.options.setdefault("reply_to", lineage.reply_to)
        return body

    # --- calling --------------------------------------------------------------------------------------------

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Publish it, with this body if it has none yet."""
        return self.apply_async((), {} if body is None else {"body": body}, **options)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Publish the header, which takes the body with it. `kwargs` may bring the body.

        Raises NotImplementedError where the backend cannot join results or there is none, and `InvalidTaskError` for
        a member whose result is ignored; then nothing is published.
        """
        return Composite.apply_async(*self._given(args, kwargs), **options)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        return await Composite.aapply_async(*self._given(args, kwargs), **options)

    def _given(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[Self, Sequence[Any] | None, Mapping[str, Any] | None]:
        if not kwargs or "body" not in kwargs:
            return self, args, kwargs
        made = self.of_data({**self, "kwargs": {**self.kwargs, "body": kwargs["body"]}}, self._app)
        return made, args, {name: value for name, value in kwargs.items() if name != "body"}

    # --- running it here ------------------------------------------------------------------------------------

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the header here, member by member, and then the body. Raises the error of a member."""
        whole, args, kwargs = self._given(args, kwargs)
        made, _ = whole._made(options)
        new_args, new_kwargs, new_options = made.merged(args or (), kwargs, options)
        body = made._called_back(new_options, Lineage())
        given = {name: value for name, value in new_options.items() if name not in _BODY_ALONE}
        lineage = {name: options[name] for name in ("root_id", "parent_id") if options.get(name) is not None}
        before = made.header.gather(new_args, made.own_kwargs(new_kwargs), **given, **lineage)
        _check_values(before)
        values = before.get(disable_sync_subtasks=False)
        run = body.gather if isinstance(body, group) else body.apply
        result: Any = run((values,), {}, **lineage)
        first = result
        while first is not None and first.parent is not None:
            first = first.parent
        if first is not None:
            first.parent = before
        return result

    # --- changing its parts ---------------------------------------------------------------------------------

    def link(self, callback: Signature[Any]) -> Signature[Any]:
        """Call `callback` with what the body returns."""
        self._whole().link(callback)
        return callback

    def link_error(self, errback: Signature[Any]) -> Signature[Any]:
        """Call `errback` when the body fails, or cannot run because a member has failed; for each member that fails,
        too, where `task_allow_error_cb_on_chord_header` is set."""
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for member in self.tasks:
                member.link_error(errback.clone().set(immutable=True))
        self._whole().link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Of the members; the body always takes the results, unless it is immutable itself."""
        for member in self.tasks:
            member.set_immutable(immutable)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        return f"chord({self.header!r}, {self.body!r})"


def dependency_error(task_id: str, error: BaseException) -> errors.ChordError:
    """Why a chord has no value: its member `task_id` ended with `error`."""
    broken = errors.ChordError(f"Dependency {task_id} raised {error!r}")
    broken.__cause__ = error
    return broken


def no_part() -> errors.Ignore:
    """What a member that was ignored broke its chord with."""
    return errors.Ignore("a task in the header of a chord that ends without a value")


# --- members and what they end in ---------------------------------------------------------------------------


def leaves(signature: Signature[Any]) -> Iterator[Signature[Any]]:
    """The tasks whose results are what a member of a header results in."""
    if isinstance(signature, chord):
        if signature.body is not None:
            yield from leaves(signature.body)
    elif isinstance(signature, group):
        for task in signature.tasks:
            yield from leaves(task)
    elif isinstance(signature, Composite):
        for task in reversed(signature.tasks):
            found = list(leaves(task))
            if found:
                yield from found
                return
    else:
        yield signature


def parts_of(members: Iterable[Signature[Any]]) -> list[Signature[Any]]:
    """The `leaves` of all these, in order."""
    found: list[Signature[Any]] = []
    for member in members:
        if member.composite:
            found += leaves(member)
        else:
            found.append(member)
    return found


def shape_of(members: Iterable[Signature[Any]]) -> list[Any] | None:
    """How the values of members are nested, since one that ends in a group gives a list: runs of ``[times, shape]``,
    the shape of a single value being None. None for a header of nothing but those."""
    runs: list[Any] = []
    for member in members:
        if not member.composite and runs and runs[-1][1] is None:
            runs[-1][0] += 1
            continue
        for shape in _shapes(member):
            if runs and runs[-1][1] == shape:
                runs[-1][0] += 1
            else:
                runs.append([1, shape])
    return None if all(shape is None for _, shape in runs) else runs


def _shapes(member: Signature[Any]) -> list[Any]:
    if isinstance(member, chord):
        return [] if member.body is None else _shapes(member.body)
    if isinstance(member, group):
        inner = shape_of(member.tasks)
        return [[[sum(1 for _ in leaves(member)), None]] if inner is None else inner]
    if isinstance(member, Composite):
        for task in reversed(member.tasks):
            if any(True for _ in leaves(task)):
                return _shapes(task)
        return []
    return [None]


def shaped(values: Iterable[Any], shape: Sequence[Any] | None) -> list[Any]:
    """The values of the parts, nested as `shape` says. Raises ValueError when it is for another number of them."""
    flat = iter(values)
    if shape is None:
        return list(flat)
    try:
        found = _nested(flat, shape)
    except StopIteration:
        raise ValueError("the shape of a chord is for more parts than it has") from None
    if any(True for _ in flat):
        raise ValueError("the shape of a chord is for fewer parts than it has")
    return found


def _nested(flat: Iterator[Any], shape: Sequence[Any]) -> list[Any]:
    return [next(flat) if inner is None else _nested(flat, inner) for times, inner in shape for _ in range(times)]


def placed(signature: Signature[Any], body: Mapping[str, Any]) -> Signature[Any]:
    """A copy of a frozen member whose leaves are parts of the chord that `body` ends. What is not changed is shared."""
    if isinstance(signature, chord):
        whole = signature.body
        changed: dict[str, Any] = {"body": None if whole is None else placed(whole, body)}
    elif isinstance(signature, group):
        changed = {"tasks": [placed(task, body) for task in signature.tasks]}
    elif isinstance(signature, Composite):
        changed = {"tasks": [*signature.tasks[:-1], *(placed(task, body) for task in signature.tasks[-1:])]}
    else:
        return signature.of_data({**signature, "options": {**signature.options, "chord": body}}, signature._app)
    return signature.of_data({**signature, "kwargs": {**signature.kwargs, **changed}}, signature._app)


def as_data(value: Any) -> Any:
    """A signature, and all signatures in it, as plain dictionaries."""
    if isinstance(value, Mapping):
        return {key: as_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(item) for item in value]
    return value


def check_chord(app: Kernel, body: Signature[Any], parts: Sequence[Signature[Any]]) -> None:
    """Raises NotImplementedError for a backend that joins nothing, and `InvalidTaskError` for a part whose result is
    not kept."""
    if app.opened.joins is None:
        name = "no result backend is configured" if app.backend_url is None else "this result backend has no chords"
        raise NotImplementedError(
            f"the chord with the body {body.task!r} cannot be joined: {name}. Set result_backend to one that has them, "
            "such as db+sqlite:///results.sqlite or redis://"
        )
    ignored: dict[str, bool] = {}
    for part in parts:
        own = part.options.get("ignore_result")
        if own is None:
            own = ignored.get(part.task)
            if own is None:
                task = app.tasks.get(part.task)
                own = ignored[part.task] = task is not None and bool(task.ignore_result)
        if own:
            raise errors.InvalidTaskError(
                f"the task {part.task!r} in the header of a chord ignores its result, which the body "
                f"{body.task!r} is to be called with: give it .set(ignore_result=False)"
            )


def announce(app: Kernel, header: group, size: int, *, nested: bool) -> None:
    """Tell workers of Celery, where there may be some, how many parts there will be, and how their values are `nested`.
    Ours are told by each part, so a backend that is away is no reason not to publish."""
    capabilities = app.opened.joins
    if capabilities is None or not capabilities.foreign_chords:
        return
    try:
        cast("Announcing", app.backend).chord_begins(str(header.id), size)
        if nested:
            results: GroupResult = header.freeze_at(Place())
            results.save()
    except (errors.OperationalError, errors.BackendError) as exc:
        _log.warning("workers of Celery cannot complete the chord %s: its size cannot be stored: %s", header.id, exc)


def _check_values(header: GroupResult) -> None:
    """Raises `ChordError` for a member that ran here and has neither a value nor an error."""
    for leaf in result_leaves(header.results):
        if leaf.state == states.IGNORED:
            raise dependency_error(leaf.id, no_part())
        if leaf.state == states.REJECTED:
            raise dependency_error(leaf.id, as_exception(leaf.result))


def _as_header(header: Any, app: Kernel | None) -> group:
    """The group that a header means. Raises `InvalidTaskError`."""
    if isinstance(header, Mapping) and not isinstance(header, Signature):
        header = maybe_signature(header, app)
    if isinstance(header, Signature):
        header = as_group(header)
        if isinstance(header, group):
            return header
        if isinstance(header, Composite) and not isinstance(header, chord):
            return group(header.tasks, app=app)
        return group([header], app=app)
    if isinstance(header, str | bytes) or not isinstance(header, Iterable):
        raise errors.InvalidTaskError(f"the header of a chord is a list of signatures; got {header!r:.80}")
    return group(header, app=app)
