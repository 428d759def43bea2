"""What the end of a task means for the chord that it is a part of: a part more, or none any more.

A success brings its part (`joining`); whoever brings the last of them publishes the body, under the id that it was
given when the chord was made. A failure breaks the chord (`breaking`): the body's record is FAILURE at once, and
whoever stored that one calls its errbacks, fails what was to follow, and breaks the chord that the body is in in turn.
All of it can be done again by whoever gets the message again, and comes out the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from kernel import errors, failure, states
from kernel.canvas.chord import SHAPE, dependency_error, leaves, shaped
from kernel.canvas.chord import chord as chord_type
from kernel.canvas.composite import Composite
from kernel.canvas.groups import group
from kernel.canvas.growing import ADDED
from kernel.interfaces.backend import ChordPart, Record
from kernel.interfaces.outcome import Outcome
from kernel.message import Publication
from kernel.naming import new_id
from kernel.request import Request
from kernel.signature import Signature, as_signatures
from kernel.worker.assignment import Break, Followed, Join
from kernel.worker.running.life import Life
from kernel.worker.running.recording import encode_error, unreached
from kernel.worker.running.successors import as_signature, errbacks_of, successors, tasks_of

_log: Final = logging.getLogger("kernel.worker")


def joining(life: Life, record: Record, *, again: bool) -> Join | None:
    """The part that a success, whose record this is, brings to its chord; None when it is in none, and where whoever
    made the chord finds out by itself."""
    request = life.request
    if request.chord is None or not request.group or not life.has_backend:
        return None
    capabilities, added = life.app.opened.joins, bool(request.chord.get(ADDED))
    size, index = request.chord.get("chord_size"), request.group_index
    if size is None and capabilities is not None:
        # Made by Celery: with its other backends a task of its own looks for the results.
        if not capabilities.foreign_chords:
            return None
        size, index = 0, -1 if index is None else index
    elif capabilities is None or not isinstance(size, int) or not isinstance(index, int) or not _in(index, size, added):
        _log.error(
            "task %s[%s] is in the chord %s, and cannot be a part of it: its index is %.40r, the chord's size %.40r, "
            "and the result backend has %s chords",
            *(life.name, life.id, request.group, index, size, "no" if capabilities is None else "such"),
        )
        return None
    part = Record(
        id=record.id,
        state=record.state,
        result=record.result,
        content_type=record.content_type,
        content_encoding=record.content_encoding,
        attempt=record.attempt,
    )
    # A retry does not say whether the run that asked for it was the first.
    before = again or request.retries > 0
    return Join(
        ChordPart(request.group, size, index, part, added, before),
        partial(_completed, life, request.chord, again),
        partial(_not_published, life, request.chord, again),
        here=life.assignment.joined,
    )


def _in(index: int, size: int, added: bool) -> bool:
    return index >= size if added else 0 <= index < size


def breaking(life: Life, error: BaseException, *, again: bool) -> Sequence[Break]:
    """What a failure does to its chord, to that which the rest of its chain is in, and to those around it."""
    if not life.has_backend:
        return ()
    try:
        body, member = life.request.chord, life.id
        if not body:
            body, member = _chord_of(life, life.request.chain)
        return _broken(life, body, member, error, again=again) if body else ()
    except errors.InvalidTaskError:
        _log.exception("the chord of task %s[%s] cannot be told that it failed", life.name, life.id)
        return ()


# --- all parts are there ------------------------------------------------------------------------------------


def _completed(life: Life, body: Any, again: bool, parts: Sequence[Record]) -> Followed:
    """The body's publication; its failure where it cannot be made."""
    try:
        for part in parts:
            if part.state != states.SUCCESS:  # of a worker of Celery
                return _failed(life, body, dependency_error(part.id, _error_of(life, part)), again=again)
        values = _values(life, body, parts)
    except Exception as exc:
        return _failed(life, body, errors.ChordError(f"Join error: {exc!r}"), again=again)
    try:
        signature = as_signature(life, body)
        calls = successors(life, signature, (values,), _body_id(life, signature), again=again)
        if len(calls) == 1:
            # What is called with the values of a group knows which one that was, as with Celery.
            calls[0].options = {"group_id": str(life.request.group), **calls[0].options}
        publications = [life.app.publisher.prepare(call) for call in calls]
    except Exception as exc:
        return _not_published(life, body, again, exc)
    attempt = max((part.attempt for part in parts), default=0)
    for publication in publications if attempt else ():
        # A member was replayed from the dead letters: the record of that run replaces what its first end left.
        publication.message = publication.message.replace_headers(kernel_replay=attempt)
    mark = partial(_mark_copies, life, body, publications)
    if life.again:
        # An earlier run may have published it apart from its settlement: then this is one copy more, however it goes.
        mark()
    return Followed((), publications, _own_chord(life, body), mark)


def _mark_copies(life: Life, body: Any, publications: Sequence[Publication]) -> None:
    """Whoever gets this end again publishes the body again, where that is not settled with the end: the copies are told
    apart, and the first that begins runs."""
    changes: dict[str, Any] = {"kernel_chord": life.request.group, "kernel_copy": new_id()}
    # Of several, some might not be published yet when the first of them runs.
    alone = len(publications) == 1 and _own_chord(life, body)
    for number, publication in enumerate(publications):
        which = {} if alone else {"kernel_body_task": number}
        publication.message = publication.message.replace_headers(**changes, **which)


