"""Nested canvases as Hypothesis makes them up, each run by one worker in this process and compared with what plain
function calls give.

A failure prints the example and the seed (``--hypothesis-seed``); examples that failed once stay below.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from kernel import canvas
from kernel.app import Kernel
from kernel.worker.worker import Worker
from tests.canvas.direct import (
    ERRBACK,
    MAPPED,
    Broken,
    Chain,
    Chord,
    Chunks,
    Direct,
    Group,
    Map,
    Node,
    Step,
    called,
    is_linkable,
    is_nothing,
    is_odd,
    unrolled,
    within,
)

PATIENCE = 30.0
FIRST = "x"


class Runner:
    """An app with a worker on it, and what its tasks did."""

    def __init__(self) -> None:
        self.app = Kernel("generated", broker="memory://", backend="memory://")
        self.ran: dict[str, Counter[int]] = {}
        self.wanted: dict[str, Counter[int]] = {}
        self._changed = threading.Condition()

        @self.app.task(name="step", bind=True, max_retries=5)
        def step(
            task: Any,
            given: Any = None,
            *,
            number: int,
            token: str,
            fails: bool = False,
            retries: int = 0,
            word: str = "",
        ) -> str:
            self.note(token, number)
            if task.request.retries < retries:
                raise task.retry(countdown=0)
            if fails:
                raise ValueError(f"{number} fails")
            return called(number, given, word)

        @self.app.task(name="failed")
        def failed(task_id: str, *, number: int, token: str) -> None:
            self.note(token, ERRBACK + number)

        @self.app.task(name="mapped")
        def mapped(item: str) -> str:
            token, _, number = item.partition(":")
            self.note(token, MAPPED + int(number))
            return called(MAPPED + int(number), number)

    def note(self, token: str, number: int) -> None:
        with self._changed:
            self.ran[token][number] += 1
            self._changed.notify_all()

    def wait_for(self, token: str, wanted: Counter[int]) -> Counter[int]:
        """What ran, once it is as many as is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self.ran[token].total() >= wanted.total(), PATIENCE)
            return Counter(self.ran[token])

    def signature(self, node: Node, token: str) -> Any:
        """The canvas that `node` describes."""
        if isinstance(node, Step):
            return self._step(node, token)
        mapped = self.app.tasks["mapped"]
        if isinstance(node, Map):
            return mapped.map([f"{token}:{item}" for item in node.items])
        if isinstance(node, Chunks):
            return mapped.chunks([(f"{token}:{item}",) for item in node.items], node.size)
        made: Any
        if isinstance(node, Chain):
            steps = [self.signature(step, token) for step in node.steps]
            made = reduce(or_, steps) if node.piped else canvas.chain(*steps)
            for link in node.links:
                made.link(self.signature(link, token))
        elif isinstance(node, Group):
            # Of a generator, which is read by whoever looks first.
            made = canvas.group(self.signature(member, token) for member in node.members)
        else:
            header = [self.signature(member, token) for member in node.header]
            made = canvas.chord(header, self.signature(node.body, token))
        if node.immutable:
            made.set_immutable(True)
        return made

    def _step(self, node: Step, token: str) -> Any:
        given: dict[str, Any] = {"number": node.number, "token": token, "fails": node.fails, "retries": node.retries}
        made = self.app.tasks["step"].s(**given, **({"word": node.word} if node.word else {}))
        made.set(immutable=node.immutable)
        if node.errback:
            made.link_error(self.app.tasks["failed"].s(number=node.number, token=token))
        for link in node.links:
            made.link(self.signature(link, token))
        return made


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    with Worker(runner.app, concurrency=4):
        yield runner
    runner.app.close()


def marks(node: Node) -> tuple[Any, ...]:
    """Two canvases of different marks are different signatures: a link that is there already is not linked again."""
    return tuple(
        each.number if isinstance(each, Step) else each.items
        for each in within(node)
        if isinstance(each, Step | Map | Chunks)
    )


