from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from kernel import chain, errors, group
from kernel.app import Kernel
from kernel.call import Call
from kernel.canvas.chord import chord
from kernel.request import Request, current_request
from kernel.signature import Lineage, Signature, as_signatures, maybe_signature, signature
from kernel.task import Task


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = Kernel("tests", broker="memory://", backend="memory://")

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    yield app
    app.close()


@pytest.fixture
def add(app: Kernel) -> Task[..., Any]:
    return app.tasks["add"]


def test_it_is_a_dictionary_of_celerys_shape(add: Task[..., Any]) -> None:
    assert dict(add.s(1, y=2).set(queue="q")) == {
        "task": "add",
        "args": (1,),
        "kwargs": {"y": 2},
        "options": {"queue": "q"},
        "subtask_type": None,
        "immutable": False,
    }
    assert add.si(1).immutable
    assert json.loads(json.dumps(add.s(1)))["args"] == [1]


def test_it_survives_json_pickle_and_copies(app: Kernel, add: Task[..., Any]) -> None:
    first = add.s(1, y=2).set(queue="q")
    again = Signature.from_dict(json.loads(json.dumps(first)), app)
    assert again == first
    assert again.app is app
    assert pickle.loads(pickle.dumps(first)) == first
    assert copy.deepcopy(first) == first
    assert copy.deepcopy(first).app is app


def test_arguments_of_the_call_come_first_and_its_names_win(app: Kernel, add: Task[..., Any]) -> None:
    partial = add.s(2, y=1)
    assert partial.merged((1,), {"y": 5}, {"queue": "a"}) == ((1, 2), {"y": 5}, {"queue": "a"})
    assert add.si(2).merged((1,), {"y": 5}, {"queue": "a"}) == ((2,), {}, {"queue": "a"})
    frozen = add.s().set(group_id="g", queue="q")
    assert frozen.merged((), {}, {"group_id": "h", "queue": None})[2] == {"group_id": "g", "queue": "q"}


def test_clones_do_not_share(add: Task[..., Any]) -> None:
    first = add.s(1).set(headers={"a": {"b": 1}})
    second = first.clone((0,), {"y": 1}, queue="q")
    second.options["headers"]["a"]["b"] = 2
    second.kwargs["z"] = 1
    assert first.options == {"headers": {"a": {"b": 1}}}
    assert first.kwargs == {}
    assert (second.args, second.options["queue"]) == ((0, 1), "q")
    assert first.replace(args=(9,)).args == (9,)


def test_links(add: Task[..., Any]) -> None:
    first, second = add.s(1), add.s(2)
    first.link(second)
    first.link(add.s(2))
    assert first.options["link"] == [second]
    assert first.on_error(add.s(3)) is first
    assert first.link_error(add.s(3)) == add.s(3)
    assert first.options["link_error"] == [add.s(3)]
    second.link(add.s(4))
    assert first.flatten_links() == [first, second, add.s(4)]


def test_it_is_frozen_once(add: Task[..., Any]) -> None:
    sig = add.s(1)
    result = sig.freeze(root_id="r")
    assert sig.freeze("other").id == result.id == sig.id
    assert sig.root_id == "r"
    assert sig.apply_async().id == result.id


def test_freezing_takes_what_celery_s_does(app: Kernel, add: Task[..., Any]) -> None:
    place: dict[str, Any] = {
        "group_id": "g",
        "chord": {"task": "total"},
        "root_id": "r",
        "parent_id": "p",
        "group_index": 3,
    }
    for name in ("_id", "task_id"):
        sig = add.s(1)
        given = {name: "own", **place}
        assert sig.freeze(**given).id == "own"
        assert sig.options == {"task_id": "own", "reply_to": app.oid, **place}
    by_place = add.s(1)
    by_place.freeze("own", "g", {"task": "total"}, "r", "p", 3)
    assert by_place.options == {"task_id": "own", "reply_to": app.oid, **place}
    by_place.freeze("other", root_id="s", group_id="h")
    assert (by_place.id, by_place.root_id, by_place.options["group_id"]) == ("own", "s", "g")
    canvases: list[Any] = [add.s(1) | add.s(2), chord([add.s(1, 1)], add.s(2)), group(add.s(1, 1))]
    for canvas in canvases:
        assert canvas.freeze(_id="last", root_id="r").id == "last"
        first = canvas.tasks[0]
        assert first.root_id == "r"


