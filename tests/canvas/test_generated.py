"""Nested canvases as Hypothesis makes them up, each run by one worker in this process and compared with what plain
function calls give.

A failure prints the example and the seed (``--hypothesis-seed``); examples that failed once stay below.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

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
    Direct,
    Group,
    Map,
    Node,
    Step,
    called,
    is_odd,
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
            task: Any, given: Any = None, *, number: int, token: str, fails: bool = False, retries: int = 0
        ) -> str:
            self.note(token, number)
            if task.request.retries < retries:
                raise task.retry(countdown=0)
            if fails:
                raise ValueError(f"{number} fails")
            return called(number, given)

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
            task = self.app.tasks["step"]
            made = task.s(number=node.number, token=token, fails=node.fails, retries=node.retries)
            made.set(immutable=node.immutable)
            if node.errback:
                made.link_error(self.app.tasks["failed"].s(number=node.number, token=token))
            for link in node.links:
                made.link(self.signature(link, token))
            return made
        if isinstance(node, Map):
            return self.app.tasks["mapped"].map([f"{token}:{item}" for item in node.items])
        if isinstance(node, Chain):
            return canvas.chain(*(self.signature(step, token) for step in node.steps))
        if isinstance(node, Group):
            # Of a generator, which is read by whoever looks first.
            return canvas.group((self.signature(member, token) for member in node.members), app=self.app)
        header = [self.signature(member, token) for member in node.header]
        return canvas.chord(header, self.signature(node.body, token), app=self.app)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    with Worker(runner.app, concurrency=4):
        yield runner
    runner.app.close()


def marks(node: Node) -> tuple[Any, ...]:
    """Two canvases of different marks are different signatures: a link that is there already is not linked again."""
    return tuple(
        each.number if isinstance(each, Step) else each.items for each in within(node) if isinstance(each, Step | Map)
    )


def nodes(depth: int, failures: bool) -> st.SearchStrategy[Node]:
    """Canvases of at most `depth` levels. A step that fails is rare, so that some of most canvases runs."""
    number = st.integers(0, 9)
    fails = st.sampled_from([False, False, False, True]) if failures else st.just(False)
    step = {"number": number, "fails": fails, "retries": st.sampled_from([0, 0, 0, 0, 1, 2])}
    if depth == 0:
        return st.builds(Step, **step, immutable=st.sampled_from([False, False, True]))
    inner = nodes(depth - 1, failures)
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    empty = st.just(Group(()))
    return st.one_of(
        nodes(0, failures),
        st.builds(Step, **step, links=st.lists(inner, max_size=2, unique_by=marks).map(tuple)),
        st.builds(Map, st.lists(number, max_size=3).map(tuple)),
        st.builds(
            Chain, st.tuples(inner, st.lists(st.one_of(inner, inner, empty), max_size=3)).map(lambda t: (t[0], *t[1]))
        ),
        st.builds(Group, some),
        st.builds(Chord, some, inner),
    )


def compare(runner: Runner, node: Node, how: str = "sent") -> None:
    """Run it, and evaluate it: the value or the kind of error, and who ran how often, must be the same."""
    direct = Direct()
    token = uuid.uuid4().hex
    runner.ran[token] = Counter()
    try:
        expected, kinds = direct.result(node, FIRST), set()
    except Broken as broken:
        expected, kinds = None, broken.kinds
    runner.wanted[token] = direct.ran
    made = runner.signature(node, token)
    if how == "as data":
        made = runner.app.signature(json.loads(json.dumps(made)))
    result = made.apply((FIRST,)) if how == "here" else made.apply_async((FIRST,))
    if kinds:
        with pytest.raises(Exception, match="fails") as caught:
            result.get(timeout=PATIENCE)
        assert type(caught.value).__name__ in kinds
    else:
        assert result.get(timeout=PATIENCE) == expected
    assert runner.wait_for(token, direct.ran) == direct.ran


def canvases(*, failures: bool) -> st.SearchStrategy[Node]:
    """Those whose meaning is not in doubt."""
    return nodes(3, failures).filter(lambda node: not any(map(is_odd, within(node))))


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


class TestGenerated:
    @several
    @example(node=INSIDE, how="sent")
    @example(node=EMPTY, how="as data")
    @example(node=ENDING, how="here")
    @example(node=ENDING, how="sent")
    @example(node=LONELY, how="here")
    @given(node=canvases(failures=False), how=st.sampled_from(["sent", "sent", "as data", "here"]))
    def test_it_comes_to_what_calling_the_functions_does(self, runner: Runner, node: Node, how: str) -> None:
        compare(runner, node, how)

    @several
    @given(node=canvases(failures=True))
    def test_a_failure_is_told_at_the_end_and_nothing_hangs(self, runner: Runner, node: Node) -> None:
        compare(runner, node)

    def test_nothing_ran_twice(self, runner: Runner) -> None:
        """Of all that this worker was given, now that what came last has ended."""
        compare(runner, Chain((Step(1), Group((Step(2), Step(3))), Step(4))))
        assert runner.ran == runner.wanted
