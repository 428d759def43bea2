from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from kernel import errors
from kernel.app import Kernel
from kernel.call import Call
from kernel.request import Request, current_request
from kernel.signature import Signature, as_signatures, maybe_signature
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


def test_calls(app: Kernel, add: Task[..., Any]) -> None:
    assert add.s(1)(2) == 3
    add.s(y=5).delay(1)
    add.s(1).set(queue="q").apply_async(priority=3)
    app.signature("unknown", (1,), queue="q").delay()
    assert app.codecs.decode_body(app.broker.peek("celery", 1)[0])[:2] == ([1], {"y": 5})
    assert sorted(message.task for message in app.broker.peek("q", 5)) == ["add", "unknown"]
    with pytest.raises(errors.NotRegistered):
        app.signature("unknown")()


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