def test_calls(app: Kernel, add: Task[..., Any]) -> None:
    assert add.s(1)(2) == 3
    add.s(y=5).delay(1)
    add.s(1).set(queue="q").apply_async(priority=3)
    app.signature("unknown", (1,), queue="q").delay()
    assert app.codecs.decode_body(app.broker.peek("celery", 1)[0])[:2] == ([1], {"y": 5})
    assert sorted(message.task for message in app.broker.peek("q", 5)) == ["add", "unknown"]
    with pytest.raises(errors.NotRegistered):
        app.signature("unknown")()


def test_an_election_is_a_call_that_one_worker_runs(app: Kernel, add: Task[..., Any]) -> None:
    result = add.s(1, 2).set(task_id="daily").election()
    assert (result.id, app.broker.stats(["celery"])[0].ready) == ("daily", 1)
    (add.s(1) | add.s(2)).election()
    assert app.broker.stats(["celery"])[0].ready == 2


def test_without_an_app_it_belongs_to_the_running_task(app: Kernel) -> None:
    sig: Signature[int] = Signature("add", (1,))
    with pytest.raises(errors.ImproperlyConfigured, match=r"app\.signature"):
        sig.delay()
    token = current_request.set(Request(id="i", task="x", app=app, called_directly=False))
    try:
        assert sig.app is app
        assert sig.delay().app is app
    finally:
        current_request.reset(token)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"task": 5},
        {"task": ""},
        {"task": "a", "args": 5},
        {"task": "a", "kwargs": [1]},
        {"task": "a", "options": "x"},
    ],
)
def test_what_is_no_signature_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidTaskError):
        Signature.from_dict(data)


def test_an_unknown_type_is_told() -> None:
    with pytest.raises(errors.InvalidTaskError, match="frobnicate"):
        Signature.from_dict({"task": "celery.frobnicate", "subtask_type": "frobnicate", "kwargs": {"header": []}})


def test_maybe_and_as_signatures(add: Task[..., Any]) -> None:
    sig = add.s(1)
    assert maybe_signature(sig) is sig
    assert maybe_signature({"task": "x"}) == Signature("x")
    assert maybe_signature(5) == 5
    assert as_signatures(None) == []
    assert as_signatures(sig) == [sig]
    assert as_signatures([sig, dict(sig)]) == [sig, sig]


def test_the_call_that_a_link_means(add: Task[..., Any]) -> None:
    call = Call.from_signature(add.s(5).set(queue="q"), (1,), task_id="d", root_id="r", parent_id="p")
    assert (call.name, call.args, call.options, call.task_id) == ("add", (1, 5), {"queue": "q"}, "d")
    assert Call.from_signature(add.si(5), (1,)).args == (5,)
    frozen = add.s()
    frozen.freeze("own")
    assert Call.from_signature(frozen, task_id="d").task_id == "own"


def test_display(add: Task[..., Any]) -> None:
    assert repr(add.s(1, y="a")) == "add(1, y='a')"


def test_the_parts_can_be_set(add: Task[..., Any]) -> None:
    made = add.s()
    made.args, made.kwargs, made.options, made.immutable = [1], {"y": 2}, {"queue": "q"}, True
    assert made == add.si(1, y=2).set(queue="q")
    assert made.subtask_type is None


