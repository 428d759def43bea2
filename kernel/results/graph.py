"""`DependencyGraph`: which results came of which."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TextIO, TypeVar

N = TypeVar("N", bound=Hashable)

Label = Callable[[Any], str]


class DependencyGraph(Generic[N]):
    """A directed graph, in the order in which nodes were added. Equal nodes are one.

    Iterating gives the nodes, `graph[node]` those that it points to.
    """

    def __init__(self, label: Label | None = None) -> None:
        self._label: Label = label or str
        self._edges: dict[N, list[N]] = {}

    def add_arc(self, node: N) -> None:
        """Add a node, if it is not there."""
        self._edges.setdefault(node, [])

    def add_edge(self, start: N, end: N) -> None:
        """An edge from `start` to `end`; nodes that are missing are added."""
        self.add_arc(start)
        self.add_arc(end)
        if end not in self._edges[start]:
            self._edges[start].append(end)

    def connect(self, other: DependencyGraph[N]) -> None:
        """Add all nodes and edges of `other`."""
        for node, ends in other.items():
            self.add_arc(node)
            for end in ends:
                self.add_edge(node, end)

    def update(self, pairs: Iterable[tuple[N, Iterable[N]]]) -> None:
        """Add nodes, each with those that it points to."""
        for node, ends in pairs:
            self.add_arc(node)
            for end in ends:
                self.add_edge(node, end)

    def valency_of(self, node: N) -> int:
        """How many edges lead on from `node` and from all that can be reached from it, itself counted once."""
        reached, stack = {node}, [node]
        while stack:
            for end in self._edges[stack.pop()]:
                if end not in reached:
                    reached.add(end)
                    stack.append(end)
        return sum(len(self._edges[each]) for each in reached)

    def topsort(self) -> list[N]:
        """The nodes, each behind all that it points to. Raises ValueError for a graph with a circle."""
        done: dict[N, None] = {}
        open_: set[N] = set()
        for root in self._edges:
            stack = [(root, iter(self._edges[root]))] if root not in done else []
            open_.update(node for node, _ in stack)
            while stack:
                node, ends = stack[-1]
                following = next((end for end in ends if end not in done), None)
                if following is None:
                    stack.pop()
                    open_.discard(node)
                    done[node] = None
                elif following in open_:
                    raise ValueError(f"the graph goes in a circle through {self._label(following)!r:.80}")
                else:
                    open_.add(following)
                    stack.append((following, iter(self._edges[following])))
        return [*done]

    def edges(self) -> list[tuple[N, N]]:
        """All edges, each as its start and its end."""
        return [(node, end) for node, ends in self._edges.items() for end in ends]

    def items(self) -> Iterable[tuple[N, list[N]]]:
        return self._edges.items()

    def to_dot(self, file: TextIO | None = None) -> str:
        """The graph in the language of Graphviz, which is also written to `file`."""
        lines = ["digraph dependencies {"]
        lines += [f"    {_quoted(self._label(node))};" for node in self._edges]
        lines += [f"    {_quoted(self._label(start))} -> {_quoted(self._label(end))};" for start, end in self.edges()]
        text = "\n".join([*lines, "}", ""])
        if file is not None:
            file.write(text)
        return text

    def __getitem__(self, node: N) -> list[N]:
        return self._edges[node]

    def get(self, node: N, default: Any = None) -> Any:
        return self._edges.get(node, default)

    def __contains__(self, node: object) -> bool:
        return node in self._edges

    def __iter__(self) -> Iterator[N]:
        return iter(self._edges)

    def __len__(self) -> int:
        return len(self._edges)

    def __repr__(self) -> str:
        return "\n".join(
            f"{self._label(node)} -> {', '.join(map(self._label, ends)) or '(nothing)'}"
            for node, ends in self._edges.items()
        )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
