"""Links of failures, in both of their forms, and links of successes that are canvases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel import chain, errors, group, states
from kernel.app import Kernel
from kernel.interfaces.broker import Verdict
from kernel.naming import derive_id
from kernel.signature import Signature
from kernel.task import Task
from kernel.worker.assignment import Obituary
from tests.unit.executing import Bench

Calls = list[Any]


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture
def app(calls: Calls) -> Iterator[Kernel]:
    with Kernel("test_errbacks", broker="memory://", backend="memory://") as made:
        define(made, calls)
        yield made


def define(made: Kernel, calls: Calls) -> None:
    @made.task(name="fail")
    def fail(*args: Any) -> None:
        raise ValueError("no")

    @made.task(name="echo")
    def echo(value: Any = None) -> Any:
        return value

    @made.task(name="three")
    def three(request: Any, exc: BaseException, traceback: str | None) -> None:
        calls.append(("three", request.id, type(exc), "ValueError: no" in (traceback or "")))

    @made.task(name="more")
    def more(request: Any, exc: BaseException, traceback: str, extra: int = 0, *, named: int = 0) -> None:
        calls.append(("more", request.id, extra, named))

    @made.task(name="any")
    def anything(*args: Any) -> None:
        calls.append(("any", len(args)))

    @made.task(name="two")
    def two(first: Any = None, second: Any = None) -> None:
        calls.append(("two", first, second))

    @made.task(name="one")
    def one(task_id: str, *, named: int = 0) -> None:
        calls.append(("one", task_id))

    @made.task(name="bound", bind=True)
    def bound(self: Task[..., Any], task_id: str, more: Any = None, most: Any = None) -> None:
        calls.append(("bound", task_id, more, most))

    @made.task(name="coroutine")
    async def coroutine(request: Any, exc: BaseException, traceback: str) -> None:
        calls.append(("coroutine", request.id))

    @made.task(name="breaks")
    def breaks(request: Any, exc: BaseException, traceback: str) -> None:
        raise RuntimeError("errback broke")

    @made.task(name="exits")
    def exits(request: Any, exc: BaseException, traceback: str) -> None:
        raise SystemExit(3)


@pytest.fixture
def bench(app: Kernel) -> Bench:
    return Bench(app)


Make = Callable[[Kernel], Signature[Any]]

# The errback · what it is called with here, if it is · what is published, if anything.
FORMS: list[tuple[str, Make, Any, Any]] = [
    ("request, error, traceback", lambda a: a.tasks["three"].s(), ("three", "x", ValueError, True), None),
    ("with arguments of its own", lambda a: a.tasks["more"].s(7, named=8), ("more", "x", 7, 8), None),
    ("any number", lambda a: a.tasks["any"].s(), ("any", 3), None),
    ("immutable, of many arguments", lambda a: a.tasks["two"].si(1, 2), ("two", 1, 2), None),
    ("a coroutine function", lambda a: a.tasks["coroutine"].s(), ("coroutine", "x"), None),
    ("one argument", lambda a: a.tasks["one"].s(), None, ["x"]),
    ("one argument and named ones", lambda a: a.tasks["one"].s(named=1), None, ["x"]),
    ("bound", lambda a: a.tasks["bound"].s(5, 6), None, ["x", 5, 6]),
    ("not registered here", lambda a: a.signature("elsewhere", (4,)), None, ["x", 4]),
    ("immutable", lambda a: a.tasks["one"].si("fixed"), None, ["fixed"]),
    ("a chain", lambda a: a.tasks["one"].s() | a.tasks["echo"].s(), None, ["x"]),
    ("a group", lambda a: group(a.tasks["three"].s(), a.tasks["one"].s()), None, ["x"]),
]


@pytest.mark.parametrize(("make", "here", "sent"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
def test_forms(app: Kernel, bench: Bench, calls: Calls, make: Make, here: Any, sent: Any) -> None:
    ending = bench.run(app.tasks["fail"], task_id="x", root_id="r", link_error=[make(app)])
    assert ending.state == states.FAILURE
    assert calls == ([] if here is None else [here])
    assert bool(ending.publications) is (sent is not None)
    for item in ending.publications:
        assert bench.body(item)[0] == sent
        assert (item.message.headers["root_id"], item.message.headers["parent_id"]) == ("r", "x")


RUN_HERE = [row for row in FORMS if row[0] not in ("not registered here", "a group")]


@pytest.mark.parametrize(("make", "here", "sent"), [row[1:] for row in RUN_HERE], ids=[row[0] for row in RUN_HERE])
def test_forms_here(app: Kernel, calls: Calls, make: Make, here: Any, sent: Any) -> None:
    errback = make(app)
    app.tasks["fail"].apply(task_id="x", link_error=errback)
    first = errback.tasks[0] if isinstance(errback, chain) else errback
    assert calls == [here if here is not None else (first.task, *sent)]


def test_one_that_nobody_here_knows_changes_nothing(app: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    result = app.tasks["fail"].apply(link_error=app.signature("elsewhere"))
    assert result.state == states.FAILURE
    assert "elsewhere" in caplog.text


def test_errbacks_are_called_in_order_and_one_that_breaks_stops_none(
    app: Kernel, bench: Bench, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    links = [app.tasks[name].s() for name in ("breaks", "any", "one", "exits", "three", "one")]
    ending = bench.run(app.tasks["fail"], task_id="x", link_error=links)
    assert [call[0] for call in calls] == ["any", "three"]
    assert [item.message.id for item in ending.publications] == [derive_id("x", "errback", n) for n in (2, 5)]
    assert ending.state == states.FAILURE
    assert "errback broke" in caplog.text


def test_a_retry_calls_none(app: Kernel, bench: Bench, calls: Calls) -> None:
    @app.task(name="again", bind=True)
    def again(self: Task[..., Any]) -> None:
        raise self.retry(countdown=0)

    ending = bench.run(again, link_error=[app.tasks["any"].s()])
    assert ending.state == states.RETRY
    assert calls == []
    [item] = ending.publications
    assert [link["task"] for link in bench.body(item)[2]["errbacks"]] == ["any"]


def test_whoever_never_ran_has_errbacks_too(app: Kernel, bench: Bench, calls: Calls) -> None:
    lost = Obituary(states.FAILURE, "WorkerLostError", "gone", Verdict.DEAD)
    ending = bench.bury(app.tasks["echo"], task_id="x", obituary=lost, link_error=[app.tasks["three"].s()])
    assert calls == [("three", "x", errors.WorkerLostError, False)]
    assert ending.verdict is Verdict.DEAD


def test_errbacks_of_a_chain_are_those_of_each_task(app: Kernel, bench: Bench, calls: Calls) -> None:
    made = chain(app.tasks["echo"].s(1), app.tasks["fail"].s(), app.tasks["echo"].s())
    made.link_error(app.tasks["one"].s())
    made.apply_async()
    [message] = app.broker.peek("celery", 10)
    [second] = bench.run_message(message).publications
    ending = bench.run_message(second.message)
    assert [bench.body(item)[0] for item in ending.publications] == [[second.message.id]]
    assert len(ending.records) == 2, "what would have come after it fails with it"


def test_callbacks_that_are_groups_are_sent_each_by_itself(app: Kernel, bench: Bench) -> None:
    echo = app.tasks["echo"]
    links = [echo.s(), group(echo.s(), echo.si(9)), chain(echo.s(), echo.s())]
    items = bench.run(echo, 5, task_id="x", link=links).publications
    assert [bench.body(item)[0] for item in items] == [[5], [5], [9], [5]]
    own = derive_id("x", "link", 1)
    assert [item.message.headers["group"] for item in items] == [None, own, own, None]
    assert {item.message.headers["parent_id"] for item in items} == {"x"}
