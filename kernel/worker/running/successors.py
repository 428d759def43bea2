"""What is published after an end: links, the rest of a chain, error links."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final

from kernel import errors
from kernel.attempt import call_errback, takes_request
from kernel.call import Call
from kernel.canvas.composite import walk
from kernel.canvas.groups import as_group
from kernel.interfaces.outcome import Outcome
from kernel.message import Publication
from kernel.naming import derive_id
from kernel.request import Request
from kernel.signature import Lineage, Place, Signature, maybe_signature
from kernel.worker.running.life import Life

_log: Final = logging.getLogger("kernel.worker")


def callbacks(life: Life, value: Any, *, again: bool) -> list[Publication]:
    """The links of a success, and the next task of its chain. Raises what `prepare` raises."""
    request = life.request
    calls: list[Call] = []
    for number, item in enumerate(request.callbacks or ()):
        calls += successors(life, item, (value,), derive_id(life.id, "link", number), again=again)
    if request.chain:
        *rest, following = request.chain
        calls += successors(life, following, (value,), derive_id(life.id, "chain", 0), again=again, chain=rest or None)
    prepare = life.app.publisher.prepare
    # What is lent may be all that is run next, and here.
    after = life.assignment.message if life.assignment.lent is not None and len(calls) == 1 else None
    return [prepare(call, after=after) for call in calls]


def errbacks(life: Life, outcome: Outcome, *, again: bool) -> list[Publication]:
    """The error links of a failure: those that take the request are called here, the others are published."""
    return errbacks_of(life, life.request, life.request.errbacks or (), outcome, again=again)


def errbacks_of(
    life: Life, request: Request, links: Sequence[Any], outcome: Outcome, *, again: bool
) -> list[Publication]:
    """The same for the task of `request`, which may be another one that fails because of this."""
    publications: list[Publication] = []
    task_id = request.id or ""
    for number, item in enumerate(links):
        try:
            errback = as_signature(life, item)
            if takes_request(life.app, errback):
                call_errback(errback, request, outcome, loops=life.loops)
            else:
                calls = successors(life, errback, (task_id,), derive_id(task_id, "errback", number), again=again)
                publications += [life.app.publisher.prepare(call) for call in calls]
        except Exception:
            _log.exception("an errback of task %s[%s] cannot be called: %.200r", request.task, task_id, item)
    return publications


def successors(life: Life, item: Any, args: Sequence[Any], task_id: str, *, again: bool, **options: Any) -> list[Call]:
    """What to publish for a link: one call, or those that a canvas begins with. It is the task `task_id` unless it has
    an id of its own; all ids are the same whenever they are worked out again."""
    request = life.request
    signature = as_signature(life, item)
    root_id = request.root_id or life.id
    if not signature.composite:
        return [
            Call.from_signature(
                signature,
                args,
                task_id=task_id,
                root_id=root_id,
                parent_id=life.id,
                redelivered=again,
                **options,
            )
        ]
    numbers = count()
    made = as_group(signature).clone()
    made.freeze_at(Place(task_id=task_id, ids=lambda: derive_id(task_id, "canvas", next(numbers))))
    lineage = Lineage(root_id=root_id, parent_id=life.id, reply_to=request.reply_to or None, redelivered=again)
    return made.calls(args, {}, options, lineage=lineage)


def as_signature(life: Life, item: Any) -> Signature[Any]:
    """Raises `InvalidTaskError`."""
    signature = maybe_signature(item, life.app)
    if not isinstance(signature, Signature):
        raise errors.InvalidTaskError(f"a link is {item!r:.80}; a signature is needed")
    return signature


def tasks_of(life: Life, items: Sequence[Any]) -> Iterator[Signature[Any]]:
    """All tasks that would come of these signatures, and of what follows them in chains. What is no signature is
    passed over."""
    for item in items:
        try:
            signature = as_signature(life, item)
        except errors.InvalidTaskError:
            continue
        for task in walk(signature):
            yield task
            yield from tasks_of(life, task.options.get("chain") or ())
        if signature.composite:
            yield from tasks_of(life, signature.options.get("chain") or ())