def test_what_celerys_constructor_takes(app: Kernel, add: Task[..., Any]) -> None:
    made: Signature[Any] = Signature("add", (1,), type=add, subtask_type="mine", queue="q")
    assert (made.app, made.subtask_type, made.options) == (app, "mine", {"queue": "q"})
    made.task, made.subtask_type = "other", None
    assert (made.task, made["subtask_type"]) == ("other", None)
    canvases: list[Any] = [add.s(1) | add.s(2), group(add.s(1, 1)), chord([add.s(1, 1)], add.s(2))]
    for canvas in canvases:
        canvas.tasks = [add.s(7)]
        assert [task.args for task in canvas.tasks] == [(7,)]


def test_an_option_of_none_takes_one_back_from_a_clone_and_says_nothing_in_a_call(add: Task[..., Any]) -> None:
    first = add.s(1).set(queue="q")
    assert first.clone(queue=None).options == {"queue": None}
    assert first.merged((), {}, {"queue": None})[2] == {"queue": "q"}
    first.stamp(customer=7)
    assert first.clone(customer=None).options["customer"] == 7


def test_a_task_after_the_bar_is_told_from_its_signature(add: Task[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"which \.s\(\) of the task makes"):
        _ = add.s(1) | add
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = add.s(1) | 5


def test_results_of_what_was_frozen_go_to_whoever_froze_it(app: Kernel, add: Task[..., Any]) -> None:
    frozen = json.loads(json.dumps((add.s(1) | add.s(2)).set(countdown=0)))
    made: Any = app.signature(frozen)
    made.freeze()
    assert [task.options["reply_to"] for task in made.tasks] == [app.oid] * 2
    elsewhere = Kernel("elsewhere", broker="memory://", backend="memory://")
    try:
        elsewhere.task(name="add")(add.run)
        (call,) = elsewhere.signature(json.loads(json.dumps(made))).calls(lineage=Lineage(reply_to=elsewhere.oid))
        assert call.options["reply_to"] == app.oid != elsewhere.oid
    finally:
        elsewhere.close()


def test_ways_to_make_one(app: Kernel, add: Task[..., Any]) -> None:
    expected = add.s(1, y=2).set(queue="q", priority=3)
    for made in (
        signature("add", (1,), {"y": 2}, {"queue": "q"}, priority=3),
        signature(add, (1,), {"y": 2}, options={"queue": "q", "priority": 3}),
        app.signature("add", args=(1,), kwargs={"y": 2}, options={"queue": "q"}, priority=3),
        add.signature((1,), {"y": 2}, queue="q", priority=3),
        add.subtask((1,), {"y": 2}, options={"queue": "q"}, priority=3),
        signature(dict(add.s(y=2)), (1,), None, {"queue": "q"}, priority=3),
        signature(add.s(1), kwargs={"y": 2}, queue="q", priority=3),
    ):
        assert made == expected
    assert signature(add.s(1), immutable=True).immutable
    assert not signature(add.si(1), immutable=False).immutable
    assert signature("add", (1,), immutable=True) == Signature("add", (1,), immutable=True)


# --- what is wrong is told before anything is published -----------------------------------------------------


def cycle(app: Kernel) -> Signature[Any]:
    made = app.tasks["add"].s(1)
    made.options["link"] = [{"task": "between", "options": {"link": [made]}}]
    return made


def s(app: Kernel, name: str) -> Any:
    return app.tasks[name].s


LOST = {"task": "y", "subtask_type": "frob"}

# What is wrong · the signature · the error · what it names.
WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("lacks an argument", lambda a: s(a, "add")(), TypeError, "add"),
    ("one too many", lambda a: s(a, "add")(1, 2, 3), TypeError, "add"),
    ("the second of a chain", lambda a: s(a, "add")(1) | s(a, "add")(1, 2), TypeError, "add"),
    ("takes nothing", lambda a: s(a, "add")(1) | s(a, "none")(), TypeError, "none"),
    ("still lacks one", lambda a: s(a, "add")(1) | s(a, "three")(), TypeError, "three"),
    (
        "the third",
        lambda a: chain(s(a, "add")(1).set(immutable=True), s(a, "add")(1).set(immutable=True), s(a, "none")()),
        TypeError,
        "none",
    ),
    ("in a group", lambda a: s(a, "add")(1) | group(s(a, "add")(), s(a, "none")()), TypeError, "none"),
    ("a chord's header", lambda a: chord([s(a, "add")()], s(a, "add")()), TypeError, "add"),
    ("a chord's body", lambda a: chord([s(a, "add")(1)], s(a, "none")()), TypeError, "none"),
    ("after a chord", lambda a: group(s(a, "add")(1)) | s(a, "add")() | s(a, "none")(), TypeError, "none"),
    ("a callback", lambda a: s(a, "add")(1).set(link=s(a, "none")()), TypeError, "none"),
    ("a callback's", lambda a: s(a, "add")(1).set(link=s(a, "add")().set(link=[s(a, "none")()])), TypeError, "none"),
    ("a name", lambda a: s(a, "add")(1) | s(a, "add")(z=1), TypeError, "add"),
    ("a cycle", cycle, ValueError, "between -> add -> between"),
    ("an unknown type", lambda a: s(a, "add")(1).set(link=LOST), errors.InvalidTaskError, "frob"),
    (
        "an unknown type below",
        lambda a: s(a, "add")(1).set(link_error={"task": "x", "options": {"link": [LOST]}}),
        errors.InvalidTaskError,
        "frob",
    ),
    ("no link", lambda a: s(a, "add")(1).set(link=5), TypeError, "link"),
    ("a map", lambda a: a.tasks["none"].map([1, 2]), TypeError, "none"),
    ("an item of a starmap", lambda a: a.tasks["three"].starmap([(1, 2, 3), (1, 2)]), TypeError, "three"),
    ("an item that is no list", lambda a: a.tasks["three"].starmap([(1, 2, 3), 4]), TypeError, "three is 4;"),
    ("an item of chunks that is none", lambda a: a.tasks["three"].chunks([4], 1), TypeError, "three is 4;"),
    ("items that are none", lambda a: a.tasks["three"].map(4), TypeError, "three are 4;"),
    ("an item of chunks", lambda a: a.tasks["three"].chunks([(1, 2, 3), (1,)], 1), TypeError, "three"),
    ("a map in a chain", lambda a: s(a, "add")(1) | a.tasks["none"].map([1]), TypeError, "none"),
    ("an ignored result", lambda a: chord([s(a, "silent")(1)], s(a, "add")()), errors.InvalidTaskError, "silent"),
    (
        "one further on",
        lambda a: s(a, "add")(1) | group(s(a, "silent")(), s(a, "add")()) | s(a, "add")(),
        errors.InvalidTaskError,
        "silent",
    ),
    (
        "one in a callback",
        lambda a: s(a, "add")(1).set(link=chord([s(a, "silent")()], s(a, "add")())),
        errors.InvalidTaskError,
        "silent",
    ),
    ("an exchange", lambda a: s(a, "add")(1).set(exchange="e", exchange_type="frob"), ValueError, "frob"),
    ("one later", lambda a: s(a, "add")(1) | s(a, "add")().set(exchange="e", exchange_type="frob"), ValueError, "frob"),
    (
        "a group in itself",
        lambda a: holding(group(s(a, "add")(1), s(a, "add")(2))),
        ValueError,
        "group -> celery.group",
    ),
    ("a chain in itself", lambda a: holding(s(a, "add")(1) | s(a, "add")()), ValueError, "chain -> celery.chain"),
    (
        "a chord in its member",
        lambda a: holding(chord([s(a, "add")(1) | s(a, "add")()], s(a, "add")())),
        ValueError,
        "a cycle of signatures: celery.",
    ),
]


