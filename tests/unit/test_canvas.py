"""Signatures of several calls: what they are made into, and what comes of them, here and in an embedded worker."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel import errors, states
from kernel.app import Kernel
from kernel.call import Call
from kernel.canvas import Signature, chain, chunks, group, maybe_signature, signature, xmap, xstarmap
from kernel.groupresult import GroupResult, ResultSet
from kernel.request import Request
from kernel.result import AsyncResult, EagerResult, result_from_tuple
from kernel.task import Task
from kernel.worker.worker import Worker

Make = Callable[[Kernel], Any]
TIMEOUT = 20.0


def make_app(**settings: Any) -> Kernel:
    app = Kernel("canvas", broker="memory://", backend="memory://", **settings)
    seen: list[Any] = []
    app.seen = seen  # type: ignore[attr-defined]

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    @app.task(name="fail")
    def fail(x: Any = None) -> None:
        raise ValueError(f"no {x}")

    @app.task(name="note", bind=True)
    def note(self: Task[..., Any], *args: Any) -> list[Any]:
        request: Request = self.request
        seen.append((list(args), request.id, request.root_id, request.parent_id, request.group, request.group_index))
        return list(args)

    @app.task(name="errback")
    def errback(request: Request, exc: BaseException, traceback: str) -> None:
        seen.append((request.task, str(exc)))

    @app.task(name="plan")
    def plan(x: int) -> Any:
        return app.tasks["add"].s(x, 1) | app.tasks["double"].s()

    return app


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = make_app()
    yield app
    app.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Kernel]:
    """An app whose worker runs on threads of this process."""
    app = make_app()
    with Worker(app, concurrency=4):
        yield app
    app.close()


def s(app: Kernel, name: str, *args: Any, **options: Any) -> Signature[Any]:
    return app.tasks[name].s(*args).set(**options)


def add(app: Kernel, *args: Any) -> Signature[Any]:
    return s(app, "add", *args)


def double(app: Kernel, *args: Any) -> Signature[Any]:
    return s(app, "double", *args)


# --- composition: rows 4-44 to 4-60 -------------------------------------------------------------------------


def shape(signature: Any) -> Any:
    """A signature as nested tuples."""
    kind = signature["subtask_type"]
    return (kind, *map(shape, signature.tasks)) if kind in ("chain", "group") else signature.task


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda a: add(a) | double(a), ("chain", "add", "double")),
        (lambda a: add(a) | group(double(a), double(a)), ("chain", "add", ("group", "double", "double"))),
        (lambda a: add(a) | group(double(a)), ("chain", "add", "double")),
        (lambda a: add(a) | group(), ("chain", "add", ("group",))),
        (lambda a: add(a) | (double(a) | double(a)), ("chain", "add", "double", "double")),
        (lambda a: (add(a) | double(a)) | double(a), ("chain", "add", "double", "double")),
        (lambda a: (add(a) | double(a)) | (add(a, 1) | double(a)), ("chain", "add", "double", "add", "double")),
        (lambda a: (add(a) | double(a)) | group(), ("chain", "add", "double")),
        (
            lambda a: (add(a) | double(a)) | group(double(a), add(a)),
            ("chain", "add", "double", ("group", "double", "add")),
        ),
        (lambda a: chain() | group(add(a), add(a)), ("group", "add", "add")),
        (lambda a: chain() | add(a), ("chain", "add")),
        (lambda a: group() | add(a), "celery.chord"),
        (lambda a: group() | group(), ("group",)),
        (lambda a: group(add(a), add(a)) | chain(), ("group", "add", "add")),
        (lambda a: chain(group(), add(a)), ("chain", "add")),
        (lambda a: group(add(a), add(a)) | group(), ("group", "add", "add")),
        (lambda a: chain(add(a)), ("chain", "add")),
        (lambda a: chain([add(a), double(a)]), ("chain", "add", "double")),
        (lambda a: chain(x for x in (add(a), double(a))), ("chain", "add", "double")),
        (lambda a: chain([group(add(a), add(a))]), ("group", "add", "add")),
        (lambda a: chain(group(add(a), add(a)), queue="q"), ("chain", ("group", "add", "add"))),
        (lambda a: chain(chain(add(a), double(a)), double(a)), ("chain", "add", "double", "double")),
        (lambda a: chain(), ("chain",)),
        (lambda a: group(add(a) for _ in range(3)), ("group", "add", "add", "add")),
        (lambda a: group([add(a), dict(double(a))]), ("group", "add", "double")),
    ],
)
def test_what_operators_make(app: Kernel, make: Make, expected: Any) -> None:
    assert shape(make(app)) == expected


def test_operators_leave_their_operands_alone(app: Kernel) -> None:
    first, second = add(app, 1, 2), double(app) | double(app)
    before = copy.deepcopy((first, second))
    joined: Any = first | second
    joined.tasks[0].set(queue="q")
    joined.tasks[-1].link(add(app, 1))
    assert (first, second) == before
    first |= second
    assert shape(first) == ("chain", "add", "double", "double")
    with pytest.raises(TypeError):
        _ = add(app) | 5


@pytest.mark.parametrize(
    "make",
    [
        lambda a: add(a, 1, 2) | double(a),
        lambda a: group(add(a, 1, 2), add(a, 1) | double(a)),
        lambda a: add(a, 1, 2) | group(double(a), add(a, 1) | double(a)),
        lambda a: a.tasks["double"].map([1, 2]),
        lambda a: a.tasks["add"].starmap([[1, 2]]),
        lambda a: a.tasks["add"].chunks([[1, 2], [3, 4]], 1),
        lambda a: add(a, 1).set(queue="q", link=[double(a) | double(a)]),
    ],
)
def test_they_survive_json_pickle_and_copies(app: Kernel, make: Make) -> None:
    made = make(app)
    text = json.dumps(made)
    for again in (
        Signature.from_dict(json.loads(text), app),
        app.signature(json.loads(text)),
        maybe_signature(json.loads(text), app),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
        signature(made),
        made.clone(),
    ):
        assert type(again) is type(made)
        assert json.loads(json.dumps(again)) == json.loads(text)
        assert again is not made


@pytest.mark.parametrize(
    "data",
    [
        {"task": "celery.chain", "subtask_type": "chain", "kwargs": {"tasks": [5]}},
        {"task": "celery.chain", "subtask_type": "chain"},
        {"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": "add"}},
        {"task": "celery.map", "subtask_type": "xmap", "kwargs": {"task": "add", "it": []}},
        {"task": "celery.chunks", "subtask_type": "chunks", "kwargs": {"task": {"task": "add"}, "it": [], "n": 0}},
        {"task": "x", "subtask_type": ["chain"]},
    ],
)
def test_what_is_no_canvas_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidTaskError, match=r"signature|chunks|known are"):
        Signature.from_dict(data)


def test_types_of_the_programs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signature, "types", {})

    @Signature.register_type()
    class loud(Signature[Any]):
        pass

    made = Signature.from_dict({"task": "x", "subtask_type": "loud"})
    assert type(made) is loud
    assert type(made.clone(queue="q")) is loud


# --- freezing -----------------------------------------------------------------------------------------------


def test_a_frozen_chain_keeps_its_ids(app: Kernel) -> None:
    made: Any = add(app, 1, 2) | double(app) | double(app)
    result = made.freeze("end")
    assert result.id == made.id == "end"
    ids = made.ids()
    assert [result.parent.parent.id, result.parent.id, result.id] == ids
    assert result.parent.parent.parent is None
    assert made.freeze().id == "end"
    assert made.apply_async().as_list() == ids[::-1]
    assert app.broker.peek("celery", 1)[0].id == ids[0]


def test_an_unfrozen_canvas_is_sent_any_number_of_times(app: Kernel) -> None:
    made = group(add(app, 1, 2), add(app, 3, 4) | double(app))
    first, second = made.delay(), made.delay()
    assert first.id != second.id
    assert not {*first.ids()} & {*second.ids()}
    assert len({message.id for message in app.broker.peek("celery", 10)}) == 4


def test_a_frozen_group_names_its_members(app: Kernel) -> None:
    made: Any = group(add(app, 1, 2), group(double(app, 1), double(app, 2)), add(app, 1, 1) | double(app))
    result = made.freeze("g")
    assert result.id == "g"
    assert len(made) == len(result) == 4
    options = [member.options for member in made.tasks[:3]] + [made.tasks[3].tasks[-1].options]
    assert [item["group_id"] for item in options] == ["g"] * 4
    assert [item["group_index"] for item in options] == [0, 1, 2, 3]
    assert "group_id" not in made.tasks[3].tasks[0].options


# --- publishing ---------------------------------------------------------------------------------------------


def test_a_chain_travels_in_its_first_message_reversed(app: Kernel) -> None:
    made = add(app, 2) | double(app).set(queue="other") | add(app, 5)
    result = made.apply_async((1,), queue="first", link=double(app), link_error=s(app, "errback"), task_id="end")
    (message,) = app.broker.peek("first", 5)
    args, _, embed = app.codecs.decode_body(message)
    assert (message.task, args) == ("add", [1, 2])
    assert [item["task"] for item in embed["chain"]] == ["add", "double"]
    assert embed["chain"][0]["options"]["task_id"] == "end" == result.id
    assert embed["chain"][1]["options"]["queue"] == "other"
    assert [link["task"] for link in embed["chain"][0]["options"]["link"]] == ["double"]
    for item in ({"options": {"link_error": embed["errbacks"]}}, *embed["chain"]):
        assert [link["task"] for link in item["options"]["link_error"]] == ["errback"]
    assert embed["callbacks"] is None


def test_a_group_goes_in_one_batch(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    publish = app.broker.publish

    def counted(batch: Any) -> Any:
        batches.append(len(batch))
        return publish(batch)

    monkeypatch.setattr(app.broker, "publish", counted)
    result = group(double(app, n) for n in range(50)).apply_async(queue="q")
    assert batches == [50]
    assert result.ids() == [message.id for message in app.broker.peek("q", 60)]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda a: group(double(a, 1), add(a, 1)), TypeError),
        (lambda a: add(a) | double(a), TypeError),
        (lambda a: group(double(a, 1), double(a, object())), errors.EncodeError),
    ],
)
def test_what_cannot_be_called_is_told_and_nothing_is_sent(app: Kernel, make: Make, error: type[Exception]) -> None:
    with pytest.raises(error):
        make(app).delay()
    assert not app.broker.peek("celery", 10)


def test_options_that_a_group_cannot_have(app: Kernel) -> None:
    made = group(double(app, 1))
    with pytest.raises(TypeError, match="chord"):
        made.apply_async(link=double(app))
    with pytest.raises(TypeError, match="link_error"):
        made.apply_async(link_error=s(app, "errback"))


def test_links_of_groups(app: Kernel) -> None:
    made = group(double(app, 1), double(app, 2))
    made.link(s(app, "note", 1))
    made.link_error(s(app, "errback"))
    first, second = made.tasks
    assert first.options["link"] == [s(app, "note", 1).set(immutable=True)]
    assert "link" not in second.options
    assert [len(member.options["link_error"]) for member in made.tasks] == [1, 1]
    made.set_immutable(True)
    assert all(member.immutable for member in made.tasks)


def test_skew(app: Kernel) -> None:
    made = group(double(app, n) for n in range(4))
    assert [member.options["countdown"] for member in made.skew(1, 3).tasks] == [1, 2, 3, 3]
    assert [member.options["countdown"] for member in made.skew(start=2, step=5).tasks] == [2, 7, 12, 17]


@pytest.mark.parametrize("make", [lambda: group(), lambda: group(iter(())), lambda: group(group(), chain())])
def test_nothing_to_do(make: Callable[[], Any]) -> None:
    """Neither has an app, nor needs one."""
    assert (bool(group()), chain().delay(), chain().apply()) == (False, None, None)
    for empty in (make().delay(), make().apply(), asyncio.run(make().aapply_async()), make()()):
        assert isinstance(empty, GroupResult)
        assert (empty.get(timeout=1), empty.ready(), empty.successful()) == ([], True, True)


def test_maps_go_where_the_task_goes(app: Kernel) -> None:
    @app.task(name="elsewhere", queue="far")
    def elsewhere(x: int) -> int:
        return x

    elsewhere.map([1, 2]).delay()
    elsewhere.chunks([(1,), (2,), (3,)], 2).delay()
    assert [message.task for message in app.broker.peek("far", 5)] == ["celery.map", "celery.starmap", "celery.starmap"]
    with pytest.raises(TypeError, match="task or the signature"):
        xmap("elsewhere", [1])  # type: ignore[arg-type]


# --- what comes of it ---------------------------------------------------------------------------------------

VALUES: list[tuple[str, Make, Any]] = [
    ("chain", lambda a: add(a, 1, 2) | double(a) | add(a, 10), 16),
    ("chain of one", lambda a: chain(add(a, 1, 2)), 3),
    ("immutable", lambda a: add(a, 1, 2) | a.tasks["double"].si(5), 10),
    ("group", lambda a: group(double(a, n) for n in range(4)), [0, 2, 4, 6]),
    ("groups in groups", lambda a: group(double(a, 1), group(double(a, 2), double(a, 3))), [2, 4, 6]),
    ("chains in a group", lambda a: group(add(a, 1, 2) | double(a), double(a, 1)), [6, 2]),
    ("a group ends a chain", lambda a: add(a, 1, 2) | double(a) | group(double(a), add(a, 1)), [12, 7]),
    ("chains end a chain", lambda a: double(a, 1) | group(double(a) | double(a), add(a, 1)), [8, 3]),
    ("a nested end", lambda a: group(double(a, 1) | group(double(a), add(a, 1)), double(a, 5)), [[4, 3], 10]),
    ("nested chains", lambda a: chain(chain(add(a, 1, 1), chain(double(a), double(a))), chain(add(a, 1))), 9),
    ("a chain as a chain's argument of options", lambda a: chain(chain(add(a, 1, 1), queue="celery"), double(a)), 4),
    ("a group of one", lambda a: double(a, 1) | group(double(a)) | double(a), 8),
    ("empty groups", lambda a: chain(double(a, 1), group(), double(a)), 4),
    ("map", lambda a: a.tasks["double"].map([1, 2, 3]), [2, 4, 6]),
    ("starmap", lambda a: a.tasks["add"].starmap([(1, 2), (3, 4)]), [3, 7]),
    ("chunks", lambda a: a.tasks["add"].chunks([(n, n) for n in range(5)], 2), [[0, 2], [4, 6], [8]]),
    ("xmap", lambda a: xmap(double(a), range(3)), [0, 2, 4]),
    ("a map in a chain", lambda a: xstarmap(add(a), [(1, 2)]) | s(a, "note"), [[3]]),
    ("chunks end a chain", lambda a: double(a, 1) | chunks(double(a), [(1,), (2,)], 1), [[2], [4]]),
]


@pytest.mark.parametrize(("make", "value"), [row[1:] for row in VALUES], ids=[row[0] for row in VALUES])
class TestValues:
    def test_in_a_worker(self, running: Kernel, make: Make, value: Any) -> None:
        assert make(running).apply_async().get(timeout=TIMEOUT) == value

    def test_here(self, app: Kernel, make: Make, value: Any) -> None:
        assert make(app).apply().get() == value
        assert not app.broker.peek("celery", 10)

    def test_always_eager(self, make: Make, value: Any) -> None:
        app = make_app(task_always_eager=True)
        assert make(app).delay().get() == value
        app.close()

    def test_awaited(self, running: Kernel, make: Make, value: Any) -> None:
        async def run() -> Any:
            async with asyncio.timeout(TIMEOUT):
                return await make(running)

        assert asyncio.run(run()) == value

    def test_from_json_and_linked(self, running: Kernel, make: Make, value: Any) -> None:
        made = running.signature(json.loads(json.dumps(make(running))))
        made.immutable or made.set(immutable=True)  # what the task before returns is not for it
        result = (running.tasks["double"].si(1) | made).apply_async()
        assert result.get(timeout=TIMEOUT) == value


def test_lineage(running: Kernel) -> None:
    seen: list[Any] = running.seen  # type: ignore[attr-defined]
    seen.clear()
    result: Any = (
        s(running, "note", 1) | s(running, "note") | group(s(running, "note", 2), s(running, "note", 3))
    ).delay()
    assert result.get(timeout=TIMEOUT) == [[[[1]], 2], [[[1]], 3]]
    second, first = result.parent, result.parent.parent
    rows = {row[1]: row for row in seen}
    assert rows[first.id][2:4] == (first.id, None)
    assert rows[second.id][2:4] == (first.id, first.id)
    for index, member in enumerate(result):
        assert rows[member.id][2:] == (first.id, second.id, result.id, index)


def test_a_failure_is_that_of_all_that_come_after(running: Kernel) -> None:
    seen: list[Any] = running.seen  # type: ignore[attr-defined]
    seen.clear()
    made = double(running, 1) | s(running, "fail") | double(running) | group(double(running), double(running))
    result: Any = made.apply_async(link_error=s(running, "errback"))
    with pytest.raises(ValueError, match="no 2"):
        result.get(timeout=TIMEOUT)
    assert [member.state for member in result] == [states.FAILURE, states.FAILURE]
    assert result.parent.state == result.parent.parent.state == states.FAILURE
    assert result.parent.parent.parent.get(timeout=TIMEOUT) == 2
    assert seen == [("fail", "no 2")]


def test_a_failure_here(app: Kernel) -> None:
    with pytest.raises(ValueError, match="no 2"):
        (double(app, 1) | s(app, "fail") | double(app)).apply()
    result: Any = (double(app, 1) | s(app, "fail")).apply(link_error=s(app, "errback"))
    assert (result.state, result.parent.get()) == (states.FAILURE, 2)
    assert app.seen == [("fail", "no 2")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("eager", [False, True])
def test_a_link_may_be_a_canvas(running: Kernel, eager: bool) -> None:
    seen: list[Any] = running.seen  # type: ignore[attr-defined]
    seen.clear()
    made = double(running, 1)
    made.link(double(running) | group(s(running, "note", "a"), s(running, "note", "b")))
    result: Any = made.apply() if eager else made.delay()
    assert result.get(timeout=TIMEOUT) == 2
    if not eager:
        (child,) = result.children
        assert child.get(timeout=TIMEOUT) == 4
        for note in child.children:
            note.get(timeout=TIMEOUT)
    assert sorted(row[0] for row in seen) == [[4, "a"], [4, "b"]]


def test_a_signature_as_result_and_argument(running: Kernel) -> None:
    data = running.tasks["plan"].delay(2).get(timeout=TIMEOUT)
    made = maybe_signature(data, running)
    assert isinstance(made, chain)
    assert made.delay().get(timeout=TIMEOUT) == 6
    (again,) = running.tasks["note"].delay(made).get(timeout=TIMEOUT)
    assert maybe_signature(again, running) == maybe_signature(json.loads(json.dumps(made)), running)


# --- results of several -------------------------------------------------------------------------------------


def test_a_group_result(running: Kernel) -> None:
    result: Any = group(double(running, 1), s(running, "fail"), double(running, 3)).delay()
    with pytest.raises(ValueError, match="no None"):
        result.get(timeout=TIMEOUT)
    values = result.join(timeout=TIMEOUT, propagate=False)
    assert [values[0], values[2], type(values[1])] == [2, 6, ValueError]
    assert (result.ready(), result.waiting(), result.successful(), result.failed()) == (True, False, False, True)
    assert result.completed_count() == 2
    called: list[Any] = []
    assert result.get(timeout=TIMEOUT, propagate=False, callback=lambda *pair: called.append(pair)) == []
    assert [task_id for task_id, _ in called] == result.ids()
    with pytest.raises(ValueError, match="no None"):
        result.maybe_throw()
    assert asyncio.run(result.aget(TIMEOUT, propagate=False))[0] == 2


def test_a_group_that_does_not_end(app: Kernel) -> None:
    result: Any = group(double(app, n) for n in range(3)).delay()
    with pytest.raises(errors.TimeoutError):
        result.get(timeout=0.05)
    assert (result.ready(), result.completed_count(), result.failed()) == (False, 0, False)


def test_a_group_is_saved_and_restored(running: Kernel) -> None:
    made: Any = (double(running, 1) | group(double(running), add(running, 1))).delay()
    assert made.save() is made
    again = running.GroupResult.restore(made.id)
    assert again is not None
    assert (again, again.parent) == (made, made.parent)
    assert again.get(timeout=TIMEOUT) == [4, 3]
    again.delete()
    assert GroupResult.restore(made.id, app=running) is None
    assert result_from_tuple(json.loads(json.dumps(made.as_tuple())), running) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_set_of_results(app: Kernel) -> None:
    first, second = (app.AsyncResult(name) for name in "ab")
    results = app.ResultSet([first])
    results.add(second)
    results.add(first)
    assert [*results] == [first, second]
    assert (len(results), results[1]) == (2, second)
    results.discard(second)
    results.remove(first)
    with pytest.raises(KeyError):
        results.remove(first)
    results.update([first, second, first])
    assert results == ResultSet([first, second])
    results.clear()
    assert len(results) == 0


def test_revoking_a_group_is_one_command(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("kernel.control.Control.revoke", lambda self, ids, **options: told.append((ids, options)))
    result: Any = group(double(app, 1), group(double(app, 2), double(app, 3))).delay()
    result.revoke(terminate=True)
    assert told == [(result.ids(), {"terminate": True, "signal": "SIGTERM"})]


def test_children_of_a_task_that_makes_a_group(running: Kernel) -> None:
    @running.task(name="spawn")
    def spawn() -> str:
        return str(group(double(running, 1), double(running, 2)).delay().id)

    result: AsyncResult[Any] = spawn.delay()
    group_id = result.get(timeout=TIMEOUT)
    (child,) = result.children or [None]
    assert isinstance(child, GroupResult)
    assert (child.id, child.get(timeout=TIMEOUT)) == (group_id, [2, 4])


def test_eager_results_have_parents(app: Kernel) -> None:
    result: Any = (double(app, 1) | group(double(app), double(app))).apply()
    assert isinstance(result.parent, EagerResult)
    assert (result.parent.get(), result.parent.parent) == (2, None)


def test_a_map_that_cannot_run_does_not_fail_whom_it_follows(running: Kernel) -> None:
    """Also one that somebody else made, whose items nobody looked at."""
    add = running.tasks["add"]
    link = group(add.starmap([(1, 2), (3,)]), add.s(1))
    unchecked = {**running.tasks["double"].s(2), "options": {"link": [json.loads(json.dumps(link))]}}
    publication = running.publisher.prepare(Call.from_signature(running.signature(unchecked)))
    running.publisher.send([publication])
    assert running.AsyncResult(publication.message.id).get(timeout=TIMEOUT) == 4