class Drawing:
    """Makes up one canvas. Where `alone`, no tasks run side by side in it, and each has an errback."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], *, failures: bool) -> None:
        self._draw = draw
        self._failures = failures
        self._alone: bool = self._pick(False, False, False, True)
        self._links = iter(range(10, MAPPED))

    def _pick(self, *values: Any) -> Any:
        return self._draw(st.sampled_from(values))

    def canvas(self, depth: int) -> Node:
        """One of at most `depth` levels, and of more than one task."""
        kinds = (self._linked, self._chain, self._chain)
        return cast(
            "Node", self._pick(*kinds, *(() if self._alone else (self._group, self._chord, self._chord)))(depth)
        )

    def _node(self, depth: int) -> Node:
        return self.canvas(depth) if depth and self._pick(True, True, False) else self._leaf()

    def _leaf(self) -> Node:
        kind = self._pick(Step, Step, Step, Step, Step, Map, Chunks)
        if kind is Step or (kind is Chunks and self._alone):
            return self._step()
        items = [self._pick(*range(10)) for _ in range(self._pick(1, 2, 3) if kind is Chunks else self._pick(0, 1, 2))]
        return Map(tuple(items)) if kind is Map else Chunks(tuple(items), self._pick(1, 2))

    def _step(self) -> Step:
        """One that fails is rare, so that some of most canvases runs."""
        return Step(
            self._pick(*range(10)),
            immutable=self._pick(False, False, False, True),
            fails=self._failures and self._pick(False, False, False, True),
            retries=self._pick(0, 0, 0, 0, 1, 2),
            errback=self._alone,
            word=self._pick("", "", "", "w"),
        )

    def _linked(self, depth: int) -> Node:
        links = {marks(link): link for link in self._several(depth, 1, 2)}
        return replace(self._step(), links=tuple(links.values()))

    def _several(self, depth: int, *counts: int) -> list[Node]:
        return [self._node(depth - 1) for _ in range(self._pick(*counts))]

    def _with_nothing(self, members: list[Node]) -> tuple[Node, ...]:
        """With an empty group among them, now and then."""
        if not self._alone and self._pick(False, False, False, False, True):
            members.insert(self._pick(*range(len(members) + 1)), Group(()))
        return tuple(members)

    def _chain(self, depth: int) -> Node:
        made = Chain(
            self._with_nothing(self._several(depth, 1, 2, 2, 3)), immutable=self._pick(False, False, False, True)
        )
        if len(made.steps) > 1 and not any(map(is_nothing, made.steps)):
            made = replace(made, piped=self._pick(False, True))
        # Only what is a chain when it is made has the links of one; where two chains end in one task, like links of
        # theirs may be one link or two: there are none.
        is_chain = not isinstance(unrolled(made)[0], Group | Chord)
        if is_chain and is_linkable(made) and self._pick(False, False, True):
            made = replace(made, links=(Step(next(self._links), retries=self._pick(0, 0, 1)),))
        return made

    def _group(self, depth: int) -> Node:
        return Group(self._with_nothing(self._several(depth, 1, 2, 3)), immutable=self._pick(False, False, False, True))

    def _chord(self, depth: int) -> Node:
        header = self._with_nothing(self._several(depth, 0, 1, 1, 2, 2, 3))
        # What a chord calls is a chain as often as anything else.
        body = self._chain(depth - 1) if depth > 1 and self._pick(False, True) else self._node(depth - 1)
        return Chord(
            header if any(not is_nothing(member) for member in header) else (), body, self._pick(False, False, True)
        )


@st.composite
def drawn(draw: Callable[[st.SearchStrategy[Any]], Any], depth: int, failures: bool) -> Node:
    return Drawing(draw, failures=failures).canvas(depth)


def compare(runner: Runner, node: Node, how: str = "sent", word: str = "") -> None:
    """Run it, and evaluate it: the value or the kind of error, and who ran how often, must be the same."""
    direct = Direct()
    token = uuid.uuid4().hex
    runner.ran[token] = Counter()
    try:
        expected, kinds = direct.result(node, FIRST, word), set()
    except Broken as broken:
        expected, kinds = None, broken.kinds
    runner.wanted[token] = direct.ran
    made = runner.signature(node, token)
    if how == "as data":
        made = runner.app.signature(json.loads(json.dumps(made)))
    call = made.apply if how == "here" else made.apply_async
    result = call((FIRST,), {"word": word} if word else {})
    if kinds:
        with pytest.raises(Exception, match="fails") as caught:
            result.get(timeout=PATIENCE)
        assert type(caught.value).__name__ in kinds
    else:
        assert result.get(timeout=PATIENCE) == expected
    assert runner.wait_for(token, direct.ran) == direct.ran


def canvases(*, failures: bool) -> st.SearchStrategy[Node]:
    """Those whose meaning is not in doubt."""
    return drawn(3, failures).filter(lambda node: not any(map(is_odd, within(node))))


several = settings(
    max_examples=500,
    deadline=None,
    database=None,
    print_blob=True,
    # One that fails waits long to do so: it is told as it is, and how to have it again.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


# --- what failed once ---------------------------------------------------------------------------------------

INSIDE = Chain((Map(()), Group((Group((Step(0), Step(1))),))))
"""A group of two in a group of one lost its second member."""
EMPTY = Chain((Group((Step(0),)), Group(())))
"""A group of one that a chain is made with is that one, whatever empty groups there are."""
ENDING = Group((Chain((Step(0), Group((Step(1), Step(2))))),))
"""A group of one that ends in a group had a list of a list for its value."""
LONELY = Chord((Chord((Map(()),), Group((Step(0),))),), Step(1))
"""Run here, a header of one that ends in a group gave its body that group's values in place of a list of one."""


