"""What ends mean for chords, carried out in the process where the task ran.

A part is brought with its end's settlement where that can be one transaction (`Settlement.parts`), and from here where
not. Whoever brings the last one of a chord works out the body here. That goes with the settlement, too, or is published
from here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kernel.interfaces.backend import ChordPart, Record, StoreOutcome, StoreState
from kernel.message import Publication
from kernel.worker.assignment import Ending, Followed
from kernel.worker.failpoints import Failpoints
from kernel.worker.running.steps import Placed, Steps

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_STORED_TOGETHER: Final = 500


class Chords:
    """`atomic` says that an end is one transaction of the engine's with what it means for chords, and `ready` makes
    the records of one ready for that, if it can be."""

    def __init__(
        self, app: Kernel, steps: Steps, *, atomic: bool, ready: Callable[[Ending], bool], failpoints: Failpoints
    ) -> None:
        self._app = app
        self._steps = steps
        self._atomic = atomic
        self._ready = ready
        self._failpoints = failpoints

    def carry_out(self, endings: list[Ending], early: Sequence[bool], for_ever: bool) -> tuple[set[int], list[Placed]]:
        """Bring parts to chords, and break those that will not complete. Of some ends all that follows is to be settled
        with them: they are replaced by such, and their places returned. Of the others, what is to be published here."""
        found = [*self._joined(endings, for_ever), *self._broken(endings, for_ever)]
        together: dict[int, list[Followed]] = {at: [] for at, ending in enumerate(endings) if ending.for_chords}
        for at, followed in found:
            together[at].append(followed)
        along: set[int] = set()
        for at, each in together.items():
            end = endings[at].followed_by(each)
            if self._atomic and not early[at] and self._are_plain(end.publications, for_ever) and self._ready(end):
                endings[at] = end
                along.add(at)
        apart = [(at, followed) for at, followed in found if at not in along]
        for _, followed in apart:
            if followed.apart is not None:
                followed.apart()
        self._store([followed for _, followed in apart], for_ever)
        if self._failpoints and found:
            self._failpoints.hit("chord.joined")
        return along, [(at, item) for at, followed in apart for item in followed.publications]

    def publish(self, endings: Sequence[Ending], bodies: Sequence[Placed], for_ever: bool) -> None:
        """A body that is refused does not spoil the end of the member that brought the last part: it fails itself."""
        for at, error in self._steps.publish(bodies, for_ever).items():
            join = endings[at].join
            if join is None:
                _log.error("errbacks of a chord cannot be published: %r", error)
                continue
            followed = join.refuse(error)
            self._store([followed], for_ever)
            self._steps.publish([(at, item) for item in followed.publications], for_ever)

    def _are_plain(self, publications: Sequence[Publication], for_ever: bool) -> bool:
        """Whether they can be stored with a settlement: which queues an exchange means, and what the broker refuses, is
        found out by publishing."""
        if not publications:
            return True
        most = self._steps.insist(lambda: self._app.broker, for_ever).capabilities.max_bytes
        return not any(item.exchange or (most is not None and item.message.size > most) for item in publications)

    def _joined(self, endings: Sequence[Ending], for_ever: bool) -> list[tuple[int, Followed]]:
        joins = [(at, ending.join) for at, ending in enumerate(endings) if ending.join is not None]
        if not joins:
            return []
        parts = [join.part for _, join in joins]
        found = self._steps.insist(lambda: self._app.backend.chord_parts(parts), for_ever)
        return [
            (at, join.complete(state.parts)) for (at, join), state in zip(joins, found, strict=True) if state.complete
        ]

    def _broken(self, endings: Sequence[Ending], for_ever: bool) -> list[tuple[int, Followed]]:
        breaks = [(at, item) for at, ending in enumerate(endings) for item in ending.breaks]
        if not breaks:
            return []
        own = self._own([item.guard for _, item in breaks], for_ever)
        return [(at, item.follow()) for (at, item), is_own in zip(breaks, own, strict=True) if is_own]

    def _own(self, guards: Sequence[Record], for_ever: bool) -> list[bool]:
        """Store them, and say of each whether what follows it is to be done here."""
        outcomes = self._steps.store(guards, for_ever)
        backend = self._app.backend
        if not (backend.capabilities.to_caller and backend.capabilities.chords):
            return [_is_own(guard, outcome) for guard, outcome in zip(guards, outcomes, strict=True)]
        # Where records go to the caller none stands that would say. A chord of one says who was its first part.
        claims = [
            ChordPart(f"{guard.id}.broken", 1, 0, Record(id=guard.parent_id or "", state=guard.state), again=True)
            for guard in guards
        ]
        found = self._steps.insist(lambda: backend.chord_parts(claims), for_ever)
        return [state.parts[0].id == guard.parent_id for guard, state in zip(guards, found, strict=True)]

    def _store(self, found: Sequence[Followed], for_ever: bool) -> None:
        records = [record for followed in found for record in followed.records]
        for start in range(0, len(records), _STORED_TOGETHER):
            self._steps.store(records[start : start + _STORED_TOGETHER], for_ever)


def _is_own(guard: Record, outcome: StoreOutcome) -> bool:
    """Whether what follows a record is for whoever wanted to store it: it did, now or in an earlier life."""
    standing = outcome.standing
    if outcome.state is not StoreState.STANDING or standing is None:
        return outcome.state is not StoreState.STANDING
    return standing.state == guard.state and standing.parent_id == guard.parent_id
