"""`Batch`: the calls of one canvas on their way to messages. What they have in common is written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kernel.call import Call
    from kernel.message import Publication
    from kernel.plan import Ending, Plan
    from kernel.publish import Publisher

_MEMBERS: Final = frozenset({"task_id", "group_id", "group_index", "reply_to", "chord"})
"""The options of a member of a group or a header that was given none of its own."""
_MOST: Final = 1 << 31


class Batch:
    """Prepares calls as `Publisher.prepare` does, and raises what that raises. For one batch, in one thread: what the
    calls bear must not be changed meanwhile."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._plans: dict[str, Plan] = {}
        # The chord of the last call, and how bodies end that bear it.
        self._chord: tuple[Plan, Mapping[str, Any], Ending | None] | None = None

    def prepare(self, call: Call) -> Publication:
        """The message of one of the calls."""
        plan = self._plans.get(call.name)
        if plan is None:
            plan = self._plans[call.name] = self._publisher.plan(call.name)
        if not plan.plain or not _is_member(call, plan):
            return self._publisher.prepare(call)
        options = call.options
        chord = options.get("chord")
        ending = self._ending(plan, chord) if chord else None
        if chord and ending is None:
            return self._publisher.prepare(call)
        lineage = self._publisher.lineage(call)
        place = options["group_id"], options["group_index"]
        return self._publisher.edited(plan.member(call.args, call.kwargs, lineage, place, ending))

    def _ending(self, plan: Plan, chord: Mapping[str, Any]) -> Ending | None:
        known = self._chord
        if known is None or known[0] is not plan or known[1] is not chord:
            known = self._chord = plan, chord, plan.ending(chord)
        return known[2]


def _is_member(call: Call, plan: Plan) -> bool:
    """Whether nothing but its place in a group tells the call from others of its task."""
    options = call.options
    if call.redelivered or not options.keys() <= _MEMBERS:
        return False
    index, reply_to = options.get("group_index"), options.get("reply_to")
    return (
        options.get("group_id").__class__ is str
        and index.__class__ is int
        and 0 <= index < _MOST
        and (reply_to is None or reply_to == plan.reply_to)
    )
