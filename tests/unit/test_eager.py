"""Eager mode: a task run here as a worker would run it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from kernel import errors, states
from kernel.app import Kernel
from kernel.request import current_request
from kernel.task import Task


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_eager", broker="memory://", backend="memory://") as made:
        yield made


def test_a_value(app: Kernel) -> None:
    @app.task(bind=True)
    def body(self: Any, x: int, y: int = 0) -> Any:
        request = self.request
        return x + y, request.id, request.is_eager, request.called_directly, request.delivery_info["is_eager"]

    result = body.apply((1,), {"y": 2}, task_id="x")
    assert result.get() == (3, "x", True, False, True)
    assert (result.id, result.state, result.name) == ("x", states.SUCCESS, body.name)
    assert current_request.get() is None


def test_headers_and_options_are_in_the_request(app: Kernel) -> None:
    @app.task(bind=True)
    def body(self: Any) -> Any:
        request = self.request
        return request.headers, request.delivery_info["priority"], request.shadow, request.retries

    result = body.apply(headers={"a": 1}, priority=3, shadow="s", retries=2)
    assert result.get() == ({"a": 1}, 3, "s", 2)


def test_arguments_are_checked(app: Kernel) -> None:
    with pytest.raises(TypeError):
        app.task(lambda x: x).apply(())


def test_an_error_is_kept_or_raised(app: Kernel) -> None:
    @app.task
    def fail() -> None:
        raise ValueError("v")

    result = fail.apply()
    assert result.state == states.FAILURE
    assert "in fail" in (result.traceback or "")
    with pytest.raises(ValueError, match="v"):
        result.get()
    with pytest.raises(ValueError, match="v"):
        fail.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="v"):
        fail.apply()
    assert fail.apply(throw=False).failed()


def test_a_retry_runs_again_at_once(app: Kernel) -> None:
    seen: list[Any] = []

    class Base(Task[..., Any]):
        def on_retry(self, exc: BaseException, *rest: Any) -> None:
            seen.append(type(exc))

    @app.task(bind=True, base=Base, max_retries=3)
    def again(self: Any, x: int) -> Any:
        seen.append((x, self.request.retries))
        if self.request.retries < 2:
            raise self.retry(args=(x + 1,), countdown=1000, exc=OSError("away"))
        return x

    assert again.apply((0,)).get() == 2
    assert seen == [(0, 0), OSError, (1, 1), OSError, (2, 2)]


def test_retries_run_out(app: Kernel) -> None:
    runs: list[int] = []

    @app.task(autoretry_for=(OSError,), max_retries=2, retry_backoff=True)
    def fail() -> None:
        runs.append(1)
        raise OSError("away")

    assert isinstance(fail.apply().result, OSError)
    assert len(runs) == 3


def test_a_retry_that_is_not_raised_runs_after_the_body(app: Kernel) -> None:
    seen: list[tuple[str, int, int]] = []

    @app.task(bind=True, max_retries=1)
    def body(self: Task[..., Any], how: str, n: int = 0) -> Any:
        seen.append((how, n, self.request.retries))
        if not self.request.retries:
            retry = self.retry(args=(how, n + 1), throw=False)
            seen.append(("still", n, self.request.retries))
            if how == "raised":
                raise retry
            if how == "ignored":
                raise errors.Ignore
        return n

    for how, value in (("returned", 0), ("raised", 1), ("ignored", None)):
        seen.clear()
        assert body.apply((how,)).result == value
        assert seen == [(how, 0, 0), ("still", 0, 0), (how, 1, 1)], "each run once, one after the other"


def test_thousands_of_retries_need_no_stack(app: Kernel) -> None:
    @app.task(bind=True, max_retries=None)
    def again(self: Any) -> int:
        if self.request.retries < 3000:
            raise self.retry()
        return int(self.request.retries)

    assert again.apply().get() == 3000


@pytest.mark.parametrize(
    ("error", "state"),
    [(errors.Ignore(), states.IGNORED), (errors.Reject("r"), states.REJECTED), (SystemExit(1), states.FAILURE)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_ends(app: Kernel, error: BaseException, state: str) -> None:
    @app.task
    def body() -> None:
        raise error

    assert body.apply().state == state


def test_links_are_applied(app: Kernel) -> None:
    calls: list[Any] = []

    @app.task(bind=True)
    def after(self: Any, value: int, more: int = 0) -> None:
        calls.append((value, more, self.request.parent_id))

    @app.task
    def body(x: int) -> int:
        if x < 0:
            raise ValueError(x)
        return x

    @app.task
    def errback(request: Any, exc: BaseException, traceback: str) -> None:
        calls.append(("error", request.id, type(exc)))

    @app.task
    def by_id(task_id: str) -> None:
        calls.append(("id", task_id))

    options = {"link": [after.s(), after.s(5)], "link_error": [errback.s(), by_id.s()]}
    body.apply((3,), task_id="x", **options)
    assert calls == [(3, 0, "x"), (3, 5, "x")]
    calls.clear()
    body.apply((-1,), task_id="x", **options)
    assert calls == [("error", "x", ValueError), ("id", "x")]


def test_hooks(app: Kernel) -> None:
    calls: list[str] = []

    class Base(Task[..., Any]):
        def before_start(self, *args: Any) -> None:
            calls.append("before_start")

        def on_success(self, *args: Any) -> None:
            calls.append("on_success")

        def after_return(self, *args: Any) -> None:
            calls.append("after_return")

    app.task(base=Base)(lambda: 1).apply()
    assert calls == ["before_start", "on_success", "after_return"]


def test_an_error_of_on_success_is_the_callers(app: Kernel) -> None:
    class Base(Task[..., Any]):
        def on_success(self, *args: Any) -> None:
            raise ValueError("hook")

    with pytest.raises(ValueError, match="hook"):
        app.task(base=Base)(lambda: 1).apply()


def test_a_coroutine_outside_and_inside_a_loop(app: Kernel) -> None:
    @app.task
    async def body(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert body.apply((1,)).get() == 1

    async def main() -> int:
        value: int = await body.apply((2,))
        return value

    assert asyncio.run(main()) == 2


@pytest.mark.parametrize("wanted", [False, True])
def test_results_are_stored_if_the_task_wants_it(app: Kernel, wanted: bool) -> None:
    @app.task(store_eager_result=wanted)
    def body(x: int) -> float:
        return 1 / x

    body.apply((2,), task_id="good")
    body.apply((0,), task_id="bad")
    assert app.AsyncResult("good").exists() is wanted
    if wanted:
        assert app.AsyncResult("good").get(timeout=5) == 0.5
        assert isinstance(app.AsyncResult("bad").result, ZeroDivisionError)


def test_always_eager(app: Kernel) -> None:
    app.conf.task_always_eager = True

    @app.task
    def inner(x: int) -> int:
        return 2 * x

    @app.task
    def outer(x: int) -> int:
        return inner.delay(x).get() + 1

    result = outer.delay(4)
    assert result.ready()
    assert result.get() == 9
    assert asyncio.run(outer.adelay(4)).get() == 9  # type: ignore[arg-type]
