"""`GroupResult`: the results of a group, under its id. `ResultSet` is here, too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kernel import states
from kernel.result import result_from_tuple
from kernel.results.gathering import Leaf, leaves
from kernel.results.node import ResultNode
from kernel.results.set import ResultSet

if TYPE_CHECKING:
    from typing import Self

    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend

__all__ = ["GroupResult", "ResultSet"]


class GroupResult(ResultSet, ResultNode):
    """The results of a group, under its id, in the order of its members."""

    def __init__(
        self, id: str | None = None, results: Iterable[Any] = (), parent: Any = None, *, app: Kernel | None = None
    ) -> None:
        self.id = id or ""
        self.parent = parent
        super().__init__(results, app)

    @property
    def children(self) -> list[Any]:
        return self.results

    @property
    def ignored(self) -> bool:
        """Whether nothing is kept of any member."""
        return bool(self.results) and all(result.ignored for result in self.results)

    def save(self, backend: Backend | None = None) -> Self:
        """Keep in the backend which results these are, for `restore`; as long as results are kept. Raises
        NotImplementedError where the backend keeps none (``rpc://``)."""
        (backend or self.app.backend).save_group(self.id, json.dumps(self.as_tuple(), separators=(",", ":")))
        return self

    def delete(self, backend: Backend | None = None) -> None:
        """Delete what `save` kept; the records of the members stay."""
        (backend or self.app.backend).forget_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Backend | None = None, app: Kernel | None = None) -> GroupResult | None:
        """The group that was saved under `id`; None when there is none, or none any more.

        Outside a task, `app` says where. Raises ValueError for a document that is no group.
        """
        app = app if app is not None else ResultSet().app
        document = (backend or app.backend).load_group(id)
        if document is None:
            return None
        data = json.loads(document)
        # Celery's backends keep the same under a key, and so do documents of a serializer that knows no tuples.
        found = result_from_tuple(data["result"] if isinstance(data, Mapping) else data, app)
        if not isinstance(found, GroupResult):
            raise ValueError(f"what is kept under {id!r} is the result of one task, not of a group")
        return found

    def _member_tuples(self) -> list[Any]:
        return [result.as_tuple() for result in self.results]

    def _before(self) -> list[Leaf]:
        return leaves(self.parents())

    @property
    def state(self) -> str:
        """SUCCESS when all have ended well, FAILURE when one has failed, else PENDING."""
        if self.failed():
            return states.FAILURE
        return states.SUCCESS if self.successful() else states.PENDING

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return other.id == self.id and other.results == self.results
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<GroupResult {self.id} of {len(self.results)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The app stays behind, as it does with the results in it.
        return GroupResult, (self.id, self.results, self.parent)
