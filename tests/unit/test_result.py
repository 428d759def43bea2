"""`AsyncResult` and `EagerResult`: what they say of records of every state."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from kernel import errors, failure, states
from kernel.app import Kernel
from kernel.interfaces.backend import Record
from kernel.request import Request, current_request
from kernel.result import (
    AsyncResult,
    EagerResult,
    allow_join_result,
    assert_will_not_block,
    children_text,
    denied_join_result,
    joining,
    result_from_tuple,
)

LIMIT = 20.0


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_result", broker="memory://", backend="memory://") as made:
        yield made


@pytest.fixture
def in_task() -> Iterator[Request]:
    request = Request(id="running", task="t", called_directly=False)
    token = current_request.set(request)
    yield request
    current_request.reset(token)


def record(app: Kernel, task_id: str, state: str, value: Any = None, **fields: Any) -> Record:
    if isinstance(value, BaseException):
        value = failure.encode_exception(value)
    data, content_type, encoding = app.codecs.encode_result(value)
    return Record(id=task_id, state=state, result=data, content_type=content_type, content_encoding=encoding, **fields)


def stored(app: Kernel, state: str, value: Any = None, task_id: str = "id-1", **fields: Any) -> AsyncResult[Any]:
    app.backend.store([record(app, task_id, state, value, **fields)])
    return app.AsyncResult(task_id)


# --- what is known ------------------------------------------------------------------------------------------


def test_nothing_is_known(app: Kernel) -> None:
    result = app.AsyncResult("nowhere")
    assert (result.id, result.task_id) == ("nowhere", "nowhere")
    assert result.state == result.status == states.PENDING
    assert (result.result, result.info, result.traceback, result.children) == (None, None, None, None)
    assert (result.date_done, result.parent, result.worker, result.args, result.queue) == (None,) * 5
    assert [result.ready(), result.successful(), result.failed(), result.exists()] == [False] * 4


def test_success(app: Kernel) -> None:
    result = stored(app, states.SUCCESS, {"x": 1}, date_done=1e9)
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert result.exists()
    assert result.result == result.info == result.get(timeout=LIMIT) == {"x": 1}
    assert result.date_done == datetime.fromtimestamp(1e9, tz=UTC)


def test_failure(app: Kernel) -> None:
    result = stored(app, states.FAILURE, ZeroDivisionError("by 0"), traceback="Traceback: there")
    assert result.failed()
    assert result.traceback == "Traceback: there"
    with pytest.raises(ZeroDivisionError, match="by 0") as caught:
        result.get(timeout=LIMIT)
    assert any("Traceback: there" in note for note in caught.value.__notes__)
    error = result.get(timeout=LIMIT, propagate=False)
    assert isinstance(error, ZeroDivisionError)
    assert error is result.result
    with pytest.raises(ZeroDivisionError):
        result.maybe_throw()
    with pytest.raises(ZeroDivisionError):
        result.throw()
    assert len(caught.value.__notes__) == 1, "raised again, it is noted once"


def test_revoked(app: Kernel) -> None:
    result = stored(app, states.REVOKED, errors.TaskRevokedError("expired"))
    assert result.ready()
    assert not result.failed()
    with pytest.raises(errors.TaskRevokedError, match="expired"):
        result.get(timeout=LIMIT)


@pytest.mark.parametrize(
    ("state", "value"), [(states.STARTED, {"pid": 1, "hostname": "h"}), ("PROGRESS", {"done": 3}), ("CUSTOM", None)]
)
def test_states_on_the_way(app: Kernel, state: str, value: Any) -> None:
    result = stored(app, state, value)
    assert result.state == state
    assert result.info == value
    assert not result.ready()
    with pytest.raises(errors.TimeoutError):
        result.get(timeout=0)
    app.backend.store([record(app, "id-1", states.SUCCESS, 5)])
    assert result.get(timeout=LIMIT) == 5, "what is not terminal is not kept"


def test_retry_shows_its_error_and_is_waited_through(app: Kernel) -> None:
    result = stored(app, states.RETRY, OSError("again"), traceback="tb")
    assert isinstance(result.result, OSError)
    assert result.traceback == "tb"
    assert result.maybe_throw() is not None, "a retry is no end and raises nothing"


def test_a_terminal_record_is_read_once(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    result = stored(app, states.SUCCESS, [1])
    first = result.result
    monkeypatch.setattr(app.backend, "load", lambda ids: pytest.fail("it was read again"))
    assert result.result is first
    assert result.state == states.SUCCESS
    assert result.get() is first


def test_extended_fields(app: Kernel) -> None:
    fields = {"name": "t.add", "worker": "w@h", "retries": 2, "queue": "q", "parent_id": "p", "group_id": "g"}
    args, kwargs = app.codecs.encode_result([1, 2])[0], app.codecs.encode_result({"a": 3})[0]
    result = stored(app, states.SUCCESS, 1, args=args, kwargs=kwargs, **fields)
    assert (result.name, result.worker, result.retries, result.queue) == ("t.add", "w@h", 2, "q")
    assert (result.args, result.kwargs, result.parent_id, result.group_id) == ([1, 2], {"a": 3}, "p", "g")
    assert app.AsyncResult("other", task_name="t.other").name == "t.other"


def test_children(app: Kernel) -> None:
    text = children_text([app.AsyncResult("c1"), app.AsyncResult("c2")])
    assert json.loads(text) == [[["c1", None], None], [["c2", None], None]]
    result = stored(app, states.SUCCESS, 1, children=text)
    assert result.children == [app.AsyncResult("c1"), app.AsyncResult("c2")]
    assert result.children is not None
    assert result.children[0].app is app


def test_who_called_nothing_has_no_children_and_who_has_not_ended_may_have_some(app: Kernel) -> None:
    assert stored(app, states.SUCCESS, 1).children == []
    app.backend.store([record(app, "runs", states.STARTED, {})])
    assert app.AsyncResult("runs").children is None


# --- waiting ------------------------------------------------------------------------------------------------


def test_get_waits(app: Kernel) -> None:
    timer = threading.Timer(0.05, lambda: app.backend.store([record(app, "later", states.SUCCESS, 7)]))
    timer.start()
    assert app.AsyncResult("later").get(timeout=LIMIT) == 7
    timer.join()


def test_get_times_out(app: Kernel) -> None:
    result = app.AsyncResult("never")
    with pytest.raises(errors.TimeoutError):
        result.get(timeout=0.02)
    with pytest.raises(TimeoutError):
        result.wait(timeout=0)


def test_an_error_is_raised_or_told_to_the_callback_and_not_both(app: Kernel) -> None:
    calls: list[tuple[str, str]] = []
    failed = stored(app, states.FAILURE, {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"})
    eager: EagerResult[None] = EagerResult("id-1", ValueError("no"), states.FAILURE)
    for ask in (failed.get, failed.maybe_throw, eager.get, eager.maybe_throw):
        with pytest.raises(ValueError, match="no"):
            ask(callback=lambda task_id, value: calls.append((task_id, str(value))))
        assert calls == []
        ask(propagate=False, callback=lambda task_id, value: calls.append((task_id, str(value))))
        assert calls.pop() == ("id-1", "no")


def test_messages_have_the_arguments_of_extended_results(app: Kernel) -> None:
    args, kwargs = app.codecs.encode_result([1, 2])[0], app.codecs.encode_result({"a": 3})[0]
    messages: list[dict[str, Any]] = []
    stored(app, states.SUCCESS, 1, name="t", args=args, kwargs=kwargs).get(timeout=LIMIT, on_message=messages.append)
    assert [(each["name"], each["args"], each["kwargs"]) for each in messages] == [("t", [1, 2], {"a": 3})]


def test_callback_message_and_interval(app: Kernel) -> None:
    calls: list[tuple[str, Any]] = []
    messages: list[dict[str, Any]] = []
    result = stored(app, states.SUCCESS, 7, date_done=1e9, children="[]")
    result.get(timeout=LIMIT, callback=lambda *args: calls.append(args), on_message=messages.append)
    assert calls == [("id-1", 7)]
    assert messages == [
        {
            "status": "SUCCESS",
            "result": 7,
            "traceback": None,
            "children": [],
            "date_done": "2001-09-09T01:46:40+00:00",
            "task_id": "id-1",
        }
    ]
    ticks: list[int] = []
    with pytest.raises(errors.TimeoutError):
        app.AsyncResult("never").get(timeout=0.05, interval=0.01, on_interval=lambda: ticks.append(1))
    assert ticks


def test_an_ignored_result_is_none_at_once(app: Kernel) -> None:
    result: AsyncResult[Any] = AsyncResult("x", app=app, ignored=True)
    assert result.get() is None
    assert asyncio.run(result.aget()) is None
    assert result.ignored


def test_the_error_of_a_parent_is_raised(app: Kernel) -> None:
    parent = stored(app, states.FAILURE, ValueError("parent"), task_id="p")
    child: AsyncResult[Any] = AsyncResult("c", app=app, parent=parent)
    app.backend.store([record(app, "c", states.SUCCESS, 1)])
    with pytest.raises(ValueError, match="parent"):
        child.get(timeout=LIMIT)
    assert child.get(timeout=LIMIT, follow_parents=False) == 1
    assert child.get(timeout=LIMIT, propagate=False) == 1


def test_awaiting(app: Kernel) -> None:
    stored(app, states.SUCCESS, 7)
    stored(app, states.FAILURE, ValueError("no"), task_id="bad")

    async def main() -> None:
        assert await app.AsyncResult("id-1") == 7
        seen: list[Any] = []
        value = await app.AsyncResult("id-1").aget(
            timeout=LIMIT, on_message=seen.append, callback=lambda *args: seen.append(args)
        )
        assert value == 7
        assert seen[0]["status"] == "SUCCESS"
        assert seen[1] == ("id-1", 7)
        with pytest.raises(ValueError, match="no"):
            await app.AsyncResult("bad").aget(timeout=LIMIT)
        assert isinstance(await app.AsyncResult("bad").aget(timeout=LIMIT, propagate=False), ValueError)
        with pytest.raises(errors.TimeoutError):
            await app.AsyncResult("never").aget(timeout=0.02)

    asyncio.run(main())


def test_a_result_with_a_backend_of_its_own(app: Kernel) -> None:
    from kernel_backend_memory import MemoryBackend

    from kernel.interfaces.backend import BackendConfig

    own = MemoryBackend(BackendConfig(url="memory://"))
    own.store([record(app, "x", states.SUCCESS, 9)])
    result = app.AsyncResult("x", backend=own)
    assert result.get(timeout=LIMIT) == 9
    assert own.watchers == {}, "nothing is left behind"
    assert not app.AsyncResult("x").exists()


# --- in a task ----------------------------------------------------------------------------------------------


def test_a_task_may_not_wait(app: Kernel, in_task: Request) -> None:
    result = stored(app, states.SUCCESS, 1)
    with pytest.raises(RuntimeError, match=r"Never call result\.get\(\) within a task!"):
        result.get()
    with pytest.raises(RuntimeError):
        asyncio.run(result.aget())
    assert result.get(timeout=LIMIT, disable_sync_subtasks=False) == 1
    with allow_join_result():
        assert result.get(timeout=LIMIT) == 1
        with denied_join_result(), pytest.raises(RuntimeError):
            result.get()


def test_a_direct_call_in_a_task_may_not_wait_either(app: Kernel, in_task: Request) -> None:
    token = current_request.set(Request(task="other", outer=in_task))
    try:
        with pytest.raises(RuntimeError):
            stored(app, states.SUCCESS, 1).get()
    finally:
        current_request.reset(token)


def test_an_eager_task_may_wait(app: Kernel, in_task: Request) -> None:
    in_task.is_eager = True
    assert stored(app, states.SUCCESS, 1).get(timeout=LIMIT) == 1


def test_a_coroutine_among_many_may_await_but_not_block(app: Kernel, in_task: Request) -> None:
    result = stored(app, states.SUCCESS, 1)
    token = joining.set("awaited")
    try:
        assert asyncio.run(result.aget(timeout=LIMIT)) == 1
        with pytest.raises(RuntimeError):
            result.get()
    finally:
        joining.reset(token)


def test_outside_a_task_everybody_may_wait() -> None:
    assert_will_not_block()
    with denied_join_result(), pytest.raises(RuntimeError):
        assert_will_not_block()


# --- the handle itself --------------------------------------------------------------------------------------


def test_a_result_without_an_app(app: Kernel, in_task: Request) -> None:
    stored(app, states.SUCCESS, 1)
    in_task.app = app
    assert AsyncResult("id-1").state == states.SUCCESS
    in_task.app = None
    with pytest.raises(errors.ImproperlyConfigured, match=r"app\.AsyncResult"):
        assert AsyncResult("id-1").state


@pytest.mark.parametrize("bad", ["", None])
def test_an_id_is_needed(bad: Any) -> None:
    with pytest.raises(ValueError, match="id"):
        AsyncResult(bad)


def test_equality_and_hash_go_by_the_id(app: Kernel) -> None:
    one, same, other = app.AsyncResult("a"), AsyncResult("a"), app.AsyncResult("b")
    assert one == same == "a"
    assert one != other
    assert one != 5
    assert one == EagerResult("a", 1, states.SUCCESS)
    assert len({one, same, other}) == 2
    assert str(one) == "a"
    assert repr(one) == "<AsyncResult a>"


def test_as_tuple_and_back(app: Kernel) -> None:
    result: AsyncResult[Any] = AsyncResult("c", app=app, parent=AsyncResult("b", app=app, parent=AsyncResult("a")))
    data = json.loads(json.dumps(result.as_tuple()))
    assert data == [["c", [["b", [["a", None], None]], None]], None]
    back = result_from_tuple(data, app)
    assert back == result
    assert back.as_list() == ["c", "b", "a"] == result.as_list()
    assert back.parent is not None
    assert back.parent.parent == "a"
    assert result_from_tuple(result) is result


def test_reading_a_tuple_of_any_depth() -> None:
    data: Any = None
    for number in range(5000):
        data = [[str(number), data], None]
    assert len(result_from_tuple(data).as_list()) == 5000


@pytest.mark.parametrize("bad", [None, 5, [], [[]], [["a"], None], [[5, None], None], [["g", None], [[["a"], None]]]])
def test_what_is_no_tuple_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"stored as|group"):
        result_from_tuple(bad)


def test_pickling_leaves_the_app_behind(app: Kernel) -> None:
    back = pickle.loads(pickle.dumps(AsyncResult("a", app=app, task_name="t", parent=AsyncResult("p"))))
    assert (back, back.task_name, back.parent) == ("a", "t", "p")
    assert back._app is None


def test_forget(app: Kernel) -> None:
    parent = stored(app, states.SUCCESS, 1, task_id="p")
    result: AsyncResult[Any] = AsyncResult("id-1", app=app, parent=parent)
    app.backend.store([record(app, "id-1", states.SUCCESS, 2)])
    assert result.get(timeout=LIMIT) == 2
    result.forget()
    assert not result.exists()
    assert not parent.exists()


@pytest.mark.parametrize("terminate", [False, True])
def test_revoke_tells_the_workers(app: Kernel, terminate: bool) -> None:
    subscription = app.broker.subscribe("celery.pidbox")
    try:
        app.AsyncResult("a").revoke(terminate=terminate, wait=True, timeout=1)
        [message] = subscription.read(10, LIMIT)
    finally:
        subscription.close()
    command = json.loads(message.body)
    assert (command["method"], command["destination"]) == ("revoke", None)
    assert command["arguments"] == {"task_id": ["a"], "terminate": terminate, "signal": "SIGTERM"}


def test_without_a_backend_the_error_says_so() -> None:
    with Kernel("test_result", broker="memory://") as app:
        result = app.AsyncResult("a")
        for ask in (lambda: result.state, lambda: result.get(timeout=1), lambda: asyncio.run(result.aget(timeout=1))):
            with pytest.raises(NotImplementedError, match="No result backend is configured"):
                ask()


def test_a_result_that_may_not_be_decoded(app: Kernel) -> None:
    app.backend.store([Record(id="p", state=states.SUCCESS, content_type="application/x-python-serialize")])
    with pytest.raises(errors.ContentDisallowed):
        app.AsyncResult("p").get(timeout=LIMIT)


def test_a_thousand_results_cost_little(app: Kernel) -> None:
    results = [app.AsyncResult(str(n)) for n in range(1000)]
    assert not hasattr(results[0], "__dict__")


# --- eager --------------------------------------------------------------------------------------------------


def test_eager_success() -> None:
    result: EagerResult[int] = EagerResult("e", 5, states.SUCCESS, name="t")
    assert result.get() == result.wait(timeout=1) == result.result == result.info == 5
    assert (result.state, result.status, result.id, result.task_id, result.name) == (
        *(states.SUCCESS,) * 2,
        *("e",) * 2,
        "t",
    )
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert asyncio.run(result.aget()) == 5
    assert result.as_tuple() == (("e", None), None)
    result.forget()
    result.revoke()
    assert result.state == states.REVOKED
    with pytest.raises(errors.TaskRevokedError):
        result.get()


def test_eager_failure() -> None:
    result: EagerResult[int] = EagerResult("e", ValueError("x"), states.FAILURE, traceback="tb")
    with pytest.raises(ValueError, match="x"):
        result.get()
    with pytest.raises(ValueError, match="x"):
        result.maybe_throw()
    assert isinstance(result.get(propagate=False), ValueError)
    assert result.failed()
    assert result.traceback == "tb"
    back = pickle.loads(pickle.dumps(result))
    assert back == result
    assert back.state == states.FAILURE
