"""Where calls of a canvas come from, where they belong, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from kernel.naming import new_id, new_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where calls come from: the task that makes them, if any, and who waits for what comes of them."""

    root_id: str | None = None
    parent_id: str | None = None
    reply_to: str | None = None
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What a signature is called with: arguments in front of its own, keyword arguments and options on top of them.
    What is None of `options` says nothing."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    lineage: Lineage

    def at(self, **changes: Any) -> Given:
        """The same with these changes."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a signature belongs, as freezing writes it into its options. What is None says nothing; `more` are other
    options, and `ids` makes the ids that are not given."""

    task_id: str | None = None
    group_id: str | None = None
    chord: Mapping[str, Any] | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group_index: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    ids: Callable[[], str] = new_id

    def options(self) -> dict[str, Any]:
        """All that is said but the id."""
        said = {
            "group_id": self.group_id,
            "chord": self.chord,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_index": self.group_index,
            **self.more,
        }
        return {name: value for name, value in said.items() if value is not None}

    def inside(self, **changes: Any) -> Place:
        """The place of a part: `more` and `ids` are the same, and nothing else but what `changes` say."""
        return Place(more=self.more, ids=self.ids, **changes)

    def at(self, **changes: Any) -> Place:
        """The same place with these changes."""
        return replace(self, **changes)

    def ids_for(self, count: int) -> Callable[[], str]:
        """`ids`, for a caller that asks for about so many at once."""
        if self.ids is not new_id:
            return self.ids
        ready = iter(new_ids(count))
        return lambda: next(ready, None) or new_id()


PLACED: Final = frozenset(Place.__dataclass_fields__) - {"more", "ids"}
"""Options that freezing puts where they belong; they are not handed on to members."""