def holding(made: Any) -> Any:
    """The same, as a part of itself."""
    made.tasks.append(made)
    return made


@pytest.mark.parametrize("way", ["sent", "awaited"])
@pytest.mark.parametrize(("make", "error", "named"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_is_told_and_nothing_is_published(
    app: Kernel, make: Any, error: type[Exception], named: str, way: str
) -> None:
    async def main() -> None:
        await asyncio.wait_for(make(app), 10)

    app.task(name="none")(lambda: 1)
    app.task(name="three")(lambda x, y, z: 1)
    app.task(name="silent", ignore_result=True)(lambda x, y=0: 1)
    send = (lambda: make(app).apply_async()) if way == "sent" else lambda: asyncio.run(main())
    with pytest.raises(error, match=named):
        send()
    assert not app.broker.peek("celery", 10)


def test_who_wants_no_result_of_a_canvas_is_not_kept_waiting_for_it(app: Kernel, add: Task[..., Any]) -> None:
    made = chord([add.s(1)], add.s(2)).apply_async(ignore_result=True)
    assert made.ignored
    assert made.get(timeout=1) is None
    assert not any(member.ignored for member in made.parent.results)
    assert group(add.s(1), add.s(2)).apply_async(ignore_result=True).ignored
    assert not group(add.s(1).set(ignore_result=True), add.s(2)).delay().ignored


def test_what_only_the_worker_knows_is_not_checked(app: Kernel) -> None:
    app.task(name="untyped", typing=False)(lambda: 1)
    add, untyped = app.tasks["add"], app.tasks["untyped"]
    for made in (
        add.s(1) | untyped.s(1, 2) | app.signature("elsewhere", (1, 2, 3)),
        add.s(1).set(link=[untyped.s(), app.signature("elsewhere")], link_error=[untyped.s()]),
        chord([add.s(1)], add.s(), kwargs={"kwargs": {"y": 2}}),
        group(add.s(), add.s(), y=2).clone((1,)),
        chain(add.s(1), group(), add.s()),
    ):
        made.apply_async()
    assert len(app.broker.peek("celery", 100)) == 6


@pytest.mark.parametrize("option", ["link", "link_error"])
def test_a_link_that_leads_back_is_refused(add: Task[..., Any], option: str) -> None:
    first, second, third = add.s(1), add.s(2), add.s(3)
    first.link(second)
    second.link_error(third)
    with pytest.raises(ValueError, match="a cycle of signatures"):
        getattr(third, option)(first)
    with pytest.raises(ValueError, match="add -> add"):
        getattr(third, option)(third)
    getattr(third, option)(add.s(3))  # one like it is another one
    with pytest.raises(TypeError, match="not a list"):
        getattr(third, option)([add.s(1)])


# --- on their way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack", "pickle"])
def test_they_survive_every_serializer_at_any_depth(serializer: str) -> None:
    with Kernel("tests", broker="memory://", accept_content=["json", "yaml", "msgpack", "pickle"]) as app:
        app.task(name="add")(lambda *args: args)
        add = app.tasks["add"].s
        inner = add(add(1).set(link=[add(2)]))
        made = chord([add(1), group(inner, add(4)) | add(5)], chain(add(), group(add(), inner))).set(queue="q")
        call = Call("add", (made, [made, {"k": made}]), {"made": made}, {"serializer": serializer})
        args, kwargs, _ = app.codecs.decode_body(app.publisher.prepare(call).message)
        expected = json.loads(json.dumps(made))
        for found in (args[0], args[1][0], args[1][1]["k"], kwargs["made"]):
            again = maybe_signature(found, app)
            assert (type(again), again.app) == (type(made), app)
            assert json.loads(json.dumps(again)) == expected
        data, content_type, _ = app.codecs.encode_result(made, serializer)
        assert json.loads(json.dumps(app.codecs.decode_result(data, content_type))) == expected


def test_a_task_of_another_program_can_be_awaited_too(app: Kernel) -> None:
    async def main() -> str:
        result = await app.signature("elsewhere", (1,)).aapply_async(queue="theirs")
        assert (await app.signature("elsewhere", (2,)).adelay()).id
        return result.id

    sent = asyncio.run(main())
    assert [message.id for message in app.broker.peek("theirs", 10)] == [sent]