def _own_chord(life: Life, body: Any) -> str:
    """The id of a chord that is ours to forget; of one that Celery made, the parts are Celery's to delete."""
    return str(life.request.group) if body.get("chord_size") is not None else ""


def _values(life: Life, body: Any, parts: Sequence[Record]) -> list[Any]:
    """What the parts are worth, nested as the members are. Raises what decoding raises, and ValueError."""
    decode = life.app.codecs.decode_result
    values = [decode(part.result, part.content_type, part.content_encoding) for part in parts]
    size = body.get("chord_size")
    if size is not None:
        # Behind those that it was made of come those that were added.
        return [*shaped(values[:size], body.get(SHAPE)), *values[size:]]
    # Celery keeps a document of a header that is nested, and indexes within that.
    document = life.app.backend.load_group(str(life.request.group))
    if document is None:
        return values
    found = json.loads(document)
    known = dict(zip([part.id for part in parts], values, strict=True))
    return list(_of_tree(found["result"] if isinstance(found, Mapping) else found, known))


def _of_tree(node: Any, known: Mapping[str, Any]) -> Any:
    """The values of a result as a tuple: ``[[id, parent], members]``, where a single one has no members."""
    (task_id, _), members = node
    return known[task_id] if members is None else [_of_tree(member, known) for member in members]


def _error_of(life: Life, part: Record) -> BaseException:
    data = life.app.codecs.decode_result(part.result, part.content_type, part.content_encoding)
    return failure.decode_exception(data)


def _body_id(life: Life, body: Signature[Any]) -> str:
    first = next(iter(tasks_of(life, [body])), None)
    found = None if first is None else first.id
    if body.id:
        return body.id
    return found or str(life.request.group)


def _not_published(life: Life, body: Any, again: bool, error: BaseException) -> Followed:
    return _failed(life, body, errors.ChordError(f"Callback error: {error!r}"), again=again)


def _failed(life: Life, body: Any, error: errors.ChordError, *, again: bool) -> Followed:
    """All records and errbacks of a chord whose parts are there and whose body cannot run."""
    _log.error("the chord %s ends with its parts: %s", life.request.group, error)
    records: list[Record] = []
    publications: list[Publication] = []
    for level in _levels(life, body, error, again=again):
        records.append(level.guard)
        found = level.follow()
        records += found.records
        publications += found.publications
    return Followed(records, publications, _own_chord(life, body))


# --- a part will not come -----------------------------------------------------------------------------------


def _chord_of(life: Life, chain: Any) -> tuple[Any, str]:
    """The body of the chord that the end of a chain is a part of, and the id of that part."""
    if chain:
        for leaf in leaves(as_signature(life, chain[0])):
            if leaf.options.get("chord"):
                return leaf.options["chord"], str(leaf.id)
            return _chord_of(life, leaf.options.get("chain"))
    return None, ""


def _broken(life: Life, body: Any, task_id: str, error: BaseException, *, again: bool) -> list[Break]:
    return _levels(life, body, dependency_error(task_id, error), again=again)


def _levels(life: Life, body: Any, error: errors.ChordError, *, again: bool) -> list[Break]:
    """For the body, and for that of each chord that it is in, what its failure is."""
    tasks = list(tasks_of(life, [body]))
    ids = [task for task in tasks if isinstance(task.id, str)]
    if not ids:
        return []
    signature = as_signature(life, body)
    # Nobody waits for the members of a group as for a chord: they are told what the member was, as Celery has it.
    shown = error.__cause__ or error if isinstance(signature, group) else error
    data = encode_error(life.app, shown)
    first, *others = ids
    guard = unreached(life, str(first.id), data, reply_to=first.options.get("reply_to"))
    found = [Break(guard, partial(_follow, life, body, first, others, shown, data, again))]
    outer, member = _chord_of(life, [signature])
    if not outer:
        outer, member = _chord_of(life, signature.options.get("chain"))
    if outer:
        found += _broken(life, outer, member, shown, again=again)
    return found


def _follow(
    life: Life,
    body: Any,
    first: Signature[Any],
    others: Sequence[Signature[Any]],
    error: BaseException,
    data: tuple[bytes, str, str],
    again: bool,
) -> Followed:
    """What goes with the body's own record: those of all that would have come of it, and its errbacks."""
    records = [unreached(life, str(task.id), data, reply_to=task.options.get("reply_to")) for task in others]
    request = Request(
        app=life.app,
        id=first.id,
        task=first.task,
        root_id=life.request.root_id or life.id,
        parent_id=life.id,
        hostname=life.hostname,
        called_directly=False,
    )
    links = errbacks_in(as_signature(life, body))
    outcome = Outcome(states.FAILURE, error=error)
    return Followed(records, errbacks_of(life, request, links, outcome, again=again))


def errbacks_in(signature: Signature[Any]) -> list[Signature[Any]]:
    """The errbacks of a body that cannot run, each once: its own, and those of the tasks that it begins with."""
    found = as_signatures(signature.options.get("link_error"), signature._app)
    parts: Sequence[Signature[Any]] = ()
    if isinstance(signature, chord_type):
        parts = () if signature.body is None else (signature.body,)
    elif isinstance(signature, group):
        parts = signature.tasks
    elif isinstance(signature, Composite):
        parts = signature.tasks[:1]
    for part in parts:
        found += [errback for errback in errbacks_in(part) if errback not in found]
    return found
