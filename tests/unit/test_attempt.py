"""One attempt: what each way to end means."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel import errors, states
from kernel.app import Kernel
from kernel.attempt import Loops, backoff
from kernel.hooks import hookimpl
from kernel.interfaces.outcome import Fail, Outcome, RejectMessage, RetryLater, Succeed
from kernel.request import Request
from kernel.task import Task
from tests.unit.attempting import attempted

LIMIT = 20.0


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_attempt", broker="memory://", backend="memory://") as made:
        yield made


def raising(app: Kernel, error: BaseException | type[BaseException], **options: Any) -> Task[..., Any]:
    def body() -> None:
        raise error

    body.__name__ = f"body_{id(body)}"
    task: Task[..., Any] = app.task(**options)(body)
    return task


# --- how bodies end -----------------------------------------------------------------------------------------


def test_success(app: Kernel) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    conclusion = attempted(app, add, 2, 3)
    assert (conclusion.outcome.state, conclusion.outcome.value) == (states.SUCCESS, 5)
    assert conclusion.outcome.runtime > 0


def test_failure_has_a_traceback_that_begins_at_the_body(app: Kernel) -> None:
    @app.task
    def divide() -> float:
        return 1 / 0

    outcome = attempted(app, divide).outcome
    assert outcome.state == states.FAILURE
    assert isinstance(outcome.error, ZeroDivisionError)
    assert outcome.traceback is not None
    assert "in divide" in outcome.traceback
    assert "kernel/attempt.py" not in outcome.traceback
    assert not outcome.expected


def test_an_error_in_throws_is_expected(app: Kernel) -> None:
    assert attempted(app, raising(app, KeyError("k"), throws=(LookupError,))).outcome.expected


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, errors.WorkerShutdown])
@pytest.mark.parametrize("coroutine", [False, True])
def test_a_task_cannot_end_the_process(app: Kernel, kind: type[BaseException], coroutine: bool) -> None:
    def plain() -> None:
        raise kind(3)

    async def awaited() -> None:
        raise kind(3)

    outcome = attempted(app, app.task(awaited if coroutine else plain)).outcome
    assert outcome.state == states.FAILURE
    assert isinstance(outcome.error, errors.WorkerLostError)
    assert "Worker exited prematurely" in str(outcome.error)
    assert kind.__name__ in (outcome.traceback or "")


@pytest.mark.parametrize(
    "error", [StopIteration(1), GeneratorExit(), MemoryError(), RecursionError(), asyncio.CancelledError()]
)
def test_odd_exceptions_are_failures(app: Kernel, error: BaseException) -> None:
    outcome = attempted(app, raising(app, error)).outcome
    assert outcome.state == states.FAILURE
    assert outcome.error is error


def test_ignore_and_reject(app: Kernel) -> None:
    assert attempted(app, raising(app, errors.Ignore())).outcome.state == states.IGNORED
    conclusion = attempted(app, raising(app, errors.Reject("bad", requeue=True)))
    assert (conclusion.outcome.state, conclusion.requeue) == (states.REJECTED, True)
    assert not attempted(app, raising(app, errors.Reject("bad"))).requeue


def test_a_lost_lease_is_no_failure_of_the_task(app: Kernel) -> None:
    task = raising(app, errors.LeaseLost())
    assert attempted(app, task, _valid=lambda: False).handed_back
    assert attempted(app, task).outcome.state == states.FAILURE, "a task that just says so has failed"


def test_before_start_comes_first_and_fails_the_task(app: Kernel) -> None:
    calls: list[Any] = []

    class Base(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            calls.append((task_id, args))
            if args == (0,):
                raise ValueError("not today")

    @app.task(base=Base, autoretry_for=(ValueError,))
    def body(x: int) -> int:
        calls.append("body")
        return x

    assert attempted(app, body, 1).outcome.value == 1
    assert calls == [("id-1", (1,)), "body"]
    outcome = attempted(app, body, 0).outcome
    assert outcome.state == states.FAILURE, "it is not the body: no automatic retry"
    assert calls[-1] == ("id-1", (0,))


def test_arguments_of_any_name(app: Kernel) -> None:
    @app.task
    def named(self: int, body: int, request: int, guard: int) -> int:
        return self + body + request + guard

    given = {"self": 1, "body": 2, "request": 3, "guard": 4}
    assert attempted(app, named, kwargs=given).outcome.value == 10


def test_a_bound_task_and_its_request(app: Kernel) -> None:
    @app.task(bind=True)
    def bound(self: Any, x: int) -> Any:
        return self.name, self.request.id, self.request.called_directly, x

    assert attempted(app, bound, 5).outcome.value == (bound.name, "id-1", False, 5)


def test_a_call_of_the_task_inside_itself_is_a_call_of_its_own(app: Kernel) -> None:
    @app.task(bind=True)
    def countdown(self: Any, n: int) -> list[bool]:
        return [self.request.called_directly, *(countdown(n - 1) if n else [])]

    assert attempted(app, countdown, 2).outcome.value == [False, True, True]


def test_a_class_that_is_around_every_call(app: Kernel) -> None:
    class Around(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "around", super().__call__(*args, **kwargs)

    @app.task(base=Around, bind=True)
    def body(self: Any) -> bool:
        return bool(self.request.called_directly)

    assert attempted(app, body).outcome.value == ("around", False)


def test_a_class_based_task(app: Kernel) -> None:
    class Doubled(Task[..., Any]):
        name = "doubled"

        def run(self, x: int) -> int:
            return 2 * x

    assert attempted(app, app.register_task(Doubled()), 4).outcome.value == 8


# --- coroutines ---------------------------------------------------------------------------------------------


def test_a_coroutine_is_driven_to_its_end(app: Kernel) -> None:
    @app.task(bind=True)
    async def wait(self: Any, x: int) -> Any:
        await asyncio.sleep(0)
        return x, self.request.id

    assert attempted(app, wait, 3).outcome.value == (3, "id-1")


def test_coroutines_of_one_thread_share_a_loop_which_ends_with_the_thread(app: Kernel) -> None:
    loops = Loops()

    @app.task
    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def run() -> None:
        found.extend(attempted(app, which, loops=loops).outcome.value for _ in range(2))

    found: list[Any] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    assert found[0] is found[1]
    assert found[0].is_closed()
    assert attempted(app, which, loops=loops).outcome.value is not found[0]
    loops.close()


def test_a_coroutine_inside_a_running_loop(app: Kernel) -> None:
    @app.task
    async def wait() -> str:
        await asyncio.sleep(0)
        return "done"

    async def main() -> Any:
        return attempted(app, wait).outcome.value

    assert asyncio.run(main()) == "done"


def test_a_plain_function_that_returns_a_coroutine(app: Kernel) -> None:
    async def inner() -> int:
        await asyncio.sleep(0)
        return 4

    def wrapper() -> Any:
        return inner()

    assert attempted(app, app.task(wrapper)).outcome.value == 4


def test_a_coroutine_that_fails(app: Kernel) -> None:
    @app.task
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("late")

    outcome = attempted(app, fail).outcome
    assert isinstance(outcome.error, ValueError)
    assert outcome.error.__context__ is None
    assert "in fail" in (outcome.traceback or "")
    assert "another exception" not in (outcome.traceback or "")


def test_what_a_coroutine_left_running_is_cancelled_when_the_loop_is_closed(app: Kernel) -> None:
    ends: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    @app.task
    async def leave() -> None:
        kept.append(asyncio.create_task(background()))
        await asyncio.sleep(0)

    kept: list[Any] = []
    loops = Loops()
    assert attempted(app, leave, loops=loops).outcome.state == states.SUCCESS
    assert ends == []
    loops.close()
    assert ends == ["cancelled"]


class Precious:
    pass


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize(
    "error", [ValueError("v"), errors.Retry(when=1), OSError("retried")], ids=lambda e: type(e).__name__
)
def test_a_failed_task_leaves_no_cycle_behind(app: Kernel, coroutine: bool, error: Exception) -> None:
    def plain(x: Precious) -> None:
        raise error.with_traceback(None)

    async def awaited(x: Precious) -> None:
        raise error.with_traceback(None)

    task = app.task(autoretry_for=(OSError,))(awaited if coroutine else plain)
    loops = Loops()
    gc.collect()
    gc.disable()
    try:
        precious = Precious()
        seen = weakref.ref(precious)
        attempted(app, task, precious, loops=loops)
        error.__traceback__ = None
        del precious
        assert seen() is None, "the arguments are kept by what became of the task"
    finally:
        gc.enable()
        loops.close()


# --- retries ------------------------------------------------------------------------------------------------


def test_retry(app: Kernel) -> None:
    @app.task(bind=True, max_retries=1)
    def again(self: Any) -> None:
        try:
            raise OSError("away")
        except OSError as exc:
            raise self.retry(exc=exc, countdown=7) from exc

    conclusion = attempted(app, again)
    assert conclusion.outcome.state == states.RETRY
    assert conclusion.outcome.retry_in == 7
    assert isinstance(conclusion.outcome.error, OSError)
    assert conclusion.retry is not None
    assert "away" in (conclusion.outcome.traceback or "")
    over = attempted(app, again, retries=1).outcome
    assert over.state == states.FAILURE
    assert isinstance(over.error, OSError)


def test_retries_run_out_without_an_error(app: Kernel) -> None:
    @app.task(bind=True, max_retries=0)
    def again(self: Any) -> None:
        self.retry()

    assert isinstance(attempted(app, again).outcome.error, errors.MaxRetriesExceededError)


def test_retry_at_a_point_in_time(app: Kernel) -> None:
    when = datetime.now(UTC) + timedelta(seconds=100)
    assert attempted(app, raising(app, errors.Retry(when=when))).outcome.retry_in == pytest.approx(100, abs=5)
    naive = (datetime.now(app.timezone) + timedelta(seconds=100)).replace(tzinfo=None)
    assert attempted(app, raising(app, errors.Retry(when=naive))).outcome.retry_in == pytest.approx(100, abs=5)
    past = datetime.now(UTC) - timedelta(seconds=100)
    assert attempted(app, raising(app, errors.Retry(when=past))).outcome.retry_in == 0


def test_autoretry(app: Kernel) -> None:
    options = {"autoretry_for": (OSError,), "retry_kwargs": {"max_retries": 2, "countdown": 3}}
    task = raising(app, ConnectionError("x"), **options)
    conclusion = attempted(app, task)
    assert (conclusion.outcome.state, conclusion.outcome.retry_in) == (states.RETRY, 3)
    assert isinstance(conclusion.outcome.error, ConnectionError)
    over = attempted(app, task, retries=2).outcome
    assert (over.state, type(over.error)) == (states.FAILURE, ConnectionError)
    assert attempted(app, raising(app, ValueError("x"), **options)).outcome.state == states.FAILURE


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (errors.Ignore(), states.IGNORED),
        (errors.Reject("x"), states.REJECTED),
        (errors.Retry(when=1), states.RETRY),
        (FileNotFoundError("x"), states.FAILURE),
        (SystemExit(1), states.FAILURE),
        (KeyError("x"), states.RETRY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_autoretry_lets_pass(app: Kernel, error: BaseException, state: str) -> None:
    task = raising(app, error, autoretry_for=(BaseException,), dont_autoretry_for=(FileNotFoundError,))
    assert attempted(app, task).outcome.state == state


def test_autoretry_of_a_coroutine(app: Kernel) -> None:
    @app.task(autoretry_for=(OSError,), retry_backoff=2, retry_jitter=False)
    async def fail() -> None:
        raise OSError

    assert attempted(app, fail, retries=2).outcome.retry_in == 8


def test_backoff() -> None:
    plain = functools.partial(backoff, jitter=False)
    assert [plain(True, retries=n, maximum=600) for n in range(4)] == [1, 2, 4, 8]
    assert [plain(5, retries=n, maximum=600) for n in range(4)] == [5, 10, 20, 40]
    assert plain(0.5, retries=0, maximum=600) == 1
    assert plain(True, retries=10, maximum=600) == 600
    assert plain(True, retries=10**9, maximum=600) == 600
    drawn = {backoff(10, retries=0, maximum=600, jitter=True) for _ in range(500)}
    assert drawn <= set(range(11))
    assert len(drawn) > 5


# --- plugins ------------------------------------------------------------------------------------------------


def with_plugin(plugin: object) -> Kernel:
    return Kernel("test_attempt", broker="memory://", backend="memory://", plugins=[plugin])


class Decides:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[str] = []

    @hookimpl
    def kernel_task_decide(self, request: Request, outcome: Outcome) -> Any:
        self.seen.append(outcome.state)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (None, states.SUCCESS),
        (Succeed(9), states.SUCCESS),
        (Fail(ValueError("v")), states.FAILURE),
        (RetryLater(4.0, OSError("o")), states.RETRY),
        (RejectMessage("r", requeue=True), states.REJECTED),
        (RuntimeError("the plugin"), states.FAILURE),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_plugin_decides(answer: Any, state: str) -> None:
    plugin = Decides(answer)
    with with_plugin(plugin) as app:

        @app.task
        def body() -> int:
            return 1

        conclusion = attempted(app, body)
    outcome = conclusion.outcome
    assert outcome.state == state
    assert plugin.seen == [states.SUCCESS]
    assert outcome.runtime > 0
    if isinstance(answer, Succeed):
        assert outcome.value == 9
    if isinstance(answer, RetryLater):
        assert (outcome.retry_in, conclusion.retry is not None) == (4.0, True)
    if isinstance(answer, RejectMessage):
        assert conclusion.requeue
    if isinstance(answer, BaseException):
        assert outcome.error is answer


@pytest.mark.parametrize("coroutine", [False, True])
def test_wrappers_are_around_the_body_from_the_outside_in(coroutine: bool) -> None:
    order: list[str] = []

    class Wraps:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def kernel_task_wrappers(self, app: Kernel, task: Task[..., Any]) -> Any:
            def wrapper(call_next: Callable[[], Any], request: Request) -> Any:
                order.append(f"{self.name} in {request.id}")
                value = call_next()
                order.append(f"{self.name} out")
                return value

            return wrapper

    with Kernel("t", broker="memory://", backend="memory://", plugins=[Wraps("first"), Wraps("second")]) as app:

        @app.task
        def plain(x: int) -> int:
            order.append("body")
            return x

        @app.task
        async def awaited(x: int) -> int:
            return x

        assert attempted(app, awaited if coroutine else plain, 5).outcome.value == 5
    order.remove("body") if not coroutine else None
    assert order == ["first in id-1", "second in id-1", "second out", "first out"]
