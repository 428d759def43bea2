from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel import errors
from kernel.app import Kernel
from kernel.arguments import Arguments
from kernel.attributes import FROM_SETTINGS
from kernel.hooks import hookimpl
from kernel.interfaces.backend import Record
from kernel.request import Request, current_request
from kernel.saferepr import args_repr, kwargs_repr, safe_repr
from kernel.task import Task


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = Kernel("tests", broker="memory://", backend="memory://")
    yield app
    app.close()


def running(task: Task[..., Any], **fields: Any) -> Request:
    given = {"id": "i", "task": task.name, "app": task.app, "called_directly": False, "entered": True}
    return Request(**{**given, **fields})


class Within:
    """A request that is current inside the block."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def __enter__(self) -> Request:
        self.token = current_request.set(self.request)
        return self.request

    def __exit__(self, *error: object) -> None:
        current_request.reset(self.token)


# --- what a task is -----------------------------------------------------------------------------------------


def test_a_task_looks_like_its_function(app: Kernel) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        """Sum."""
        return x + y

    shown: Any = add
    assert (shown.__doc__, shown.__name__, shown.__qualname__.rpartition(".")[2]) == ("Sum.", "add", "add")
    assert add.__module__ == __name__
    assert add.__wrapped__.__name__ == "add"  # type: ignore[attr-defined]
    assert add.name == f"{__name__}.add"
    assert add.app is app
    assert app.tasks[add.name] is add
    assert not add.is_coroutine


def test_a_direct_call_runs_the_body_here(app: Kernel) -> None:
    @app.task(bind=True)
    def add(self: Task[..., int], x: int, y: int = 1) -> tuple[int, bool, str | None]:
        return x + y, self.request.called_directly, self.request.id

    assert add(2) == (3, True, None)
    assert add(2, y=5)[0] == 7
    assert current_request.get() is None


def test_the_request_is_the_one_of_this_task(app: Kernel) -> None:
    @app.task(bind=True)
    def inner(self: Task[..., Any]) -> Any:
        return self.request.id, self.request.called_directly, outer.request.id

    @app.task(bind=True)
    def outer(self: Task[..., Any]) -> Any:
        return self.request.id, inner(), self.request.id

    with Within(running(outer, id="o", entered=False)) as request:
        assert outer() == ("o", (None, True, "o"), "o")
        assert request.entered
        # A call of itself inside the body is a call of its own.
        assert outer()[0] is None
    assert outer.request.id is None
    assert outer.request.called_directly


def test_the_current_task(app: Kernel) -> None:
    @app.task
    def inner() -> Any:
        return app.current_task, app.current_worker_task

    @app.task
    def outer() -> Any:
        return app.current_task, inner()

    with Within(running(outer, entered=False)):
        assert outer() == (outer, (inner, outer))
    assert app.current_task is None
    assert Kernel("other", broker="memory://").current_task is None


def test_an_overridden_call_is_around_every_run(app: Kernel) -> None:
    class Noisy(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "noise", super().__call__(*args, **kwargs)

    @app.task(base=Noisy, bind=True)
    def quiet(self: Task[..., Any]) -> Any:
        return self.request.id

    assert isinstance(quiet, Noisy)
    with Within(running(quiet, entered=False)):
        assert quiet() == ("noise", "i")
    assert quiet() == ("noise", None)


def test_coroutine_tasks(app: Kernel) -> None:
    @app.task(bind=True)
    async def wait(self: Task[..., Any], x: int) -> Any:
        await asyncio.sleep(0)
        return x, self.request.called_directly

    assert wait.is_coroutine
    assert asyncio.run(wait(3)) == (3, True)


def test_options_follow_settings_until_they_are_set(app: Kernel) -> None:
    @app.task
    def plain() -> None: ...

    @app.task(ignore_result=True, serializer="pickle", acks_late=False, compression=None)
    def special() -> None: ...

    assert (plain.ignore_result, plain.serializer, plain.acks_late, plain.track_started) == (False, "json", True, False)
    assert (special.ignore_result, special.serializer, special.acks_late) == (True, "pickle", False)
    app.conf.task_ignore_result = True
    app.conf.task_compression = "zlib"
    assert plain.ignore_result is True
    assert special.compression == "zlib"
    assert (plain.max_retries, plain.default_retry_delay, plain.retry_backoff_max) == (3, 180, 600)


def test_an_option_that_is_set_later_counts_from_then_on(app: Kernel) -> None:
    @app.task(name="work")
    def work() -> None: ...

    work.delay()
    work.priority, work.time_limit, work.queue = 5, 9, "later"
    work.delay()
    work.priority = None
    work.delay()
    found = [(message.priority, message.headers["timelimit"][0]) for message in app.broker.peek("later", 5)]
    assert found == [(5, 9), (0, 9)]
    assert app.broker.peek("celery", 5)[0].headers["timelimit"] == [None, None]


def test_every_option_that_follows_a_setting_has_one(app: Kernel) -> None:
    @app.task
    def plain() -> None: ...

    assert len(FROM_SETTINGS) > 10
    for name in FROM_SETTINGS:
        getattr(plain, name)


def test_none_in_a_subclass_means_the_setting(app: Kernel) -> None:
    class Base(Task[..., Any]):
        serializer = None  # type: ignore[assignment]
        max_retries = 9
        ignore_result = True

    @app.task(base=Base)
    def one() -> None: ...

    assert (one.serializer, one.max_retries, one.ignore_result) == ("json", 9, True)


def test_tasks_of_classes(app: Kernel) -> None:
    class Adder(Task[..., int]):
        made = 0

        def __init__(self) -> None:
            type(self).made += 1

        def run(self, x: int, y: int) -> int:
            return x + y

    bound: list[Kernel] = []
    Adder.on_bound = classmethod(lambda cls, app: bound.append(app))  # type: ignore[assignment,method-assign]
    add = app.register_task(Adder)
    assert add.name == f"{__name__}.Adder"
    assert add(1, 2) == 3
    assert (Adder.made, bound) == (1, [app])
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        add.delay(1)
    with pytest.raises(TypeError, match="Task"):
        app.register_task(5)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="run"):
        app.register_task(type("Empty", (Task,), {}))()


def test_a_task_without_an_app_says_so() -> None:
    with pytest.raises(errors.ImproperlyConfigured, match="register_task"):
        _ = Task().app


sample_app = Kernel("pickled", broker="memory://")


@sample_app.task
def sample(x: int) -> int:
    return x


def test_tasks_are_pickled_by_name() -> None:
    # The test runner imports this file under a name of its own.
    sys.modules.setdefault(__name__, sys.modules[sample.__module__])
    assert pickle.loads(pickle.dumps(sample)) is sample


# --- arguments ----------------------------------------------------------------------------------------------


def test_arguments_are_checked_before_anything_is_published(app: Kernel) -> None:
    @app.task
    def add(x: int, y: int = 0, *, z: int = 0) -> int:
        return x + y + z

    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"x": 2}), ((1,), {"w": 2})):
        with pytest.raises(TypeError, match=r"add\(x, y=0, \*, z=0\)"):
            add.apply_async(args, kwargs)
    with pytest.raises(TypeError, match="list or tuple"):
        add.apply_async("12")
    with pytest.raises(TypeError, match="dictionary"):
        add.apply_async((1,), [("y", 1)])  # type: ignore[arg-type]
    assert app.broker.stats() == []


def test_the_check_can_be_switched_off(app: Kernel) -> None:
    @app.task(typing=False)
    def loose(x: int) -> None: ...

    loose.delay()  # type: ignore[call-arg]
    assert [queue.ready for queue in app.broker.stats()] == [1]
    lax = Kernel("lax", broker="memory://", strict_typing=False)

    @lax.task
    def other(x: int) -> None: ...

    other.delay()  # type: ignore[call-arg]
    assert [queue.ready for queue in lax.broker.stats()] == [1]
    lax.close()


def _sample_functions() -> list[Any]:
    def a() -> None: ...
    def b(x, y=1) -> None: ...  # type: ignore[no-untyped-def]
    def c(x, /, y, *, z) -> None: ...  # type: ignore[no-untyped-def]
    def d(*args, **kwargs) -> None: ...  # type: ignore[no-untyped-def]
    def e(x, *args, y=1, z, **kwargs) -> None: ...  # type: ignore[no-untyped-def]
    def f(x=1, /, **kwargs) -> None: ...  # type: ignore[no-untyped-def]

    return [a, b, c, d, e, f]


@given(
    st.sampled_from(_sample_functions()),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "z", "w"]), st.integers(), max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_the_check_agrees_with_python(function: Any, args: list[int], kwargs: dict[str, int]) -> None:
    try:
        function(*args, **kwargs)
        fits = True
    except TypeError:
        fits = False
    try:
        Arguments("t", function).check(args, kwargs)
        passed = True
    except TypeError:
        passed = False
    assert passed == fits


def test_new_arguments_of_a_retry_do_not_double_the_old_ones() -> None:
    def body(x: int, y: int, z: int = 0) -> None: ...

    arguments = Arguments("t", body)
    old = ((1, 2), {"z": 3})
    assert arguments.rebind(None, None, old) == old
    assert arguments.rebind((5,), {}, old) == ((5,), {})
    assert arguments.rebind((5, 6, 7), None, old) == ((5, 6, 7), {})
    assert arguments.rebind((5, 6), None, old) == ((5, 6), {"z": 3})
    assert arguments.rebind(None, {"z": 9}, old) == ((1, 2), {"z": 9})
    assert arguments.rebind(None, {"x": 9}, old) == ((), {"x": 9, "y": 2})
    assert arguments.rebind(None, {"y": 9}, old) == ((1,), {"y": 9})


# --- display texts ------------------------------------------------------------------------------------------


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_display_texts() -> None:
    assert args_repr(()) == "()"
    assert args_repr([1]) == "(1,)"
    assert args_repr((2, "a", None, 1.5)) == "(2, 'a', None, 1.5)"
    assert kwargs_repr({"x": [1, {"y": (2,)}]}) == "{'x': [1, {'y': (...)}]}"
    assert safe_repr({1: {2: {3: {4: 5}}}}) == "{1: {2: {3: {...}}}}"
    assert args_repr((Rude(),)) == "(<Rude: repr failed: RuntimeError>,)"
    assert "bits" in args_repr((1 << 20_000,))
    loop: list[Any] = []
    loop.append(loop)
    assert len(args_repr((loop,))) < 1024


@given(st.recursive(st.integers() | st.text() | st.binary(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
@settings(max_examples=150, deadline=None)
def test_display_texts_are_bounded_and_right(value: Any) -> None:
    text = args_repr((value,))
    assert len(text) <= 1024
    full = repr((value,))
    if len(full) <= 900 and "..." not in text and "bits" not in text:
        assert text == full


# --- retry --------------------------------------------------------------------------------------------------


def test_retry_raises_what_the_worker_needs(app: Kernel) -> None:
    @app.task(bind=True, max_retries=2)
    def work(self: Task[..., Any], x: int, y: int = 0) -> None: ...

    request = running(work, args=[1], kwargs={"y": 2}, retries=1, root_id="r", callbacks=[{"task": "c"}])
    with Within(request):
        try:
            raise OSError("disk")
        except OSError as cause:
            with pytest.raises(errors.Retry) as caught:
                work.retry(countdown=7, queue="slow")
            found = caught.value.exc is cause
        assert found
        retry = caught.value
        assert (retry.when, retry.is_eager) == (7, False)
        assert (retry.sig.task, list(retry.sig.args), retry.sig.kwargs) == (work.name, [1], {"y": 2})
        assert not retry.sig.rewrites
        options = retry.sig.options
        assert (options["task_id"], options["retries"], options["queue"], options["root_id"]) == ("i", 2, "slow", "r")
        moment = datetime(2030, 1, 1, tzinfo=UTC)
        assert work.retry(eta=moment, throw=False).when == moment
        assert work.retry(throw=False).when == 180
        assert work.retry(countdown=0, throw=False).when == 0
        changed = work.retry(args=(9,), throw=False).sig
        assert (tuple(changed.args), changed.kwargs, changed.rewrites) == ((9,), {"y": 2}, True)


def test_retries_end(app: Kernel) -> None:
    @app.task(bind=True, max_retries=2)
    def work(self: Task[..., Any]) -> None: ...

    with Within(running(work, retries=2, args=[1])):
        with pytest.raises(errors.MaxRetriesExceededError) as caught:
            work.retry()
        assert caught.value.task_args == (1,)
        with pytest.raises(KeyError):
            work.retry(exc=KeyError("given"))
        assert work.retry(max_retries=5, throw=False).when == 180
    work.max_retries = None
    with Within(running(work, retries=1000)), pytest.raises(errors.Retry):
        work.retry()


def test_retry_of_a_direct_call_raises_the_error(app: Kernel) -> None:
    @app.task(bind=True)
    def work(self: Task[..., Any], how: str) -> None:
        if how == "plain":
            self.retry()
        if how == "given":
            self.retry(exc=KeyError("given"))
        try:
            raise OSError("current")
        except OSError:
            self.retry()

    with pytest.raises(errors.Retry, match="can be retried"):
        work("plain")
    with pytest.raises(KeyError):
        work("given")
    with pytest.raises(OSError, match="current"):
        work("current")


# --- states -------------------------------------------------------------------------------------------------


class Sink:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def progress(self, records: Any) -> None:
        self.records += records


def test_update_state_goes_to_the_sink_of_the_run(app: Kernel) -> None:
    @app.task(bind=True)
    def work(self: Task[..., Any]) -> None: ...

    sink = Sink()
    with Within(running(work, sink=sink, kernel_replay=1, group="g")):
        work.update_state(state="PROGRESS", meta={"done": 5})
    (record,) = sink.records
    assert (record.id, record.state, record.result, record.attempt, record.group_id) == (
        "i",
        "PROGRESS",
        b'{"done": 5}',
        1,
        "g",
    )
    work.update_state("other", "CUSTOM", [1])
    assert app.AsyncResult("other").state == "CUSTOM"
    assert app.AsyncResult("other").info == [1]


def test_update_state_says_what_is_wrong(app: Kernel) -> None:
    @app.task
    def work() -> None: ...

    with pytest.raises(ValueError, match="task_id"):
        work.update_state(state="X")
    with pytest.raises(ValueError, match="state"):
        work.update_state("i")
    with pytest.raises(ValueError, match="ended"):
        work.update_state("i", "SUCCESS")
    with pytest.raises(errors.EncodeError):
        work.update_state("i", "X", object())


# --- calling ------------------------------------------------------------------------------------------------


def test_results_are_children_of_the_task_that_called(app: Kernel) -> None:
    @app.task
    def child() -> None: ...

    @app.task
    def parent() -> None: ...

    with Within(running(parent)) as request:
        first = child.delay()
        child.apply_async(add_to_parent=False)
        more = child.map_delay([(), ()])
        named = app.send_task("elsewhere")
        assert request.children == [first, *more, named]
        parent.trail = False
        child.delay()
        assert len(request.children) == 4


def test_map_delay_takes_tuples_and_dictionaries(app: Kernel) -> None:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    results = add.map_delay([(1,), [2, 3], {"x": 4}, ((5,), {"y": 6})], queue="bulk")
    bodies = [app.codecs.decode_body(message)[:2] for message in app.broker.peek("bulk", 10)]
    assert bodies == [([1], {}), ([2, 3], {}), ([], {"x": 4}), ([5], {"y": 6})]
    assert [result.id for result in results] == [message.id for message in app.broker.peek("bulk", 10)]
    assert add.map_delay([]) == []


def test_map_delay_sends_nothing_when_one_item_is_wrong(app: Kernel) -> None:
    @app.task
    def add(x: Any) -> Any: ...

    for wrong, error in (((1, 2), TypeError), (5, TypeError), ("ab", TypeError), ((object(),), errors.EncodeError)):
        with pytest.raises(error):
            add.map_delay([(1,), wrong])
    with pytest.raises(TypeError, match="task_id"):
        add.map_delay([(1,)], task_id="x")
    assert app.broker.stats() == []


def test_a_task_may_name_its_calls(app: Kernel) -> None:
    class Named(Task[..., Any]):
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"{self.name}#{args[0]}"

    @app.task(base=Named, name="work")
    def work(x: int) -> None: ...

    work.delay(7)
    work.map_delay([(8,)])
    work.apply_async((9,), shadow="given")
    assert [m.headers["shadow"] for m in app.broker.peek("celery", 5)] == ["work#7", "work#8", "given"]


def test_results_of_tasks_that_ignore_them_are_none_at_once(app: Kernel) -> None:
    @app.task(ignore_result=True)
    def quiet() -> None: ...

    assert quiet.delay().get(timeout=1) is None
    assert quiet.apply_async(ignore_result=False).ignored is False
    assert quiet.map_delay([()])[0].ignored


# --- eager mode ---------------------------------------------------------------------------------------------


def test_eager_calls_run_here_with_arguments_as_they_would_arrive(app: Kernel) -> None:
    seen: list[Any] = []

    @app.task(bind=True)
    def work(self: Task[..., Any], x: Any, y: int = 0) -> Any:
        seen.append((x, self.request.is_eager, self.request.id))
        return y

    app.conf.task_always_eager = True
    result = work.apply_async(((1, 2),), {"y": 5}, countdown=100, queue="x", priority=3, task_id="mine", retry=False)
    assert (result.get(), result.id) == (5, "mine")
    assert seen == [([1, 2], True, "mine")]
    with pytest.raises(errors.EncodeError, match=r"args\[0\]"):
        work.delay(object())
    with pytest.raises(TypeError, match="missing"):
        work.delay()
    assert [found.get() for found in work.map_delay([(1, 2), {"x": 1, "y": 3}])] == [2, 3]
    assert app.broker.stats() == []


def test_eager_calls_from_coroutines(app: Kernel) -> None:
    @app.task
    async def work(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    app.conf.task_always_eager = True

    async def main() -> int:
        return await (await work.adelay(1))

    assert asyncio.run(main()) == 2


def test_apply_runs_it_with_retries(app: Kernel) -> None:
    @app.task(bind=True, autoretry_for=(OSError,), max_retries=2, default_retry_delay=0)
    def work(self: Task[..., Any], fail: int) -> int:
        if self.request.retries < fail:
            raise OSError("again")
        return self.request.retries

    assert work.apply((2,)).get() == 2
    assert work.apply((3,)).state == "FAILURE"
    with pytest.raises(OSError, match="again"):
        work.apply((3,), throw=True)


# --- the stack of requests, and events ----------------------------------------------------------------------


def test_requests_can_be_pushed_for_tests(app: Kernel) -> None:
    @app.task(bind=True)
    def outer(self: Any) -> Any:
        return self.request.id

    @app.task(bind=True)
    def inner(self: Any) -> Any:
        return self.request.id

    assert (outer.request_stack.top, outer.pop_request(), len(outer.request_stack)) == (None, None, 0)
    outer.push_request(id="a", retries=2)
    inner.push_request({"id": "b"})
    outer.push_request({"id": "a"}, id="c")
    assert [request.id for request in outer.request_stack.stack] == ["a", "c"]
    assert (outer.request.id, inner.request.id, inner.request.app) == ("c", "b", app)
    assert (outer.run(), outer()) == ("c", None), "a direct call has a request of its own"
    outer.pop_request()
    # The one below is not the innermost of all: what is above it stays.
    assert (outer.request.retries, [request.id for request in outer.request_stack]) == (2, ["a"])
    popped: Any = outer.request_stack.pop()
    assert (popped.id, bool(outer.request_stack), inner.request.id) == ("a", False, "b")
    inner.request_stack.push(Request(id="d"))
    assert [inner.pop_request().id, inner.pop_request().id] == ["d", "b"]
    assert current_request.get() is None
    outer.push_request(id="e")
    outer.request_stack.push(outer.request)
    assert [request.id for request in outer.request_stack] == ["e", "e"]
    assert (outer.pop_request() is outer.pop_request(), len(outer.request_stack)) == (False, 0)
    with pytest.raises(TypeError, match="push_request"):
        outer.request_stack.push({"id": "e"})


class Listens:
    """A plugin that hears events of tasks."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    @hookimpl
    def kernel_task_event(self, request: Any, type: str, fields: Any, retry_policy: Any) -> None:
        self.heard.append((request.task, type, fields, retry_policy))
        if type == "bad":
            raise OSError("no way out")


def test_events_of_a_task_reach_plugins(app: Kernel) -> None:
    listens = Listens()
    app.extensions.register(listens)

    @app.task(bind=True, name="event")
    def event(self: Any, type_: Any, retry: bool = True, retry_policy: Any = None) -> None:
        self.send_event(type_, retry=retry, retry_policy=retry_policy, done=50)

    event.apply(("task-half",), task_id="i").get()
    event.apply(("bad",), {"retry": False}, task_id="i").get()
    event.apply(("task-half",), {"retry_policy": {"max_retries": 1}}, task_id="i").get()
    fields = {"uuid": "i", "done": 50}
    assert listens.heard == [
        ("event", "task-half", fields, {}),
        ("event", "bad", fields, None),
        ("event", "task-half", fields, {"max_retries": 1}),
    ]
    with pytest.raises(TypeError, match="the type of an event is 5"):
        event.apply((5,)).get()
