"""`ResultNode`: a result as a place in the tree of what came of a call."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from kernel import errors
from kernel.results.graph import DependencyGraph


class ResultNode:
    """What results of one call, of a call that ran here, and of a group have in common: parents, children, identity.

    Equal to any other of the same id, and to the id itself.
    """

    __slots__ = ()

    id: str
    parent: Any

    @property
    def children(self) -> list[Any] | None:
        """The results of the calls that this one made."""
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    @property
    def graph(self) -> DependencyGraph[Any]:
        """`build_graph()`."""
        return self.build_graph()

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph[Any]:
        """This result and all that came of it, as far as they have ended: an edge leads from a call to each that it
        made. `formatter` makes the label of a node (a function of the result; its id by default).

        Raises `IncompleteStream` when one has not ended, unless `intermediate` is true.
        """
        if formatter is not None and not callable(formatter):
            raise TypeError(f"formatter is {formatter!r:.60}; a function that makes a text of a result is needed")
        made: DependencyGraph[Any] = DependencyGraph(formatter)
        for parent, node in self.iterdeps(intermediate=intermediate):
            made.add_arc(node)
            if parent is not None:
                made.add_edge(parent, node)
        return made

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Pairs of a result and the one that it came of (None first, for this one), the nearest first.

        After one that has not ended `IncompleteStream` is raised, unless `intermediate` is true.
        """
        queue: deque[tuple[Any, Any]] = deque([(None, self)])
        seen: set[str] = {self.id}
        while queue:
            parent, node = queue.popleft()
            yield parent, node
            if not node.ready():
                if not intermediate:
                    raise _incomplete(node, parent)
                continue
            for child in node.children or ():
                # Ids come from a record that anybody may have written: a circle must not go on for ever.
                if child.id not in seen:
                    seen.add(child.id)
                    queue.append((node, child))

    def collect(
        self, intermediate: bool = False, timeout: float | None = None, **options: Any
    ) -> Iterator[tuple[Any, Any]]:
        """Pairs of a result and its value: this one and all that came of it, each waited for within `timeout` seconds
        altogether; `options` are those of `get`.

        Raises what `get` raises, and `IncompleteStream` for one that nobody here is told of.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for parent, node in self.iterdeps(intermediate=intermediate):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if left is None and parent is not None and not node.ready() and _answers_elsewhere(node):
                raise _incomplete(node, parent)
            yield node, node.get(timeout=left, **options)

    def get_leaf(self, timeout: float | None = None) -> Any:
        """The value of the last of all that came of it; waits as `collect` does."""
        last = deque(self.collect(timeout=timeout), maxlen=1)
        return last[0][1] if last else None

    def parents(self) -> Iterator[Any]:
        """The results before this one in its chain, the nearest first."""
        parent = self.parent
        while parent is not None:
            yield parent
            parent = parent.parent

    def as_list(self) -> list[str]:
        """The id, and the ids of its parents."""
        return [self.id, *(parent.id for parent in self.parents())]

    def as_tuple(self) -> tuple[tuple[str, Any], Any]:
        """``((id, parent_tuple), members)``, which `result_from_tuple` reads; members are None but for groups."""
        made: Any = None
        for node in reversed([self, *self.parents()]):
            made = (node.id, made), node._member_tuples()
        pair: tuple[tuple[str, Any], Any] = made
        return pair

    def _member_tuples(self) -> list[Any] | None:
        return None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultNode):
            return bool(other.id == self.id)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id


def _answers_elsewhere(node: Any) -> bool:
    backend = getattr(node, "backend", None)
    return backend is not None and bool(backend.capabilities.to_caller)


def _incomplete(node: Any, parent: Any) -> errors.IncompleteStream:
    what = f"the result {node.id}" + ("" if parent is None else f", which came of {parent.id},")
    if _answers_elsewhere(node):
        return errors.IncompleteStream(
            f"{what} is not known here: this result backend sends each answer to the process that called, which for a "
            "call inside a task is its worker. Give a timeout to wait for it, or name a result_backend that keeps "
            "records, such as redis:// or postgresql://"
        )
    return errors.IncompleteStream(f"{what} has not ended: wait for it, or pass intermediate=True")