CHUNKED = Chord((Step(1),), Chunks((2, 3), 1))
"""Chunks as what a chord calls were refused."""
APART = Chain((Chain((Step(1), Step(2)), links=(Step(10),)), Step(3)), piped=True)
"""What was linked to a chain was called at the end of what it was joined to."""
LISTED = Chain((Chord((Step(1),), Group((Step(2),))), Step(3)))
"""A chain of a chord whose body is a group of one, and a task, gave that no list."""
WIDE = Chain((Step(1), Group((Step(2), Step(3)))), links=(Step(10),))
"""What was linked to a chain that ends in a group was called after its first member, without its value."""


class TestGenerated:
    @several
    @example(node=INSIDE, how="sent", word="")
    @example(node=EMPTY, how="as data", word="")
    @example(node=ENDING, how="here", word="")
    @example(node=ENDING, how="sent", word="")
    @example(node=LONELY, how="here", word="")
    @example(node=CHUNKED, how="as data", word="")
    @example(node=APART, how="sent", word="v")
    @example(node=LISTED, how="sent", word="")
    @example(node=WIDE, how="sent", word="")
    @given(
        node=canvases(failures=False),
        how=st.sampled_from(["sent", "sent", "as data", "here"]),
        word=st.sampled_from(["", "", "v"]),
    )
    def test_it_comes_to_what_calling_the_functions_does(self, runner: Runner, node: Node, how: str, word: str) -> None:
        compare(runner, node, how, word)

    @several
    @given(node=canvases(failures=True))
    def test_a_failure_is_told_at_the_end_and_nothing_hangs(self, runner: Runner, node: Node) -> None:
        compare(runner, node)

    def test_nothing_ran_twice(self, runner: Runner) -> None:
        """Of all that this worker was given, now that what came last has ended."""
        compare(runner, Chain((Step(1), Group((Step(2), Step(3))), Step(4))))
        assert runner.ran == runner.wanted
