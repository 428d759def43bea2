"""Canvases as plain data, and what they must come to: worked out by calling functions, with nothing of the kernel.

Each step is called with what came before and gives a text that tells how it came about: ``2(1(x))``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A task. `links` are called with what it returns, `errback` says whether something is called when it fails."""

    number: int
    immutable: bool = False
    fails: bool = False
    retries: int = 0
    errback: bool = False
    links: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Map:
    """A task over items, in one message. It takes nothing from before."""

    items: tuple[int, ...]


@dataclass(frozen=True)
class Chain:
    steps: tuple[Node, ...]


@dataclass(frozen=True)
class Group:
    members: tuple[Node, ...]


@dataclass(frozen=True)
class Chord:
    header: tuple[Node, ...]
    body: Node


Node = Step | Map | Chain | Group | Chord
MAPPED = 100
"""Steps of a map are numbered from here."""
ERRBACK = 200
"""What is called when a step fails has its number, from here."""


class Broken(Exception):
    """It fails. `kinds` are the names of the exceptions that whoever asks may be told of."""

    def __init__(self, kinds: set[str]) -> None:
        super().__init__(kinds)
        self.kinds = kinds


def called(number: int, value: Any) -> str:
    """What a step returns."""
    return f"{number}({shown(value)})"


def shown(value: Any) -> str:
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list | tuple) else str(value)


class Direct:
    """One evaluation. `ran` counts the calls of each step."""

    def __init__(self) -> None:
        self.ran: Counter[int] = Counter()

    def result(self, node: Node, given: Any) -> Any:
        """What `get` gives to whoever sends it. Raises `Broken`."""
        value = self.value(node, given)
        members = flat(node.members) if isinstance(node := bare(node), Group) else []
        # The result of a group of one that ends in a group is that group's.
        return value[0] if len(members) == 1 and isinstance(last(members[0]), Group) else value

    def value(self, node: Node, given: Any) -> Any:
        """What comes of it when it is called with `given`. Raises `Broken`."""
        node = bare(node)
        if isinstance(node, Step):
            return self._step(node, given)
        if isinstance(node, Map):
            self.ran.update(MAPPED + item for item in node.items)
            return [called(MAPPED + item, item) for item in node.items]
        if isinstance(node, Group):
            return self._side_by_side(node.members, given)
        if isinstance(node, Chord):
            return self._gathered(node.header, node.body, given)
        return self._in_turn(node.steps, given)

    def _step(self, step: Step, given: Any) -> Any:
        self.ran[step.number] += 1 + step.retries
        if step.fails:
            self.ran[ERRBACK + step.number] += step.errback
            raise Broken({"ValueError"})
        value = called(step.number, None if step.immutable else given)
        for link in step.links:
            self._aside(link, value)
        return value

    def _aside(self, node: Node, given: Any) -> None:
        """What nobody waits for."""
        with contextlib.suppress(Broken):
            self.value(node, given)

    def _side_by_side(self, members: tuple[Node, ...], given: Any) -> list[Any]:
        values, kinds = [], set()
        for member in flat(members):
            try:
                values.append(self.value(member, given))
            except Broken as broken:
                kinds |= broken.kinds
        if kinds:
            raise Broken(kinds)
        return values

    def _gathered(self, header: tuple[Node, ...], body: Node, given: Any) -> Any:
        try:
            values = self._side_by_side(header, given)
        except Broken as broken:
            raise Broken({"ChordError"} | (broken.kinds if isinstance(last(body), Group) else set())) from None
        return self.value(body, values)

    def _in_turn(self, steps: tuple[Node, ...], given: Any) -> Any:
        return self._from(unrolled(steps), given)

    def _from(self, steps: list[Node], given: Any) -> Any:
        first, *following = steps
        if not following:
            return self.value(first, given)
        try:
            given = self.value(first, given)
        except Broken as broken:
            # Whoever follows a group is called by a chord.
            raise Broken(broken.kinds | ({"ChordError"} if isinstance(last(first), Group) else set())) from None
        return self._from(following, given)


def bare(node: Node) -> Node:
    """A chain of one is that one."""
    steps = unrolled(node.steps) if isinstance(node, Chain) else [node]
    return steps[0] if len(steps) == 1 else node


def flat(members: tuple[Node, ...]) -> list[Node]:
    """Members of groups in a group are members of it."""
    found: list[Node] = []
    for member in map(bare, members):
        found += flat(member.members) if isinstance(member, Group) else [member]
    return found


def unrolled(steps: tuple[Node, ...]) -> list[Node]:
    """What a chain calls in turn. A group of one is that one, unless it follows a group that the chain begins with.
    Empty groups are nothing."""
    found = [step for step in map(bare, steps) if step != Group(())]
    for at, step in enumerate(found):
        members = flat(step.members) if isinstance(step, Group) else []
        if len(members) == 1 and not (at == 1 and isinstance(found[0], Group)):
            found[at] = members[0]
    return found


def last(node: Node) -> Node:
    """What its result is that of."""
    node = bare(node)
    if isinstance(node, Chain):
        return last(unrolled(node.steps)[-1])
    return last(node.body) if isinstance(node, Chord) else node


def within(node: Node) -> list[Node]:
    """It, and all that is in it."""
    parts: tuple[Node, ...] = ()
    if isinstance(node, Step):
        parts = node.links
    elif isinstance(node, Chain):
        parts = node.steps
    elif isinstance(node, Group):
        parts = node.members
    elif isinstance(node, Chord):
        parts = (*node.header, node.body)
    return [node, *(found for part in parts for found in within(part))]


def is_odd(node: Node) -> bool:
    """Whether a canvas follows a chord whose body is a group of one: Celery unrolls that group, though it does not
    where a task follows."""
    steps = [step for step in node.steps if bare(step) != Group(())] if isinstance(node, Chain) else []
    ends = [last(step) for step in steps]
    return any(
        isinstance(after, Chain | Chord | Group) and isinstance(end, Group) and len(flat(end.members)) == 1
        for end, after in zip(ends, steps[1:], strict=False)
    )
