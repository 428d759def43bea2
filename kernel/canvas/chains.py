"""`chain`: tasks one after another, each called with what the one before returned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from kernel import states
from kernel.call import Call
from kernel.canvas.chord import chord
from kernel.canvas.composite import Composite, given_members, members, walk
from kernel.canvas.groups import as_group, group
from kernel.placing import PLACED, Given, Place
from kernel.signature import Signature, as_signatures


class chain(Composite):  # noqa: N801 - Celery's name
    """``chain(a, b, c)`` is ``a | b | c``. Its result is that of the last task; `parent` walks back from there.

    The first task is published; the others travel with it, and each publishes the next when it has ended. `link`
    is called after the last task, `link_error` when any of them fails; then those that come after are FAILURE, too.
    Other options are the first task's, and `task_id` the last's. A group that something comes after is the header of a
    chord with that body.
    """

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        if options or not tasks:
            return dict.__new__(cls)
        folded = _folded(tasks)
        if not isinstance(folded, chain):
            return folded
        # The members may have come from a generator, which `__init__` would find empty.
        made = dict.__new__(cls)
        made._fill(folded, {})
        return made

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if not self:
            self._fill(_folded(tasks) if tasks else None, options)

    def _fill(self, folded: Signature[Any] | None, options: dict[str, Any]) -> None:
        self._app = options.pop("app", None)
        tasks = folded.tasks if _is_bare(folded) else [] if folded is None else [folded]
        self.update(
            task="celery.chain",
            args=(),
            kwargs={"tasks": tasks},
            options=options,
            subtask_type="chain",
            immutable=False,
        )

    # --- making ---------------------------------------------------------------------------------------------

    def steps(self) -> list[Signature[Any]]:
        """Copies of its tasks: chains in it unrolled, groups of one replaced by that one, empty groups left out.

        A group that others come after is a chord with these as its body, and what comes after a chord belongs to its
        body, so that a group or a chord is the last of them.
        """
        found: list[Signature[Any]] = []
        for task in self.tasks:
            found += _unrolled(task)
        for at, step in enumerate(found[:-1]):
            if isinstance(step, group | chord):
                return [*found[:at], _gathered(step, found[at + 1 :])]
        return found

    def freeze_at(self, place: Place) -> Any:
        """Give every task its id; returns the result of the last, None for an empty chain."""
        steps = self.steps()
        self.kwargs["tasks"] = steps
        if not steps:
            return None
        last_id = self.options.setdefault("task_id", place.task_id or place.ids())
        parent: Any = None
        for step in steps[:-1]:
            result = step.freeze_at(place.inside(root_id=place.root_id, parent_id=place.parent_id))
            result.parent, parent = parent, result
            place = place.at(root_id=None, parent_id=None)
        last = steps[-1].freeze_at(place.at(task_id=last_id))
        first = last
        while first is not None and first.parent is not None:
            first = first.parent  # the last step may be a chord, which begins with its header
        if first is not None:
            first.parent = parent
        return last

    def calls_with(self, given: Given) -> Iterable[Call]:
        lineage = given.lineage
        new_args, new_kwargs, new_options = self.merged(given.args, given.kwargs, given.options)
        steps, first_options = self._linked(new_options)
        if not steps:
            return ()
        first, *following = steps
        for step in following:
            for task in walk(step):
                if lineage.reply_to is not None:
                    task.options.setdefault("reply_to", lineage.reply_to)
        # Whoever takes the message reads it from its end.
        rest = [*(first_options.pop("chain", None) or ()), *reversed(following)]
        if rest:
            first_options["chain"] = rest
        return first.calls_with(Given(new_args, self.own_kwargs(new_kwargs), first_options, lineage))

    def _linked(self, options: Mapping[str, Any]) -> tuple[list[Signature[Any]], dict[str, Any]]:
        """Its steps with the links that options give them, and the options of the first."""
        steps = self.steps()
        given = {name: value for name, value in options.items() if name not in PLACED}
        _link(steps, given)
        return steps, given

    # --- running it here ------------------------------------------------------------------------------------

    def apply(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here, task by task, and return the result of the last, or of one that was ignored or rejected.

        Raises the error of a task that others come after.
        """
        made, _ = self._made(options)
        new_args, new_kwargs, new_options = made.merged(args or (), kwargs, options)
        steps, given = made._linked(new_options)
        new_kwargs = made.own_kwargs(new_kwargs)
        last: Any = None
        for step in steps:
            if last is not None:
                value = last.get(disable_sync_subtasks=False)
                new_args, new_kwargs = (value,), {}
                given = {"root_id": given.get("root_id") or steps[0].id, "parent_id": last.id}
            result = step.apply(new_args, new_kwargs, **given)
            result.parent, last = last, result
            if not isinstance(step, group) and result.state in (states.IGNORED, states.REJECTED):
                break
        return last


