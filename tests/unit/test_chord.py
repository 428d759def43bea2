"""Chords: what they are made into, what their messages carry, and what comes of them in an embedded worker."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel import chain, chord, errors, group, states
from kernel.app import Kernel
from kernel.canvas.chord import leaves, shape_of, shaped
from kernel.groupresult import GroupResult
from kernel.interfaces.backend import ChordPart, Record
from kernel.message import Message
from kernel.request import Request
from kernel.signature import Signature
from kernel.task import Task
from kernel.worker.worker import Worker

TIMEOUT = 20.0
Make = Callable[[Kernel], Any]


def make_app(**settings: Any) -> Kernel:
    app = Kernel("chords", **{"broker": "memory://", "backend": "memory://", **settings})
    seen: list[Any] = []
    app.seen = seen  # type: ignore[attr-defined]

    @app.task(name="one")
    def one(x: Any) -> Any:
        return x

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="fail")
    def fail(x: Any = None) -> None:
        raise ValueError(f"no {x}")

    @app.task(name="give up")
    def give_up(way: str) -> None:
        raise errors.Ignore if way == "Ignore" else errors.Reject("not mine")

    class HandsOver(Task[Any, Any]):
        def on_replace(self, sig: Signature[Any]) -> None:
            sig.delay()
            raise errors.Ignore

    @app.task(name="hand over", base=HandsOver, bind=True)
    def hand_over(self: Task[..., Any], x: Any) -> None:
        self.replace(one.s(x))

    @app.task(name="note", bind=True)
    def note(self: Task[..., Any], *args: Any) -> Any:
        request: Request = self.request
        seen.append((list(args), request.id, request.parent_id, request.group))
        return list(args)

    @app.task(name="inline")
    def inline(request: Request, exc: BaseException, traceback: str) -> None:
        seen.append((request.id, exc))

    @app.task(name="errback")
    def errback(task_id: str) -> None:
        seen.append(task_id)

    @app.task(name="where", bind=True)
    def where(self: Task[..., Any], values: Any) -> Any:
        request: Request = self.request
        return [request.group, request.group_index]

    @app.task(name="silent", ignore_result=True)
    def silent(x: Any) -> None: ...

    return app


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = make_app()
    yield app
    app.close()


@pytest.fixture(scope="module", params=["memory", "sql"])
def worked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """An app whose worker runs on threads of this process."""
    url = f"sqlite:///{tmp_path_factory.mktemp('chords')}/data.db"
    urls = {} if request.param == "memory" else {"broker": url, "backend": f"db+{url}"}
    app = make_app(**urls)
    with Worker(app, concurrency=4):
        yield app
    app.close()


@pytest.fixture
def running(worked: Kernel) -> Kernel:
    """The same, in which nothing was seen yet."""
    worked.seen.clear()  # type: ignore[attr-defined]
    return worked


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def s(app: Kernel, name: str, *args: Any) -> Signature[Any]:
    return app.tasks[name].s(*args)


def ones(app: Kernel, *values: Any) -> list[Signature[Any]]:
    return [s(app, "one", value) for value in values]


def bodies(app: Kernel) -> list[tuple[Message, Any, Any, Any]]:
    """The messages that wait, each with its arguments and what is embedded."""
    return [(message, *app.codecs.decode_body(message)) for message in app.broker.peek("celery", 100)]


# --- what is made -------------------------------------------------------------------------------------------


def shape(signature: Any) -> Any:
    """A signature as nested tuples."""
    if signature is None:
        return None
    kind = signature["subtask_type"]
    if kind == "chord":
        return (kind, [shape(task) for task in signature.tasks], shape(signature.body))
    return (kind, *map(shape, signature.tasks)) if kind in ("chain", "group") else signature.task


TWO = ["one", "one"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda a: group(ones(a, 1, 2)) | s(a, "total"), ("chord", TWO, "total")),
        (
            lambda a: group(ones(a, 1, 2)) | group(s(a, "total"), s(a, "one")),
            ("chord", TWO, ("group", "total", "one")),
        ),
        (lambda a: group(ones(a, 1, 2)) | (s(a, "total") | s(a, "one")), ("chord", TWO, ("chain", "total", "one"))),
        (lambda a: group(ones(a, 1, 2)) | group(), ("group", "one", "one")),
        (
            lambda a: (s(a, "one", 1) | group(ones(a, 2, 3))) | s(a, "total"),
            ("chain", "one", ("chord", TWO, "total")),
        ),
        (
            lambda a: (s(a, "one", 1) | group(ones(a, 2, 3)) | s(a, "total")) | s(a, "one"),
            ("chain", "one", ("chord", TWO, ("chain", "total", "one"))),
        ),
        (
            lambda a: (s(a, "one", 1) | group(ones(a, 2, 3)) | s(a, "one")) | group(s(a, "total"), s(a, "one")),
            ("chain", "one", ("chord", TWO, ("chain", "one", ("group", "total", "one")))),
        ),
        (lambda a: chord(ones(a, 1, 2), s(a, "total")) | s(a, "one"), ("chord", TWO, ("chain", "total", "one"))),
        (lambda a: chord(ones(a, 1, 2), s(a, "total")) | group(s(a, "one")), ("chord", TWO, ("chain", "total", "one"))),
        (
            lambda a: chord(ones(a, 1, 2), s(a, "one")) | group(ones(a, 1, 2)),
            ("chain", ("chord", TWO, "one"), ("group", "one", "one")),
        ),
        (lambda a: chord(ones(a, 1, 2), s(a, "total")) | group(), ("chain", ("chord", TWO, "total"), ("group",))),
        (lambda a: s(a, "one", 1) | group() | s(a, "total"), ("chain", "one", ("chord", [], "total"))),
        (lambda a: chord(x for x in ones(a, 1, 2)), ("chord", TWO, None)),
        (lambda a: chord(group(ones(a, 1, 2)), s(a, "total")), ("chord", TWO, "total")),
        (lambda a: chord(s(a, "one", 1), s(a, "total")), ("chord", ["one"], "total")),
        (lambda a: a.tasks["add"].chunks([(1, 1), (2, 2)], 1) | s(a, "one"), ("chord", ["celery.starmap"] * 2, "one")),
    ],
)
def test_what_operators_make(app: Kernel, make: Make, expected: Any) -> None:
    assert shape(make(app)) == expected


def test_operators_leave_their_operands_alone(app: Kernel) -> None:
    header, whole = group(ones(app, 1, 2)), chord(ones(app, 1, 2), s(app, "total"))
    before = json.dumps([header, whole])
    made = [header | s(app, "total"), whole | s(app, "one"), whole | group(ones(app, 1, 2))]
    for each in made:
        each.freeze()
        each.link_error(s(app, "errback"))
    whole.clone().body.set(queue="other")  # type: ignore[union-attr]
    assert json.dumps([header, whole]) == before


def test_a_chord_survives_json_and_has_ids_once(app: Kernel) -> None:
    made = chord([s(app, "one", 1), chain(s(app, "one", 2), group(ones(app, 3, 4)))], s(app, "total")) | s(app, "one")
    result = made.freeze("last")
    again = Signature.from_dict(json.loads(json.dumps(made)), app)
    assert isinstance(again, chord)
    assert again.ids() == made.ids()
    assert again.freeze().id == result.id == "last"
    assert len(set(made.ids())) == len(made.ids()) == 6
    assert [leaf.options["group_index"] for member in again.tasks for leaf in leaves(member)] == [0, 1, 2]
    assert len(again) == 3


def test_the_result_is_the_body_s_and_its_parent_the_header_s(app: Kernel) -> None:
    result = (s(app, "one", 0) | group(ones(app, 1, 2)) | s(app, "total") | s(app, "one")).freeze("last")
    assert result.id == "last"
    header = result.parent.parent
    assert isinstance(header, GroupResult)
    assert len(header) == 2
    assert header.parent.parent is None


def test_what_a_message_of_a_member_carries(app: Kernel) -> None:
    result = chord(ones(app, 1, 2), s(app, "total")).set(queue="celery").apply_async(task_id="body")
    assert result.id == "body"
    for index, (message, args, _, embed) in enumerate(bodies(app)):
        assert args == [index + 1]
        assert message.headers["group"] == result.parent.id
        assert message.headers["group_index"] == index
        body = embed["chord"]
        assert (body["task"], body["options"]["task_id"], body["chord_size"]) == ("total", "body", 2)


def test_messages_do_not_grow_with_the_header_or_with_depth(app: Kernel) -> None:
    def largest(sizes: list[int]) -> int:
        made: Signature[Any] = s(app, "one", 0)
        for size in sizes:
            made |= group(s(app, "one") for _ in range(size))
        (made | s(app, "total")).delay()
        found = max(len(message.body) for message in app.broker.peek("celery", 1000))
        app.broker.purge("celery")
        return found

    assert chord_bytes(app, 200) < chord_bytes(app, 2) + 50
    # Each level adds what it is, and not a multiple of all that follows.
    steps = [largest([3] * depth) for depth in range(2, 7)]
    growth = [after - before for before, after in itertools.pairwise(steps)]
    assert max(growth) < 1.5 * min(growth)


def chord_bytes(app: Kernel, size: int) -> int:
    chord([s(app, "one", 1) for _ in range(size)], s(app, "total")).delay()
    found = max(len(message.body) for message in app.broker.peek("celery", 1000))
    app.broker.purge("celery")
    return found


def test_shapes() -> None:
    assert shaped([1, 2, 3], None) == [1, 2, 3]
    assert shaped([1, 2, 3, 4, 5], [[1, None], [2, [[2, None]]]]) == [1, [2, 3], [4, 5]]
    for wrong in ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6]):
        with pytest.raises(ValueError, match="shape"):
            shaped(wrong, [[1, None], [2, [[2, None]]]])


def test_the_shape_of_many_equal_members_is_short(app: Kernel) -> None:
    assert shape_of(ones(app, 1, 2)) is None
    members = [chain(s(app, "one", 1), group(ones(app, 1, 2))) for _ in range(50)]
    assert shape_of([*members, s(app, "one", 1)]) == [[50, [[2, None]]], [1, None]]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda a: chord([s(a, "silent", 1)], s(a, "total")), errors.InvalidTaskError, "silent.*ignores its result"),
        (
            lambda a: chord([s(a, "one", 1).set(ignore_result=True)], s(a, "total")),
            errors.InvalidTaskError,
            "one.*ignores its result",
        ),
        (lambda a: chord(ones(a, 1)), TypeError, "no body"),
    ],
)
def test_what_cannot_be_joined_is_an_error_for_the_caller(
    app: Kernel, make: Make, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(app).delay()
    assert not app.broker.peek("celery", 10)


def test_no_backend_is_an_error_for_the_caller() -> None:
    app = make_app(backend=None, result_backend="disabled")
    try:
        with pytest.raises(NotImplementedError, match="'total' cannot be joined"):
            chord(ones(app, 1), s(app, "total")).delay()
        assert not app.broker.peek("celery", 10)
    finally:
        app.close()


@pytest.mark.parametrize("header", [5, "ab", [1], None])
def test_a_header_of_anything_else(app: Kernel, header: Any) -> None:
    with pytest.raises(errors.InvalidTaskError, match=r"header|group"):
        chord(header, s(app, "total"))


# --- what comes of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda a: chord([s(a, "add", n, n) for n in range(5)])(s(a, "total")), 20),
        (lambda a: chord([])(s(a, "total")), 0),
        (lambda a: chord([chain()])(s(a, "total")), 0),
        (lambda a: (group(ones(a, 1, 2)) | s(a, "total") | s(a, "add", 10)).delay(), 13),
        (lambda a: (group(ones(a, 1, 2)) | group(s(a, "total"), s(a, "one"))).delay(), [3, [1, 2]]),
        (lambda a: chord([s(a, "add", 1), s(a, "add", 2)], s(a, "total")).apply_async((10,)), 23),
        (
            lambda a: chain(
                *(s(a, "one", 3), group(s(a, "add", 1), s(a, "add", 2)), s(a, "total")),
                *(group(s(a, "add", 1), s(a, "add", 2)), s(a, "total")),
            ).delay(),
            21,
        ),
        (
            lambda a: chord(
                [
                    chain(s(a, "one", 1), group(s(a, "add", 1), s(a, "add", 2))),
                    s(a, "add", 5, 5),
                    chord(ones(a, 7, 8), s(a, "one")),
                ],
                s(a, "one"),
            ).delay(),
            [[2, 3], 10, [7, 8]],
        ),
        (
            lambda a: chord(ones(a, 1, 2), chord([s(a, "total"), s(a, "total")], s(a, "one"))).delay(),
            [3, 3],
        ),
        (
            lambda a: chord(
                [chord([chord(ones(a, n), s(a, "total"))], s(a, "total")) for n in (1, 2)], s(a, "total")
            )(),
            3,
        ),
    ],
)
def test_values(running: Kernel, make: Make, expected: Any) -> None:
    assert make(running).get(timeout=TIMEOUT) == expected


def test_links_are_the_body_s(running: Kernel) -> None:
    seen: list[Any] = running.seen  # type: ignore[attr-defined]
    result = chord(ones(running, 1, 2)).apply_async((), {"body": s(running, "total")}, link=s(running, "note"))
    assert result.get(timeout=TIMEOUT) == 3
    assert result.parent.get(timeout=TIMEOUT) == [1, 2]
    (child,) = result.children
    assert child.get(timeout=TIMEOUT) == [3]
    assert [(args, parent) for args, _, parent, _ in seen] == [([3], result.id)]


def test_immutable_members_and_an_immutable_body(running: Kernel) -> None:
    made = chord([s(running, "note", 1), s(running, "note", 2)], s(running, "note", 3).set(immutable=True))
    made.set_immutable(True)
    assert not made.body.options  # type: ignore[union-attr]
    assert (s(running, "one", 0) | made).delay().get(timeout=TIMEOUT) == [3]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (lambda a: [s(a, "one", 1), s(a, "fail", 3)], "ValueError"),
        (lambda a: [s(a, "one", 1), chain(s(a, "fail", 3), s(a, "one"))], "ValueError"),
        (lambda a: [chain(s(a, "fail", 3), group(s(a, "one"), s(a, "one")))], "ValueError"),
        (lambda a: [s(a, "one", 1), chord([s(a, "fail", 3), s(a, "one", 1)], s(a, "one"))], "ChordError"),
        (lambda a: [a.signature("nowhere", (1,)), s(a, "one", 1)], "NotRegistered"),
        (lambda a: [s(a, "one", 1).set(expires=-10), s(a, "one", 1)], "TaskRevokedError"),
        (lambda a: [s(a, "give up", "Ignore"), s(a, "one", 1)], "Ignore"),
        (lambda a: [s(a, "one", 1), s(a, "give up", "Ignore") | s(a, "one")], "Ignore"),
        (lambda a: [s(a, "give up", "Reject"), s(a, "one", 1)], "Reject"),
    ],
)
@pytest.mark.parametrize("form", ["task", "chain", "group", "chord"])
def test_a_member_that_fails_breaks_the_chord(running: Kernel, header: Make, text: str, form: str) -> None:
    seen: list[Any] = running.seen  # type: ignore[attr-defined]
    note = s(running, "note").on_error(s(running, "inline"))
    bodies: dict[str, Callable[[], Signature[Any]]] = {
        "task": lambda: note,
        "chain": lambda: note | s(running, "one"),
        "group": lambda: group(note, s(running, "one")),
        "chord": lambda: chord([s(running, "one"), s(running, "one")], note),
    }
    result = chord(header(running), bodies[form]()).delay()
    parts = result.results if isinstance(result, GroupResult) else [result]
    found = [part.get(timeout=TIMEOUT, propagate=False) for part in parts]
    if form == "group":
        # All of them have what their chord broke with.
        assert [type(error).__name__ for error in found] == [text, text]
    else:
        assert [type(error) for error in found] == [errors.ChordError]
        assert re.match(rf"(?i)Dependency [-0-9a-f]{{36}} raised {text}", str(found[0]))
    wait_for(lambda: seen)
    # A task of its own after all of this: whatever else was published has been run.
    assert chord(ones(running, 1, 2))(s(running, "total")).get(timeout=TIMEOUT) == 3
    assert [type(exc) for _, exc in seen] == [type(found[0])]


def test_a_member_that_is_ignored_because_it_was_replaced_breaks_nothing(running: Kernel) -> None:
    """Also where the task sends what takes its place by itself."""
    result = chord([s(running, "hand over", 1), s(running, "one", 2)], s(running, "total")).delay()
    assert result.get(timeout=TIMEOUT) == 3


@pytest.mark.parametrize("way", ["Ignore", "Reject"])
def test_here_a_member_without_a_value_breaks_the_chord_too(app: Kernel, way: str) -> None:
    with pytest.raises(errors.ChordError, match=rf"(?i)Dependency [-0-9a-f]{{36}} raised {way}"):
        chord([s(app, "one", 1), s(app, "give up", way)], s(app, "total")).apply()


def test_errbacks_of_both_forms_are_called_once_however_many_fail(running: Kernel) -> None:
    seen: list[Any] = running.seen  # type: ignore[attr-defined]
    body = s(running, "total").on_error(s(running, "inline")).on_error(s(running, "errback"))
    result = chord([s(running, "fail", n) for n in range(6)], body).delay()
    with pytest.raises(errors.ChordError):
        result.get(timeout=TIMEOUT)
    for member in result.parent.results:
        member.get(timeout=TIMEOUT, propagate=False)
    wait_for(lambda: len(seen) >= 2)
    assert chord(ones(running, 1, 2))(s(running, "total")).get(timeout=TIMEOUT) == 3
    assert sorted(item[0] if isinstance(item, tuple) else item for item in seen) == [result.id] * 2


def test_the_errback_of_a_chord_is_called_once_when_a_chord_in_it_breaks(running: Kernel) -> None:
    seen: list[Any] = running.seen  # type: ignore[attr-defined]
    made = chord([chord([s(running, "fail", 1)], s(running, "one")), s(running, "one", 2)], s(running, "total"))
    made.link_error(s(running, "errback"))
    result = made.delay()
    with pytest.raises(errors.ChordError):
        result.get(timeout=TIMEOUT)
    wait_for(lambda: seen)
    assert chord(ones(running, 1, 2))(s(running, "total")).get(timeout=TIMEOUT) == 3
    assert seen == [result.id]


@pytest.mark.parametrize("follows", [False, True])
def test_the_task_that_a_chord_calls_knows_the_group(running: Kernel, follows: bool) -> None:
    body = s(running, "where") | s(running, "one") if follows else s(running, "where")
    result = chord(ones(running, 1, 2))(body)
    assert result.get(timeout=TIMEOUT) == [list(result.parents())[-1].id, None]


@pytest.mark.parametrize("allowed", [False, True])
def test_errbacks_of_the_header(allowed: bool) -> None:
    app = make_app(task_allow_error_cb_on_chord_header=allowed)
    try:
        made = chord([s(app, "one", 1), chord(ones(app, 1), s(app, "one"))], s(app, "total"))
        made.link_error(s(app, "errback"))
        member, nested = made.tasks
        assert isinstance(nested, chord)
        assert bool(member.options.get("link_error")) is allowed
        assert [link["immutable"] for link in member.options.get("link_error", ())] == [True] * allowed
        assert nested.body is not None
        # Whoever waits for the outer one is told by it that the nested one is broken.
        assert bool(nested.body.options.get("link_error")) is allowed
        assert made.body is not None
        assert made.body.options["link_error"]
    finally:
        app.close()


def test_eager(app: Kernel) -> None:
    made = chord([s(app, "add", 1), s(app, "add", 2)], s(app, "total") | s(app, "add", 1))
    result = made.apply((10,))
    assert result.get() == 24
    assert result.parent.parent.get() == [11, 12]
    with pytest.raises(ValueError, match="no 7"):
        chord([s(app, "fail", 7)], s(app, "total")).apply()
    app.conf.update(task_always_eager=True)
    assert (s(app, "one", 1) | made).delay().get() == 6
    assert chord([])(s(app, "total")).get() == 0


def test_coroutines(running: Kernel) -> None:
    async def main() -> Any:
        waited = await chord(ones(running, 1, 2), s(running, "total"))
        sent = await chord(ones(running, 3, 4)).aapply_async((), {"body": s(running, "total")})
        return waited, await sent

    assert asyncio.run(asyncio.wait_for(main(), TIMEOUT)) == (3, 7)


def test_a_thousand_members(running: Kernel) -> None:
    result = chord((s(running, "one", n) for n in range(1000)), s(running, "total"))()
    assert result.get(timeout=2 * TIMEOUT) == 499500
    assert result.state == states.SUCCESS


def test_parts_are_kept_until_the_body_runs(running: Kernel) -> None:
    result = chord(ones(running, 1, 2))(s(running, "total"))
    assert result.get(timeout=TIMEOUT) == 3
    record = Record(id="late", state=states.SUCCESS)
    (state,) = running.backend.chord_parts([ChordPart(result.parent.id, 2, 1, record)])
    assert not state.complete
    assert not state.parts


@pytest.mark.parametrize("name", ["one", "fail"])
def test_a_chord_of_celery_s_where_it_looks_for_the_results(running: Kernel, name: str) -> None:
    """As Celery publishes it: nothing in the members says how many they are, and a task waits for them."""
    body = s(running, "total").on_error(s(running, "errback"))
    waited = body.freeze("body-" + name + running.conf.result_backend[:2])
    header = group(s(running, name, n) for n in range(3))
    made = header.freeze()
    for member in header.tasks:
        member.options["chord"] = dict(body)
    unlock = {"result": [member.as_tuple() for member in made.results], "interval": 0.05}
    running.send_task("celery.chord_unlock", (made.id, json.loads(json.dumps(body))), unlock)
    header.apply_async()
    if name == "one":
        assert waited.get(timeout=TIMEOUT) == 3
        return
    with pytest.raises(errors.ChordError, match=r"Dependency .* raised ValueError"):
        waited.get(timeout=TIMEOUT)
    wait_for(lambda: waited.id in running.seen)  # type: ignore[attr-defined]
