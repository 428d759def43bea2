"""What a task is replaced with: a signature that has the task's id and all that was to come after it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from kernel import errors
from kernel.canvas.chains import chain
from kernel.canvas.checks import Check
from kernel.canvas.chord import leaves
from kernel.canvas.groups import as_group, group
from kernel.canvas.maps import ACCUMULATE
from kernel.naming import derive_id, new_id
from kernel.placing import Place
from kernel.signature import Signature, as_signatures, maybe_signature

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.request import Request


def replacement(app: Kernel, request: Request, given: Any) -> Signature[Any]:
    """A copy of `given` that takes the place of the task of `request`: frozen with its id (a chain's last task gets
    it), with its group, chord and root, its links, and what is left of its chain.

    A group, and a chain that ends in one, is made a chord, so that one value comes of it. Run eagerly, links and chain
    stay with the task, which returns what the replacement returned. Raises `ImproperlyConfigured` for what cannot
    replace a task, and TypeError for what is no signature.
    """
    made = as_one_value(app, request, given)
    nesting = (request.replaced_task_nesting or 0) + 1
    _unfreeze(made)
    for member in made.walk():
        member.options["replaced_task_nesting"] = nesting
        # Whoever waits for the task waits for what replaces it, and not whoever froze that.
        member.options.pop("reply_to", None)
    own_id, root_id = request.id, request.root_id or request.id
    if request.is_eager:
        made.freeze_at(Place(task_id=own_id, root_id=root_id, parent_id=request.parent_id))
        return made
    for callback in as_signatures(request.callbacks, app):
        made.link(callback)
    for errback in as_signatures(request.errbacks, app):
        made.link_error(errback)
    made.freeze_at(
        Place(
            task_id=own_id,
            group_id=request.group,
            chord=request.chord,
            root_id=root_id,
            parent_id=request.parent_id,
            group_index=request.group_index,
            more={"replaced_task_nesting": nesting},
            ids=_ids(request, nesting),
        )
    )
    if request.chord:
        for leaf in leaves(made):
            # The body waits for its value.
            leaf.options["ignore_result"] = False
    if request.chain:
        following = [step.set(replaced_task_nesting=nesting) for step in as_signatures(request.chain, app)]
        # The next one is at the end: what the replacement brought itself comes first.
        made.options["chain"] = [*following, *(made.options.get("chain") or ())]
    # While the task still runs: what is wrong with it belongs into its traceback.
    Check(app).signature(made)
    return made


def as_one_value(app: Kernel, request: Request, given: Any) -> Signature[Any]:
    """A copy of `given`; with a group at its end, a chord that gives the list of its values. Raises what
    `replacement` does."""
    app.add_builtin_tasks()
    return _one_value(app, request, _copied(app, given))


def _copied(app: Kernel, given: Any) -> Signature[Any]:
    found = maybe_signature(given, app)
    if not isinstance(found, Signature):
        raise TypeError(f"a task is replaced with a signature, such as task.s(); got {given!r:.80}")
    if found.options.get("chord") is not None:
        raise errors.ImproperlyConfigured(
            f"{found.task!r} cannot replace a task: it has a chord of its own, and takes that of the task. "
            "Give the body as a part of the signature, as in chord(header, body) or group | body"
        )
    if isinstance(found, chain) and not found.tasks:
        raise errors.ImproperlyConfigured("a task cannot be replaced with an empty chain: nothing would have its id")
    made = as_group(found).clone()
    made._app = made._app or app
    return made


def _one_value(app: Kernel, request: Request, made: Signature[Any]) -> Signature[Any]:
    if isinstance(made, group) and not made.tasks:
        return _accumulate(app, request, [])
    if not _ends_in_group(made):
        return made
    joined = made | _accumulate(app, request)
    joined._app = joined._app or app
    return joined


def _accumulate(app: Kernel, request: Request, *values: Any) -> Signature[Any]:
    # Where the task itself was claimed, somebody runs what this app's publishes.
    options = {"queue": request.queue} if request.queue else {}
    return Signature(ACCUMULATE, values, {"index": 0}, options, app=app)


def _ends_in_group(signature: Signature[Any]) -> bool:
    if isinstance(signature, chain):
        return bool(signature.tasks) and _ends_in_group(signature.tasks[-1])
    return isinstance(signature, group)


def _unfreeze(signature: Signature[Any]) -> None:
    """Take away the id of the part that is to have the task's."""
    signature.options.pop("task_id", None)
    body = signature.kwargs.get("body") if signature.composite else None
    if isinstance(body, Signature):
        _unfreeze(body)
    elif isinstance(signature, chain):
        _unfreeze(signature.tasks[-1])


def _ids(request: Request, nesting: int) -> Callable[[], str]:
    """The ids of its parts: the same when the task is run again, as it is when nobody knows that it ended."""
    if request.id is None:
        return new_id
    numbers, parent = count(), request.id
    return lambda: derive_id(parent, f"replacement:{request.attempt}:{nesting}", next(numbers))
