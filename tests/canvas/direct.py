"""Canvases as plain data, and what they must come to: worked out by calling functions, with nothing of the kernel.

Each step is called with what came before and gives a text that tells how it came about: ``2(1(x))``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Step:
    """A task. `links` are called with what it returns, `errback` says whether something is called when it fails; `word`
    is a keyword argument of its own."""

    number: int
    immutable: bool = False
    fails: bool = False
    retries: int = 0
    errback: bool = False
    links: tuple[Node, ...] = ()
    word: str = ""


@dataclass(frozen=True)
class Map:
    """A task over items, in one message. It takes nothing from before."""

    items: tuple[int, ...]


@dataclass(frozen=True)
class Chunks:
    """The same in messages of `size` items each, side by side."""

    items: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Chain:
    """`links` are called at its end, whatever it is a part of. `piped` says that operators make it (of several), and
    `immutable` that its first task takes nothing."""

    steps: tuple[Node, ...]
    immutable: bool = False
    piped: bool = False
    links: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Group:
    members: tuple[Node, ...]
    immutable: bool = False


@dataclass(frozen=True)
class Chord:
    """`immutable` goes for the header."""

    header: tuple[Node, ...]
    body: Node
    immutable: bool = False


Node = Step | Map | Chunks | Chain | Group | Chord
MAPPED = 100
"""Steps of a map are numbered from here."""
ERRBACK = 200
"""What is called when a step fails has its number, from here."""


class Broken(Exception):
    """It fails. `kinds` are the names of the exceptions that whoever asks may be told of."""

    def __init__(self, kinds: set[str]) -> None:
        super().__init__(kinds)
        self.kinds = kinds


def called(number: int, value: Any, word: str = "") -> str:
    """What a step returns."""
    return f"{number}{word}({shown(value)})"


def shown(value: Any) -> str:
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list | tuple) else str(value)


class Direct:
    """One evaluation. `ran` counts the calls of each step."""

    def __init__(self) -> None:
        self.ran: Counter[int] = Counter()

    def result(self, node: Node, given: Any, word: str = "") -> Any:
        """What `get` gives to whoever sends it with an argument and, if there is one, a word. Raises `Broken`."""
        node = settled(node)
        value = self.value(node, given, word)
        members = flat(node.members) if isinstance(node := bare(node), Group) else []
        # The result of a group of one that ends in a group is that group's.
        return value[0] if len(members) == 1 and isinstance(last(members[0]), Group) else value

    def value(self, node: Node, given: Any, word: str = "") -> Any:
        """What comes of it when it is called with `given`, and those that are first with `word`. Raises `Broken`."""
        node = bare(node)
        if isinstance(node, Step):
            return self._step(node, given, word)
        if isinstance(node, Map):
            self.ran.update(MAPPED + item for item in node.items)
            return [called(MAPPED + item, item) for item in node.items]
        if isinstance(node, Group):
            return self._side_by_side(node.members, given, word)
        if isinstance(node, Chord):
            return self._gathered(node.header, node.body, given, word)
        assert isinstance(node, Chain), "chunks are a group"
        return self._from(unrolled(node), given, word)

    def _step(self, step: Step, given: Any, word: str) -> Any:
        self.ran[step.number] += 1 + step.retries
        if step.fails:
            self.ran[ERRBACK + step.number] += step.errback
            raise Broken({"ValueError"})
        if step.immutable:
            given, word = None, ""
        value = called(step.number, given, word or step.word)
        for link in step.links:
            self._aside(link, value)
        return value

    def _aside(self, node: Node, given: Any) -> None:
        """What nobody waits for."""
        with contextlib.suppress(Broken):
            self.value(node, given)

    def _side_by_side(self, members: tuple[Node, ...], given: Any, word: str) -> list[Any]:
        values, kinds = [], set()
        for member in flat(members):
            try:
                values.append(self.value(member, given, word))
            except Broken as broken:
                kinds |= broken.kinds
        if kinds:
            raise Broken(kinds)
        return values

    def _gathered(self, header: tuple[Node, ...], body: Node, given: Any, word: str) -> Any:
        try:
            values = self._side_by_side(header, given, word)
        except Broken as broken:
            raise Broken({"ChordError"} | (broken.kinds if isinstance(last(body), Group) else set())) from None
        return self.value(body, values)

    def _from(self, steps: list[Node], given: Any, word: str = "") -> Any:
        first, *following = steps
        if not following:
            return self.value(first, given, word)
        try:
            given = self.value(first, given, word)
        except Broken as broken:
            # Whoever follows a group is called by a chord.
            raise Broken(broken.kinds | ({"ChordError"} if isinstance(last(first), Group) else set())) from None
        return self._from(following, given)


def settled(node: Node) -> Node:
    """The same with links and immutability where they work: at the ends of chains, and where canvases begin."""
    if isinstance(node, Step):
        return replace(node, links=tuple(map(settled, node.links)))
    if isinstance(node, Chain):
        steps = [settled(step) for step in node.steps]
        for link in map(settled, node.links):
            at = max(at for at, step in enumerate(steps) if not is_nothing(step))
            steps[at] = linked(steps[at], link)
        if node.immutable:
            at = min(at for at, step in enumerate(steps) if not is_nothing(step))
            steps[at] = deaf(steps[at])
        return Chain(tuple(steps), piped=node.piped)
    if isinstance(node, Group):
        group = Group(tuple(map(settled, node.members)))
        return deaf(group) if node.immutable else group
    if isinstance(node, Chord):
        made = Chord(tuple(map(settled, node.header)), settled(node.body))
        return deaf(made) if node.immutable else made
    return node


def linked(node: Node, link: Node) -> Node:
    """A settled canvas whose end calls `link`, too; each of several ends does."""
    node = bare(node)
    if isinstance(node, Step):
        return node if link in node.links else replace(node, links=(*node.links, link))
    if isinstance(node, Group):
        return Group(tuple(linked(member, link) for member in node.members))
    if isinstance(node, Chord):
        return replace(node, body=linked(node.body, link))
    assert isinstance(node, Chain), "a map has no links here"
    steps = unrolled(node)
    return replace(node, steps=(*steps[:-1], linked(steps[-1], link)))


def deaf(node: Node) -> Node:
    """A settled canvas that takes nothing of what is before it."""
    node = bare(node)
    if isinstance(node, Step):
        return replace(node, immutable=True)
    if isinstance(node, Group):
        return Group(tuple(map(deaf, node.members)))
    if isinstance(node, Chord):
        return replace(node, header=tuple(map(deaf, node.header)))
    if isinstance(node, Chain):
        first, *following = unrolled(node)
        return replace(node, steps=(deaf(first), *following))
    return node


def is_nothing(node: Node) -> bool:
    """Whether it is an empty group."""
    return isinstance(node := bare(node), Group) and not node.members


def bare(node: Node) -> Node:
    """A chain of one is that one, and chunks are a group."""
    if isinstance(node, Chunks):
        starts = range(0, len(node.items), node.size)
        return Group(tuple(Map(node.items[start : start + node.size]) for start in starts))
    steps = unrolled(node) if isinstance(node, Chain) else [node]
    return steps[0] if len(steps) == 1 else node


def flat(members: tuple[Node, ...]) -> list[Node]:
    """Members of groups in a group are members of it."""
    found: list[Node] = []
    for member in map(bare, members):
        found += flat(member.members) if isinstance(member, Group) else [member]
    return found


def unrolled(chain: Chain) -> list[Node]:
    """What a chain calls in turn. A group of one is that one, unless it follows a group that the chain begins with, or
    is the first of several that operators join. Empty groups are nothing."""
    found = [step for step in map(bare, chain.steps) if not is_nothing(step)]
    for at, step in enumerate(found):
        members = flat(step.members) if isinstance(step, Group) else []
        if len(members) == 1 and not (at == 0 and chain.piped) and not (at == 1 and isinstance(found[0], Group)):
            found[at] = members[0]
    return found


def last(node: Node) -> Node:
    """What its result is that of."""
    node = bare(node)
    if isinstance(node, Chain):
        return last(unrolled(node)[-1])
    return last(node.body) if isinstance(node, Chord) else node


def within(node: Node) -> list[Node]:
    """It, and all that is in it."""
    parts: tuple[Node, ...] = ()
    if isinstance(node, Step):
        parts = node.links
    elif isinstance(node, Chain):
        parts = (*node.steps, *node.links)
    elif isinstance(node, Group):
        parts = node.members
    elif isinstance(node, Chord):
        parts = (*node.header, node.body)
    return [node, *(found for part in parts for found in within(part))]


def is_linkable(node: Node) -> bool:
    """Whether what is linked to the end of a chain that ends in this is called with its value. What is linked to the
    body of a chord that is a group is called after its first member, without."""
    node = bare(node)
    if isinstance(node, Group):
        return bool(node.members) and all(map(is_linkable, flat(node.members)))
    if isinstance(node, Chord):
        return not isinstance(bare(node.body), Group) and is_linkable(node.body)
    if isinstance(node, Chain):
        *before, end = unrolled(node)
        return not (isinstance(end, Group) and isinstance(last(before[-1]), Group)) and is_linkable(end)
    return isinstance(node, Step)


def is_odd(node: Node) -> bool:
    """Whether a canvas follows a chord whose body is a group of one: Celery unrolls that group, though it does not
    where a task follows."""
    steps = [step for step in node.steps if not is_nothing(step)] if isinstance(node, Chain) else []
    ends = [last(step) for step in steps]
    return any(
        isinstance(after, Chain | Chord | Group | Chunks) and isinstance(end, Group) and len(flat(end.members)) == 1
        for end, after in zip(ends, steps[1:], strict=False)
    )
