"""The order of an end: what is recorded, what is published under which ids, and what becomes of the message."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from kernel import errors, failure, states
from kernel.app import Kernel
from kernel.interfaces.broker import Verdict
from kernel.naming import derive_id
from kernel.task import Task
from kernel.worker.assignment import Ending
from tests.unit.executing import Bench


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_end", broker="memory://", backend="memory://") as made:
        yield made


@pytest.fixture
def bench(app: Kernel) -> Bench:
    return Bench(app)


@pytest.fixture
def echo(app: Kernel) -> Task[..., Any]:
    @app.task(name="echo")
    def echo(value: Any = None) -> Any:
        return value

    return echo


@pytest.fixture
def fail(app: Kernel) -> Task[..., Any]:
    @app.task(name="fail")
    def fail(*args: Any) -> None:
        raise ValueError(*args)

    return fail


def error_of(bench: Bench, ending: Ending) -> BaseException:
    return failure.decode_exception(bench.value(ending.records[0]))


# --- records ------------------------------------------------------------------------------------------------


def test_what_a_record_says(bench: Bench, echo: Any) -> None:
    before = time.time()
    options = {"task_id": "x", "parent_id": "p", "root_id": "r", "group_id": "g", "reply_to": "me"}
    [record] = bench.run(echo, [1], **options).records
    assert (record.id, record.parent_id, record.group_id, record.reply_to, record.attempt) == ("x", "p", "g", "me", 0)
    assert record.date_done is not None
    assert before <= record.date_done <= time.time()
    assert (record.name, record.args, record.kwargs, record.worker, record.retries) == (None,) * 5
    assert (record.children, record.traceback) == (None, None)


def test_extended_results(bench: Bench, echo: Any, app: Kernel) -> None:
    app.conf.result_extended = True
    ending = bench.run(echo, kwargs={"value": 5}, retries=2, stamped_headers=["s"], stamps={"s": "v"})
    [record] = ending.records
    assert (record.name, record.worker, record.retries, record.queue) == ("echo", "worker@host", 2, "celery")
    assert json.loads(record.stamps or "") == {"stamped_headers": ["s"], "stamps": {"s": "v"}}
    bench.carry_out(ending)
    result = app.AsyncResult(record.id)
    assert (result.args, result.kwargs) == ([], {"value": 5})


def test_a_failure_is_recorded_with_its_traceback(bench: Bench, fail: Any) -> None:
    ending = bench.run(fail, "no", 5)
    assert (ending.verdict, ending.state, ending.reason) == (Verdict.ACK, states.FAILURE, "")
    [record] = ending.records
    assert bench.value(record) == {"exc_type": "ValueError", "exc_message": ["no", 5], "exc_module": "builtins"}
    assert "in fail" in (record.traceback or "")


def test_arguments_of_an_error_that_the_serializer_takes_are_kept(bench: Bench, app: Kernel) -> None:
    from decimal import Decimal

    @app.task
    def fail() -> None:
        raise ValueError(Decimal("1.5"), object)

    error = error_of(bench, bench.run(fail))
    assert error.args[0] == Decimal("1.5")
    assert "class 'object'" in error.args[1]


def test_a_result_that_cannot_be_encoded_fails_the_task(bench: Bench, app: Kernel) -> None:
    calls: list[Any] = []

    class Base(Task[..., Any]):
        def on_failure(self, exc: BaseException, *rest: Any) -> None:
            calls.append(type(exc))

        def on_success(self, *rest: Any) -> None:
            pytest.fail("it did not succeed")

    @app.task(base=Base)
    def body() -> Any:
        return {"deep": [object()]}

    ending = bench.run(body, link_error=app.signature("after"))
    assert (ending.state, ending.verdict) == (states.FAILURE, Verdict.ACK)
    assert isinstance(error_of(bench, ending), errors.EncodeError)
    assert ending.runtime > 0
    assert [p.message.task for p in ending.publications] == ["after"]
    assert calls == [errors.EncodeError]


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}-{b}")


class Kept(Exception):
    pass


def test_a_serializer_of_objects_keeps_the_exception_itself() -> None:
    settings = {"result_serializer": "pickle", "accept_content": ["json", "pickle"]}
    with Kernel("test_end", broker="memory://", backend="memory://", **settings) as app:
        bench = Bench(app)

        @app.task
        def fail(kind: str) -> None:
            raise Kept({1, 2}) if kind == "kept" else Odd(1, 2)

        kept = bench.value(bench.run(fail, "kept").records[0])
        assert isinstance(kept, Kept)
        assert kept.args == ({1, 2},)
        # One that cannot be unpickled is stored as data, and still comes back as itself.
        error = error_of(bench, bench.run(fail, "odd"))
        assert isinstance(error, Odd)
        assert str(error) == "1-2"


# --- results that nobody wants ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_says", "call_says", "stored"),
    [(False, None, True), (True, None, False), (False, True, False), (True, False, True)],
)
def test_ignored_results(bench: Bench, app: Kernel, task_says: bool, call_says: bool | None, stored: bool) -> None:
    task = app.task(ignore_result=task_says)(lambda: 1)
    assert bool(bench.run(task, ignore_result=call_says).records) is stored


def test_a_failure_may_be_stored_although_results_are_ignored(bench: Bench, app: Kernel) -> None:
    def fail() -> None:
        raise ValueError

    silent = app.task(name="silent", ignore_result=True)(fail)
    loud = app.task(name="loud", ignore_result=True, store_errors_even_if_ignored=True)(lambda: 1 / 0)
    assert bench.run(silent).records == ()
    assert len(bench.run(loud).records) == 1


# --- links --------------------------------------------------------------------------------------------------


def test_callbacks(bench: Bench, echo: Any, app: Kernel) -> None:
    links = [echo.s(1), app.signature("other", kwargs={"a": 1}, queue="elsewhere"), echo.si("fixed")]
    ending = bench.run(echo, 5, task_id="x", root_id="root", link=links)
    first, second, third = ending.publications
    assert [bench.body(item)[:2] for item in ending.publications] == [([5, 1], {}), ([5], {"a": 1}), (["fixed"], {})]
    assert [item.queue for item in ending.publications] == ["celery", "elsewhere", "celery"]
    assert [item.message.id for item in ending.publications] == [derive_id("x", "link", n) for n in range(3)]
    for item in (first, second, third):
        assert (item.message.headers["root_id"], item.message.headers["parent_id"]) == ("root", "x")
        assert "redelivered" not in item.message.headers
    assert json.loads(ending.records[0].children or "") == [
        [[item.message.id, None], None] for item in ending.publications
    ]


def test_ids_of_successors_are_the_same_each_time(bench: Bench, echo: Any) -> None:
    ids = [[p.message.id for p in bench.run(echo, 1, task_id="x", link=[echo.s()]).publications] for _ in range(2)]
    assert ids[0] == ids[1]


def test_a_frozen_callback_keeps_its_id(bench: Bench, echo: Any) -> None:
    callback = echo.s()
    callback.freeze("frozen")
    assert bench.run(echo, 1, link=callback).publications[0].message.id == "frozen"


def test_a_callback_that_cannot_be_sent_fails_the_task(bench: Bench, echo: Any, app: Kernel) -> None:
    ending = bench.run(echo, 1, link=app.signature("after", queue="q", priority=9999))
    assert ending.state == states.FAILURE
    assert isinstance(error_of(bench, ending), ValueError)
    assert ending.publications == ()


def test_the_next_task_of_a_chain(bench: Bench, echo: Any) -> None:
    chain = [dict(echo.s("last").set(task_id="c2")), dict(echo.s("next").set(task_id="c1"))]
    [item] = bench.run(echo, 5, task_id="x", root_id="r", chain=chain).publications
    args, _, embed = bench.body(item)
    assert (item.message.id, args, item.message.headers["parent_id"]) == ("c1", [5, "next"], "x")
    assert [link["options"]["task_id"] for link in embed["chain"]] == ["c2"]


def test_a_chain_that_breaks_fails_to_its_end(bench: Bench, fail: Any, app: Kernel) -> None:
    chain = [dict(app.signature("b", task_id="c2")), dict(app.signature("a", task_id="c1"))]
    ending = bench.run(fail, "x", chain=chain)
    assert [record.state for record in ending.records] == [states.FAILURE] * 3
    assert {record.id for record in ending.records[1:]} == {"c1", "c2"}
    bench.carry_out(ending)
    with pytest.raises(ValueError, match="x"):
        app.AsyncResult("c2").get(timeout=5)


def test_errbacks(bench: Bench, fail: Any, app: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Any] = []

    @app.task
    def with_request(request: Any, exc: BaseException, traceback: str) -> None:
        calls.append((request.id, type(exc), "in fail" in traceback))

    @app.task
    def with_id(task_id: str) -> None: ...

    @app.task(bind=True)
    def bound(self: Any, task_id: str, more: int = 1) -> None: ...

    @app.task
    def breaks(request: Any, exc: BaseException, traceback: str) -> None:
        raise RuntimeError("errback")

    links = [with_request.s(), with_id.s(), bound.s(), app.signature("elsewhere"), breaks.s(), with_id.si("fixed")]
    ending = bench.run(fail, "no", task_id="x", root_id="r", link_error=links)
    assert calls == [("x", ValueError, True)]
    assert [bench.body(item)[0] for item in ending.publications] == [["x"], ["x"], ["x"], ["fixed"]]
    assert [item.message.id for item in ending.publications] == [derive_id("x", "errback", n) for n in (1, 2, 3, 5)]
    assert {item.message.headers["parent_id"] for item in ending.publications} == {"x"}
    assert "errback" in caplog.text


def test_a_success_calls_no_errback_and_a_failure_no_callback(bench: Bench, echo: Any, fail: Any, app: Kernel) -> None:
    assert not bench.run(echo, 1, link_error=app.signature("e")).publications
    assert not bench.run(fail, 1, link=app.signature("c")).publications


def test_tasks_that_were_called_are_children(bench: Bench, echo: Any, app: Kernel) -> None:
    @app.task
    def calls() -> str:
        return echo.delay(2).id

    ending = bench.run(calls)
    assert json.loads(ending.records[0].children or "") == [[[bench.value(ending.records[0]), None], None]]


# --- retries ------------------------------------------------------------------------------------------------


def test_a_retry(bench: Bench, app: Kernel) -> None:
    @app.task(bind=True, max_retries=5)
    def again(self: Any, x: int) -> None:
        try:
            raise OSError("away")
        except OSError as exc:
            raise self.retry(exc=exc, countdown=30) from exc

    before = time.time()
    sent = bench.message(again, 1, task_id="x", retries=1, link=app.signature("after"), link_error=app.signature("e"))
    ending = bench.run_message(sent, queue="special")
    assert (ending.verdict, ending.state) == (Verdict.ACK, states.RETRY)
    [record] = ending.records
    assert (record.state, record.date_done) == (states.RETRY, None)
    assert isinstance(failure.decode_exception(bench.value(record)), OSError)
    [item] = ending.publications
    assert (item.message.id, item.message.headers["retries"], item.queue) == ("x", 2, "special")
    assert item.due == pytest.approx(before + 30, abs=5)
    assert item.message.body == sent.body, "what was not changed is not encoded again"


def test_a_retry_with_other_arguments_and_options(bench: Bench, app: Kernel) -> None:
    @app.task(bind=True)
    def again(self: Any, x: int, y: int = 0) -> None:
        raise self.retry(args=(7,), countdown=0, queue="other", priority=3, time_limit=9)

    [item] = bench.run(again, 1, kwargs={"y": 2}, task_id="x", link=app.signature("after")).publications
    args, kwargs, embed = bench.body(item)
    assert (args, kwargs) == ([7], {"y": 2})
    assert [link["task"] for link in embed["callbacks"]] == ["after"]
    assert (item.queue, item.priority, item.due, item.message.headers["timelimit"]) == ("other", 3, None, [9, None])


def test_a_retry_that_cannot_be_sent_is_rejected(bench: Bench, app: Kernel) -> None:
    @app.task(bind=True)
    def again(self: Any) -> None:
        raise self.retry(args=(object(),))

    ending = bench.run(again)
    assert (ending.verdict, ending.state, ending.publications) == (Verdict.DEAD, states.REJECTED, ())
    assert ending.reason.startswith("EncodeError")
    assert ending.records[0].state == states.FAILURE


def test_a_retry_that_was_raised_by_hand(bench: Bench, app: Kernel) -> None:
    @app.task
    def again() -> None:
        raise errors.Retry("later", when=5)

    ending = bench.run(again, task_id="x")
    assert (ending.state, ending.publications[0].message.headers["retries"]) == (states.RETRY, 1)


def test_ignored_results_leave_no_record_of_a_retry(bench: Bench, app: Kernel) -> None:
    task = app.task(bind=True, ignore_result=True)(lambda self: self.retry())
    ending = bench.run(task)
    assert (ending.state, ending.records, len(ending.publications)) == (states.RETRY, (), 1)


# --- the other ways to end ----------------------------------------------------------------------------------


def raising(app: Kernel, error: BaseException, **options: Any) -> Task[..., Any]:
    def body() -> None:
        raise error

    task: Task[..., Any] = app.task(**options)(body)
    return task


def test_ignore(bench: Bench, app: Kernel) -> None:
    ending = bench.run(raising(app, errors.Ignore()))
    assert (ending.verdict, ending.state, ending.records, ending.publications) == (
        Verdict.ACK,
        states.IGNORED,
        (),
        (),
    )


def test_reject(bench: Bench, app: Kernel) -> None:
    ending = bench.run(raising(app, errors.Reject("bad data")), task_id="x")
    assert (ending.verdict, ending.state, ending.reason) == (Verdict.DEAD, states.REJECTED, "bad data")
    assert ending.records[0].state == states.FAILURE
    assert isinstance(error_of(bench, ending), errors.Reject)


def test_reject_back_to_the_queue(bench: Bench, app: Kernel) -> None:
    ending = bench.run(raising(app, errors.Reject("later", requeue=True)))
    assert (ending.verdict, ending.state, ending.charged, ending.records) == (
        Verdict.REQUEUE,
        states.REJECTED,
        False,
        (),
    )


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, Verdict.ACK),
        ({"acks_on_failure": False}, Verdict.DEAD),
        ({"acks_on_failure_or_timeout": False}, Verdict.DEAD),
        ({"acks_on_failure_or_timeout": False, "acks_on_failure": True}, Verdict.ACK),
    ],
)
def test_what_becomes_of_the_message_of_a_failure(
    bench: Bench, app: Kernel, options: dict[str, Any], verdict: Verdict
) -> None:
    ending = bench.run(raising(app, ValueError("v"), **options))
    assert (ending.verdict, ending.records[0].state) == (verdict, states.FAILURE)
    assert ending.reason == ("ValueError: v" if verdict is Verdict.DEAD else "")


def test_a_timeout_that_is_not_acknowledged_runs_again(bench: Bench, app: Kernel) -> None:
    ending = bench.run(raising(app, errors.TimeLimitExceeded(), acks_on_timeout=False))
    assert (ending.verdict, ending.charged, ending.records) == (Verdict.REQUEUE, True, ())
    assert bench.run(raising(app, errors.TimeLimitExceeded(), name="other")).verdict is Verdict.ACK


# --- hooks --------------------------------------------------------------------------------------------------


class Noted(Task[..., Any]):
    calls: ClassVar[list[Any]]

    def on_success(self, *args: Any) -> None:
        self.calls.append(("on_success", *args))

    def on_failure(self, *args: Any) -> None:
        self.calls.append(("on_failure", *args))

    def on_retry(self, *args: Any) -> None:
        self.calls.append(("on_retry", *args))

    def after_return(self, *args: Any) -> None:
        self.calls.append(("after_return", *args))


def test_hooks_of_the_task_come_after_the_ending(bench: Bench, app: Kernel) -> None:
    class Base(Noted):
        calls: ClassVar[list[Any]] = []

        def on_success(self, *args: Any) -> None:
            assert bench.endings, "it is handed on before anybody is told"
            super().on_success(*args)

    task = app.task(base=Base)(lambda x, y=0: x)
    bench.run(task, 1, kwargs={"y": 2}, task_id="x")
    assert Base.calls == [
        ("on_success", 1, "x", [1], {"y": 2}),
        ("after_return", states.SUCCESS, 1, "x", [1], {"y": 2}, None),
    ]


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (ValueError("v"), ["on_failure", "after_return"]),
        (errors.Retry(exc=OSError("o"), when=1), ["on_retry"]),
        (errors.Ignore(), []),
        (errors.Reject("r"), []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_which_hooks_are_called(bench: Bench, app: Kernel, error: BaseException, names: list[str]) -> None:
    class Base(Noted):
        calls: ClassVar[list[Any]] = []

    bench.run(raising(app, error, base=Base), task_id="x")
    assert [call[0] for call in Base.calls] == names
    if names and names[0] != "after_return":
        _, exc, task_id, args, kwargs, einfo = Base.calls[0]
        assert (task_id, list(args), dict(kwargs)) == ("x", [], {})
        assert einfo.exception is exc
        assert "in body" in str(einfo)
        assert einfo.type is type(exc)


def test_a_coroutine_as_a_hook(bench: Bench, app: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Any] = []

    class Base(Task[..., Any]):
        async def on_success(self, retval: Any, *rest: Any) -> None:  # type: ignore[override]
            calls.append(retval)

    with caplog.at_level(logging.ERROR):
        bench.run(app.task(base=Base)(lambda: 3))
    assert calls == [3]
    assert caplog.text == ""