def join(before: Signature[Any], after: Signature[Any]) -> Signature[Any]:
    """What ``before | after`` is."""
    return _onto(before.clone(), after)


def _folded(tasks: Sequence[Any]) -> Signature[Any]:
    """What the arguments of a chain are, joined to an empty one in turn. Empty groups among them are nothing."""
    made: Signature[Any] = chain()
    for task in map(as_group, members(given_members(tasks), "chain")):
        if not isinstance(task, group) or task.tasks:
            made = _onto(made, task)
    return made


def _onto(before: Signature[Any], after: Signature[Any]) -> Signature[Any]:
    """What ``before | after`` is, made of `before` itself, so that a chain of many is made in linear time."""
    before, after = as_group(before), as_group(after)
    nothing = isinstance(after, group | chain) and not after.tasks
    if isinstance(before, group):
        # Who comes after a group is given a list, and if there is nobody in it, an empty one.
        return before if nothing else chord(before, after.clone(), app=before._app)
    after = _alone(after)
    if isinstance(before, chord) and not isinstance(after, group | chain):
        return _extended(before, after.clone())
    tail = after.clone().tasks if _is_bare(after) else [after.clone()]
    if not isinstance(before, chain):
        joined = chain(app=before._app)
        joined.kwargs["tasks"] = [before, *tail]
        return joined
    if nothing:
        return before
    if not before.tasks and isinstance(after, group):
        return tail[0]
    # Its links are called at the end that it had, and when one of the tasks fails that it had.
    _link(before.tasks, before.options)
    for task in tail:
        _append(before, task)
    return before


def _append(joined: chain, task: Signature[Any]) -> None:
    """Put `task` at the end of a chain: what ends in a group becomes a chord, and a chord takes it into its body."""
    last = joined.tasks[-1] if joined.tasks else None
    if isinstance(task, group) and not task.tasks:
        return
    if isinstance(last, group) and (last.tasks or not isinstance(task, group)):
        joined.tasks[-1] = chord(last, task, app=joined._app)
    elif isinstance(last, chord) and not isinstance(task, chord):
        _extended(last, task)
    else:
        joined.tasks.append(task)


def _link(steps: Sequence[Signature[Any]], options: dict[str, Any]) -> None:
    """Take the links out of the options of a chain, and give them to the tasks that they are for."""
    links, errbacks = as_signatures(options.pop("link", None)), as_signatures(options.pop("link_error", None))
    for step in steps:
        for errback in errbacks:
            step.link_error(errback.clone())
    for link in links if steps else ():
        # A group alone has its links called without a value; at the end of a chain each member is an end.
        for end in _members(steps[-1]):
            end.link(link if end is steps[-1] else link.clone())


def _members(step: Signature[Any]) -> Iterator[Signature[Any]]:
    """The signature itself; of a group its members, and theirs."""
    if not isinstance(step, group):
        yield step
        return
    for member in step.tasks:
        yield from _members(member)


def _extended(whole: chord, task: Signature[Any]) -> chord:
    """The chord itself, with `task` at the end of its body."""
    whole.body = task if whole.body is None else _onto(whole.body, task)
    return whole


def _gathered(step: Signature[Any], rest: list[Signature[Any]]) -> chord:
    """The chord that a group or a chord is with what comes after it."""
    if isinstance(step, chord):
        made = step
        rest = [task for task in (made.body, *rest) if task is not None]
    else:
        made = chord(step, app=step._app)
    if len(rest) > 1:
        body = chain(app=step._app)
        body.kwargs["tasks"] = rest
        made.body = body
    else:
        made.body = rest[0]
    return made


def _is_bare(signature: Signature[Any] | None) -> TypeGuard[chain]:
    """Whether it is a chain whose tasks alone are all there is to it."""
    return isinstance(signature, chain) and not (signature.args or signature.options or signature.immutable)


def _alone(signature: Signature[Any]) -> Signature[Any]:
    """The member of a group of one."""
    while isinstance(signature, group):
        flat = signature.spread()
        if len(flat) != 1:
            break
        signature = flat[0]
    return signature


def _unrolled(task: Signature[Any]) -> list[Signature[Any]]:
    """The steps that a task of a chain is."""
    if isinstance(task, chain):
        options = {name: value for name, value in task.options.items() if name not in PLACED}
        steps, given = task._linked(options)
        if steps:
            steps[0] = steps[0].clone(task.args, task.own_kwargs(task.kwargs), **given)
            if task.immutable:
                steps[0].set_immutable(True)
        return steps
    task = as_group(task)
    if isinstance(task, group):
        alone = _alone(task)
        if alone is not task:
            return _unrolled(alone)
        return [task.clone()] if task.tasks else []
    return [task.clone()]
