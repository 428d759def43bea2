"""`Task.add_to_chord`: one more member for the chord that the running task is a member of."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final, NoReturn

from kernel.canvas.checks import Check
from kernel.canvas.chord import leaves
from kernel.canvas.replacing import as_one_value
from kernel.interfaces.backend import Growing
from kernel.naming import derive_id
from kernel.placing import Lineage, Place
from kernel.signature import Signature

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.request import Request

ADDED: Final = "kernel_added"
"""In the body of a chord, as messages of members that were added to it carry it."""

_MOST: Final = 1 << 31


def grown(app: Kernel, request: Request, given: Any) -> tuple[Signature[Any], Any]:
    """A copy of `given`, frozen as a member of the chord of `request`, which waits for it from now on; and its result.

    Raises ValueError outside of a chord, and NotImplementedError where the chord cannot grow.
    """
    size, index = _place(app, request)
    number = request.chord_additions
    # The same for a run that is repeated, since nobody knows of the first; others for a retry, which decides anew.
    own = _member(size, index, request.retries, number)
    own_id, numbers = derive_id(request.id or "", f"added:{request.attempt}:{request.retries}", number), count()
    made = as_one_value(app, request, given)
    made.options.pop("task_id", None)
    Check(app).signature(made)
    body = {**(request.chord or {}), ADDED: True}
    result = made.freeze_at(
        Place(
            task_id=own_id,
            group_id=request.group,
            chord=body,
            root_id=request.root_id or request.id,
            parent_id=request.id,
            group_index=own,
            ids=lambda: derive_id(own_id, "added", next(numbers)),
        )
    )
    for leaf in leaves(made):
        leaf.options["ignore_result"] = False
    backend = app.backend
    assert isinstance(backend, Growing), "it was looked at"
    backend.grow_chord(request.group or "", size, own)
    request.chord_additions = number + 1
    return made, result


def send(app: Kernel, request: Request, made: Signature[Any], result: Any) -> None:
    """Publish what `grown` made. What may have been published before is marked as that."""
    lineage = Lineage(
        root_id=request.root_id or request.id,
        parent_id=request.id,
        reply_to=app.oid,
        redelivered=request.seen or request.redelivered,
    )
    app.calls.send(made.calls((), {}, {}, lineage=lineage), result, {}, expected=made.ids)


def _place(app: Kernel, request: Request) -> tuple[int, int]:
    if not request.chord or not request.group:
        raise ValueError("add_to_chord is for tasks in the header of a chord, and this one is in none")
    size, index = request.chord.get("chord_size"), request.group_index
    if app.opened.joins is None or not isinstance(app.backend, Growing):
        _cannot("the chords of this result backend cannot grow: use Redis, SQL, rpc or memory")
    if not isinstance(size, int) or not isinstance(index, int) or size < 1 or index < 0:
        _cannot(f"nobody says how many members this chord has and which this one is ({size!r:.40}, {index!r:.40})")
    return size, index


def _cannot(why: str) -> NoReturn:
    raise NotImplementedError(f"add_to_chord: {why}")


def _member(size: int, index: int, retries: int, number: int) -> int:
    """The index of what a member adds: another one for each member, whether it was added itself or not, each retry and
    each addition. Raises ValueError past what a result backend can count."""
    if index >= size:
        kind = 4 * _pair(index // size - 1, _pair(retries, number)) + 2
    elif retries:
        kind = 4 * _pair(retries - 1, number) + 1
    else:
        kind = 4 * number
    own = size * (kind + 1) + index % size
    if own >= _MOST:
        raise ValueError(f"member {index} of a chord of {size} cannot add as many as {number + 1} others")
    return own


def _pair(first: int, second: int) -> int:
    """Cantor's number of two numbers."""
    return (first + second) * (first + second + 1) // 2 + second
