"""Groups and headers that are made of generators."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel import StampingVisitor, chain, chord, errors, group
from kernel.app import Kernel
from kernel.canvas.later import Later
from kernel.signature import Signature


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = Kernel("later", broker="memory://", backend="memory://")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    yield app
    app.close()


class Source:
    """A generator of members, and how many were asked for."""

    def __init__(self, app: Kernel, count: int = 3) -> None:
        self._add = app.tasks["add"]
        self._count = count
        self.made = 0

    def __iter__(self) -> Iterator[Any]:
        for number in range(self._count):
            self.made += 1
            yield self._add.s(number, 1)

    def members(self) -> Iterator[Any]:
        return iter(self)


@pytest.fixture
def source(app: Kernel) -> Source:
    return Source(app)


def test_a_group_is_read_when_it_is_sent(app: Kernel, source: Source) -> None:
    made = group(source.members(), app=app)
    assert repr(made) == "group(<a generator>)"
    assert source.made == 0
    result = made.delay()
    assert source.made == len(result.results) == 3
    assert repr(made) == "group(add(0, 1), add(1, 1), add(2, 1))"
    again = made.delay()
    assert source.made == 3
    assert len(again.results) == 3
    assert [message.headers["argsrepr"] for message in app.broker.peek("celery", 10)] == [
        "(0, 1)", "(1, 1)", "(2, 1)", "(0, 1)", "(1, 1)", "(2, 1)",
    ]  # fmt: skip


def test_a_header_is_read_when_its_chord_is_sent(app: Kernel, source: Source) -> None:
    made = chord(source.members(), app=app)
    body = app.tasks["total"].s()
    assert source.made == 0
    assert made(body).parent.results[2].id
    assert source.made == 3
    assert chord(Source(app).members(), body).apply().get() == 6


@pytest.mark.parametrize(
    "look",
    [
        len,
        bool,
        list,
        json.dumps,
        copy.copy,
        copy.deepcopy,
        lambda made: made.clone(),
        lambda made: made.tasks[0],
        lambda made: [1, *made.tasks] and [1] + made.tasks,  # noqa: RUF005 - what lists do
        lambda made: made == made.clone(),
        lambda made: made | Signature("total"),
        lambda made: chain(Signature("add", (1,)), made),
        lambda made: pickle.loads(pickle.dumps(made)),
    ],
)
def test_who_looks_sees_all_of_them(app: Kernel, source: Source, look: Callable[[Any], Any]) -> None:
    made = group(source.members(), app=app)
    look(made.tasks if look in (len, bool, list) else made)
    assert source.made == 3
    assert isinstance(made.tasks, Later)
    assert [member.args for member in made.tasks] == [(0, 1), (1, 1), (2, 1)]
    assert json.loads(json.dumps(made)) == json.loads(json.dumps(group(list(source.members()))))


def test_what_was_read_is_a_list_like_any_other(app: Kernel, source: Source) -> None:
    tasks = group(source.members(), app=app).tasks
    tasks.append(Signature("last"))
    assert [member.task for member in tasks] == ["add", "add", "add", "last"]
    assert [1] + tasks == [1, *tasks]  # noqa: RUF005
    tasks += [Signature("more")]
    assert (tasks.pop().task, len(tasks), tasks[-1] in tasks) == ("more", 4, True)


def test_members_are_stamped_when_they_are_made(app: Kernel, source: Source) -> None:
    class Numbers(StampingVisitor):
        def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
            return {"number": sig.args[0]}

    made = group(source.members(), app=app)
    made.stamp(Numbers(), batch="b")
    header = chord(source.members(), app.tasks["total"].s())
    header.stamp(batch="c")
    assert source.made == 0
    assert [(task.options["number"], task.options["batch"]) for task in made.tasks] == [(0, "b"), (1, "b"), (2, "b")]
    assert [task.options["batch"] for task in header.tasks] == ["c"] * 3


def test_a_generator_that_fails_is_no_short_one(app: Kernel) -> None:
    def failing() -> Iterator[Any]:
        yield app.tasks["add"].s(1, 1)
        raise LookupError("no more")

    made = group(failing(), app=app)
    for _ in range(2):
        with pytest.raises(LookupError, match="no more"):
            made.delay()
    with pytest.raises(errors.InvalidTaskError, match="got 5"):
        group(iter([app.tasks["add"].s(1, 1), 5]), app=app).delay()
    assert app.broker.peek("celery", 10) == []
