"""The rows of Celery's contract about results: what each says of an app in memory, and what is ours beside it."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel import errors, states
from kernel.app import Kernel
from kernel.groupresult import GroupResult, ResultSet
from kernel.interfaces.backend import Record
from kernel.result import AsyncResult, EagerResult, children_text, result_from_tuple
from kernel.results.graph import DependencyGraph
from tests.unit.resulting import group_of, later, record, store

LIMIT = 20.0


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("rows", broker="memory://", backend="memory://") as made:
        yield made
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"kernel-results", "kernel-result-calls"}


def tree(app: Kernel) -> AsyncResult[Any]:
    """a → b, c; b → the group g of d and e."""
    of_b = [GroupResult("g", [app.AsyncResult("d"), app.AsyncResult("e")], app=app)]
    store(app, "a", 1, children=children_text([app.AsyncResult("b"), app.AsyncResult("c")]))
    store(app, "b", 2, children=children_text(of_b))
    for number, leaf in enumerate("cde", start=3):
        store(app, leaf, number)
    return app.AsyncResult("a")


# --- one result: what each row gives of a task that succeeded, failed, or is not there ------------------------

ROWS: list[Any] = [
    # name, what is asked, with SUCCESS 7, with FAILURE ValueError("no"), without a record
    ("5-13 get", lambda r: r.get(timeout=LIMIT), 7, ValueError, errors.TimeoutError),
    ("5-13 wait", lambda r: r.wait(timeout=LIMIT), 7, ValueError, errors.TimeoutError),
    ("5-14 timeout 0", lambda r: r.get(timeout=0), 7, ValueError, errors.TimeoutError),
    ("5-15 propagate", lambda r: str(r.get(timeout=LIMIT, propagate=False)), "7", "no", errors.TimeoutError),
    ("5-17 interval", lambda r: r.get(timeout=LIMIT, interval=0.01), 7, ValueError, errors.TimeoutError),
    ("5-18 no_ack", lambda r: r.get(timeout=LIMIT, no_ack=False), 7, ValueError, errors.TimeoutError),
    ("5-24 ready", lambda r: r.ready(), True, True, False),
    ("5-24 successful", lambda r: r.successful(), True, False, False),
    ("5-24 failed", lambda r: r.failed(), False, True, False),
    ("5-25 exists", lambda r: r.exists(), True, True, False),
    ("5-26 state", lambda r: (r.state, r.status), ("SUCCESS",) * 2, ("FAILURE",) * 2, ("PENDING",) * 2),
    ("5-26 result", lambda r: str(r.result), "7", "no", "None"),
    ("5-26 info", lambda r: str(r.info), "7", "no", "None"),
    ("5-26 traceback", lambda r: r.traceback, None, "tb", None),
    ("5-26 children", lambda r: r.children, [], [], None),
    ("5-26 date_done", lambda r: r.date_done and r.date_done.year, 2001, 2001, None),
    ("5-26 ids", lambda r: (r.task_id, r.id), ("x", "x"), ("x", "x"), ("x", "x")),
    ("5-26 parent", lambda r: (r.parent, r.ignored), (None, False), (None, False), (None, False)),
    ("5-27 extended", lambda r: (r.name, r.worker, r.retries, r.queue), ("t", "w", 2, "q"), ("t", "w", 2, "q"),
     (None,) * 4),
    ("5-27 arguments", lambda r: (r.args, r.kwargs), ([1], {"a": 2}), ([1], {"a": 2}), (None, None)),
    ("5-28 collect", lambda r: [*r.collect(timeout=0)], [("x", 7)], ValueError, errors.TimeoutError),
    ("5-29 get_leaf", lambda r: r.get_leaf(timeout=0), 7, ValueError, errors.TimeoutError),
    ("5-29 iterdeps", lambda r: [*r.iterdeps()], [(None, "x")], [(None, "x")], errors.IncompleteStream),
    ("5-29 iterdeps on the way", lambda r: [*r.iterdeps(intermediate=True)], *([[(None, "x")]] * 3)),
    ("5-30 build_graph", lambda r: [*r.build_graph()], ["x"], ["x"], errors.IncompleteStream),
    ("5-30 graph", lambda r: len(r.graph), 1, 1, errors.IncompleteStream),
    ("5-31 forget", lambda r: (r.forget(), r.state), *([(None, "PENDING")] * 3)),
    ("5-14 TimeoutError", lambda r: issubclass(r.TimeoutError, errors.TimeoutError), *([True] * 3)),
    ("5-34 maybe_throw", lambda r: r.maybe_throw(), 7, ValueError, None),
    ("5-34 maybe_reraise", lambda r: r.maybe_reraise(), 7, ValueError, None),
    ("5-34 throw", lambda r: r.throw(), 7, ValueError, None),
    ("5-34 propagate", lambda r: str(r.maybe_throw(propagate=False)), "7", "no", "None"),
    ("5-35 as_tuple", lambda r: r.as_tuple(), *([(("x", None), None)] * 3)),
    ("5-35 as_list", lambda r: r.as_list(), *([["x"]] * 3)),
    ("5-36 supports_native_join", lambda r: r.supports_native_join, True, True, True),
    ("5-38 equality", lambda r: (r == "x", hash(r) == hash("x"), r == "y"), *([(True, True, False)] * 3)),
]  # fmt: skip


@pytest.mark.parametrize("case", ["success", "failure", "nothing"])
@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_one_result(app: Kernel, row: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ask, *expected = row
    args, kwargs = app.codecs.encode_result([1])[0], app.codecs.encode_result({"a": 2})[0]
    fields: dict[str, Any] = {
        "date_done": 1e9,
        "name": "t",
        "worker": "w",
        "retries": 2,
        "queue": "q",
        "args": args,
        "kwargs": kwargs,
    }
    if case == "success":
        store(app, "x", 7, **fields)
    elif case == "failure":
        store(app, "x", ValueError("no"), state=states.FAILURE, traceback="tb", **fields)
    else:
        # What waits for a result that never comes is not to wait for long.
        monkeypatch.setitem(globals(), "LIMIT", 0.02)
    outcome = expected[["success", "failure", "nothing"].index(case)]
    if isinstance(outcome, type) and issubclass(outcome, Exception):
        with pytest.raises(outcome):
            ask(app.AsyncResult("x"))
    else:
        assert ask(app.AsyncResult("x")) == outcome


def test_callbacks_messages_and_parents(app: Kernel) -> None:
    """5-16, 5-19, 5-20, 5-21."""
    seen: list[Any] = []
    store(app, "x", {"half": True}, state="HALF")
    timer = later(lambda: store(app, "x", 7))
    result = app.AsyncResult("x")
    ticks: list[int] = []
    got = result.get(
        timeout=LIMIT,
        callback=lambda *pair: seen.append(pair),
        on_message=seen.append,
        on_interval=lambda: ticks.append(1),
        interval=0.01,
    )
    timer.join()
    assert got == 7
    assert ticks
    assert [(each["status"], each["result"]) for each in seen[:-1]] == [("HALF", {"half": True}), ("SUCCESS", 7)]
    assert seen[-1] == ("x", 7)
    store(app, "bad", KeyError("first"), state=states.FAILURE)
    with pytest.raises(KeyError, match="first"):
        app.AsyncResult("x", parent=app.AsyncResult("bad")).get(timeout=LIMIT)
    assert app.AsyncResult("x", parent=app.AsyncResult("bad")).get(timeout=LIMIT, follow_parents=False) == 7


# --- then -----------------------------------------------------------------------------------------------------


class Told:
    """What was called, in order; waits for it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, value: Any) -> None:
        with self._changed:
            self.calls.append(value)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) >= count, LIMIT)
            return self.calls


def test_then(app: Kernel) -> None:
    """5-23."""
    told, wrong = Told(), Told()
    first, second = app.AsyncResult("x"), app.AsyncResult("y")
    assert first.then(told).then(told) is first
    second.then(lambda result: result.get(), on_error=wrong)
    store(app, "x", 1)
    assert told.wait(2) == ["x", "x"]
    assert first.get() == 1
    store(app, "y", ValueError("no"), state=states.FAILURE)
    assert [str(exc) for exc in wrong.wait(1)] == ["no"], "what the callback raises is the error"
    first.then(told)
    assert told.calls == ["x"] * 3, "what is known is told at once"


def test_then_of_a_result_that_nobody_has_any_more(app: Kernel) -> None:
    """5-40."""
    told, kept = Told(), Told()
    result = app.AsyncResult("x")
    result.then(told, weak=True)
    other = app.AsyncResult("x").then(kept)
    del result
    gc.collect()
    store(app, "x", 1)
    assert kept.wait(1) == [other]
    assert told.calls == []


def test_then_of_a_set(app: Kernel) -> None:
    told = Told()
    nested = ResultSet([group_of(app, "a", "b"), app.AsyncResult("c"), EagerResult("e", 5, "SUCCESS")], app)
    nested.then(told)
    for name in "abc":
        assert told.calls == []
        store(app, name, name)
    assert told.wait(1) == [nested]
    ResultSet([], app).then(told)
    assert len(told.wait(2)) == 2


def test_closing_the_app_tells_who_waits_by_then(app: Kernel) -> None:
    wrong = Told()
    app.AsyncResult("x").then(lambda _: None, on_error=wrong)
    app.close()
    assert isinstance(wrong.wait(1)[0], errors.OperationalError)


# --- the tree -------------------------------------------------------------------------------------------------


def test_the_tree_of_what_came_of_a_call(app: Kernel) -> None:
    """5-28 to 5-30."""
    result = tree(app)
    assert [(node.id, value) for node, value in result.collect()] == [
        ("a", 1), ("b", 2), ("c", 3), ("g", [4, 5]), ("d", 4), ("e", 5),
    ]  # fmt: skip
    assert result.get_leaf() == 5
    graph = result.graph
    assert [(str(start), str(end)) for start, end in graph.edges()] == [
        ("a", "b"), ("a", "c"), ("b", "g"), ("g", "d"), ("g", "e"),
    ]  # fmt: skip
    order = [str(node) for node in graph.topsort()]
    assert order.index("d") < order.index("g") < order.index("b") < order.index("a")
    assert graph.valency_of(app.AsyncResult("b")) == 3
    dot = result.build_graph(formatter=lambda node: f'"{node.id}"').to_dot()
    assert '    "\\"a\\"" -> "\\"b\\"";' in dot.splitlines()


def test_a_tree_that_is_not_whole(app: Kernel) -> None:
    store(app, "a", 1, children=children_text([app.AsyncResult("b")]))
    result = app.AsyncResult("a")
    with pytest.raises(errors.IncompleteStream, match="the result b, which came of a"):
        result.build_graph()
    assert [str(node) for node in result.build_graph(intermediate=True)] == ["a", "b"]
    timer = later(lambda: store(app, "b", 2))
    assert [value for _, value in result.collect(timeout=LIMIT)] == [1, 2]
    timer.join()


def test_a_circle_of_children_ends(app: Kernel) -> None:
    store(app, "a", 1, children=children_text([app.AsyncResult("b")]))
    store(app, "b", 2, children=children_text([app.AsyncResult("a")]))
    assert [value for _, value in app.AsyncResult("a").collect()] == [1, 2]


def test_a_graph() -> None:
    graph: DependencyGraph[str] = DependencyGraph()
    graph.update([("a", ["b", "c"]), ("b", ["d"])])
    other: DependencyGraph[str] = DependencyGraph()
    other.add_edge("c", "d")
    other.add_arc("alone")
    graph.connect(other)
    graph.add_edge("a", "b")
    assert [*graph] == ["a", "b", "c", "d", "alone"]
    assert (len(graph), graph["a"], graph.get("z"), "d" in graph, "z" in graph) == (5, ["b", "c"], None, True, False)
    assert graph.topsort() == ["d", "b", "c", "a", "alone"]
    file = io.StringIO()
    assert graph.to_dot(file) == file.getvalue()
    assert "b -> d" in repr(graph)
    graph.add_edge("d", "a")
    with pytest.raises(ValueError, match="circle"):
        graph.topsort()


def test_data_of_a_result_behind_a_group(app: Kernel) -> None:
    """5-35, 5-51, 5-52: what comes after a chord has a group for its parent."""
    header = group_of(app, "m", "n")
    header.parent = app.AsyncResult("first")
    body: AsyncResult[Any] = AsyncResult("body", app=app, parent=header)
    data = json.loads(json.dumps(body.as_tuple()))
    assert data == [["body", [["g", [["first", None], None]], [[["m", None], None], [["n", None], None]]]], None]
    again = result_from_tuple(data, app)
    assert (again, again.parent, again.parent.parent) == (body, header, header.parent)
    assert body.as_list() == ["body", "g", "first"]
    for name in ("body", "m", "n", "first"):
        store(app, name, 1)
    body.forget()
    assert [app.AsyncResult(name).state for name in ("body", "m", "n", "first")] == ["PENDING"] * 4


# --- several --------------------------------------------------------------------------------------------------

SETS: list[Any] = [
    ("5-42 get", lambda g: g.get(timeout=LIMIT), [1, 2, 3]),
    ("5-43 join", lambda g: g.join(timeout=LIMIT), [1, 2, 3]),
    ("5-44 join_native", lambda g: g.join_native(timeout=LIMIT), [1, 2, 3]),
    ("5-42 get with a callback", lambda g: called(g.get), ([], [("x", 1), ("y", 2), ("z", 3)])),
    ("5-43 join with a callback", lambda g: called(g.join), ([], [("x", 1), ("y", 2), ("z", 3)])),
    ("5-44 join_native with one", lambda g: called(g.join_native), (None, [("x", 1), ("y", 2), ("z", 3)])),
    ("5-46 iter_native", lambda g: [(key, meta["result"]) for key, meta in g.iter_native(timeout=LIMIT)],
     [("x", 1), ("y", 2), ("z", 3)]),
    ("5-45 iterate", lambda g: [key for key, _ in g.iterate(timeout=LIMIT)], ["x", "y", "z"]),
    ("5-47 states", lambda g: (g.ready(), g.waiting(), g.successful(), g.failed()), (True, False, True, False)),
    ("5-47 completed_count", lambda g: g.completed_count(), 3),
    ("5-48 maybe_throw", lambda g: g.maybe_throw(), None),
    ("5-48 with a callback, which comes first", lambda g: each_told(g.maybe_throw), [("x", 1), ("y", 2), ("z", 3)]),
    ("5-48 forget", lambda g: (g.forget(), g.completed_count()), (None, 0)),
    ("5-49 items", lambda g: ([*g], len(g), g[1]), (["x", "y", "z"], 3, "y")),
    ("5-50 save", lambda g: GroupResult.restore(g.save().id, app=g.app), "g"),
    ("5-50 restore of an app", lambda g: g.app.GroupResult.restore(g.save().id), "g"),
    ("5-50 delete", lambda g: (g.save().delete(), GroupResult.restore(g.id, app=g.app)), (None, None)),
    ("5-51 data", lambda g: (g.id, g.children, g.parent), ("g", ["x", "y", "z"], None)),
    ("5-51 as_tuple", lambda g: g.as_tuple(), (("g", None), [(("x", None), None), (("y", None), None),
     (("z", None), None)])),
    ("5-52 result_from_tuple", lambda g: result_from_tuple(g.as_tuple(), g.app), "g"),
    ("5-36 supports_native_join", lambda g: g.supports_native_join, True),
    ("5-30 graph", lambda g: len(g.graph), 4),
    ("awaited", lambda g: asyncio.run(g.aget(LIMIT)), [1, 2, 3]),
]  # fmt: skip


def each_told(method: Callable[[Any], object]) -> list[tuple[str, Any]]:
    told: list[tuple[str, Any]] = []
    method(lambda key, value: told.append((key, value)))
    return told


def called(get: Callable[..., Any]) -> Any:
    """What it returned, and what its callback was called with."""
    calls: list[Any] = []
    return get(timeout=LIMIT, callback=lambda *pair: calls.append(pair)), calls


@pytest.mark.parametrize("row", SETS, ids=[row[0] for row in SETS])
def test_a_group(app: Kernel, row: Any) -> None:
    _, ask, expected = row
    for number, name in enumerate("xyz", start=1):
        store(app, name, number)
    assert ask(group_of(app, "x", "y", "z")) == expected


def test_members_are_handed_out_as_they_end(app: Kernel) -> None:
    """5-43, 5-44, 5-46: `join` keeps the order of the members, the others that in which they end."""
    made = group_of(app, "a", "b", "c")
    order: dict[str, list[Any]] = {"get": [], "join": []}
    threads = [
        threading.Thread(
            target=getattr(made, name), kwargs={"timeout": LIMIT, "callback": lambda *p, to=to: to.append(p)}
        )
        for name, to in order.items()
    ]
    for thread in threads:
        thread.start()
    ended = made.iter_native(timeout=LIMIT)
    for number, name in enumerate("cab"):
        store(app, name, number)
        assert next(ended)[0] == name
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(order["get"]) == order["join"] == [("a", 1), ("b", 2), ("c", 0)]


def test_a_failure_ends_get_at_once_and_join_in_its_turn(app: Kernel) -> None:
    store(app, "c", ValueError("no"), state=states.FAILURE)
    made = group_of(app, "a", "b", "c")
    with pytest.raises(ValueError, match="no"):
        made.get(timeout=LIMIT)
    with pytest.raises(ValueError, match="no"):
        made.join_native(timeout=LIMIT)
    with pytest.raises(ValueError, match="no"):
        asyncio.run(made.aget(LIMIT))
    with pytest.raises(errors.TimeoutError, match="2 results were not ready"):
        made.join(timeout=0.02)
    assert (made.failed(), made.ready(), made.state) == (True, False, "FAILURE")


def test_nested_groups_give_nested_lists(app: Kernel) -> None:
    inner = group_of(app, "a", "b", id="inner")
    made = GroupResult("outer", [inner, app.AsyncResult("c"), GroupResult("empty", [], app=app)], app=app)
    for name in "abc":
        store(app, name, name)
    expected = [["a", "b"], "c", []]
    assert made.get(timeout=LIMIT) == made.join(timeout=LIMIT) == made.join_native(timeout=LIMIT) == expected
    assert asyncio.run(made.aget(LIMIT)) == expected
    assert [(key, meta if isinstance(meta, list) else meta["result"]) for key, meta in made.iter_native(LIMIT)] == [
        ("inner", ["a", "b"]),
        ("c", "c"),
    ]
    assert made.ids() == ["a", "b", "c"]


def test_several_results_of_one_call_and_results_without_one(app: Kernel) -> None:
    store(app, "a", 1)
    twice = GroupResult("g", [group_of(app, "a", id="h"), app.AsyncResult("a")], app=app)
    assert twice.get(timeout=LIMIT) == [[1], 1]
    mixed = ResultSet([EagerResult("e", 5, "SUCCESS"), AsyncResult("i", app=app, ignored=True), app.AsyncResult("a")])
    assert mixed.get(timeout=LIMIT) == mixed.join(timeout=LIMIT) == [5, None, 1]


def test_a_set_waits_with_one_watch(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = group_of(app, *(f"m{number}" for number in range(3000)))
    watches: list[Any] = []
    watch = type(app.backend).watch

    def counted(self: Any, ids: Any = ()) -> Any:
        watches.append(watch(self, ids))
        return watches[-1]

    monkeypatch.setattr(type(app.backend), "watch", counted)
    timer = later(lambda: app.backend.store([record(app, each.id, states.SUCCESS, each.id) for each in made]))
    assert made.get(timeout=LIMIT) == [each.id for each in made]
    timer.join()
    assert len(watches) == 1


# --- results of calls that ran here -----------------------------------------------------------------------------

EAGER: list[Any] = [
    ("5-53 get", lambda r: r.get(), 7, ValueError),
    ("5-53 wait", lambda r: r.wait(timeout=1, interval=0.1), 7, ValueError),
    ("5-53 propagate", lambda r: str(r.get(propagate=False)), "7", "no"),
    ("5-53 ready", lambda r: (r.ready(), r.successful(), r.failed(), r.exists()), (True, True, False, True),
     (True, False, True, True)),
    ("5-53 forget", lambda r: (r.forget(), r.ready()), (None, True), (None, True)),
    ("5-53 state", lambda r: (r.state, r.status, r.name, r.task_name), ("SUCCESS", "SUCCESS", "t", "t"),
     ("FAILURE", "FAILURE", "t", "t")),
    ("5-26 nothing stored", lambda r: (r.children, r.date_done, r.args, r.worker, r.parent, r.ignored),
     (None, None, None, None, None, False), (None, None, None, None, None, False)),
    ("5-54 revoke", lambda r: (r.revoke(), r.state, str(r.result)), (None, "REVOKED", "revoked"),
     (None, "REVOKED", "revoked")),
    ("5-28 collect", lambda r: [*r.collect()], [("e", 7)], ValueError),
    ("5-29 get_leaf", lambda r: r.get_leaf(), 7, ValueError),
    ("5-30 graph", lambda r: [*r.graph], ["e"], ["e"]),
    ("5-23 then", lambda r: r.then(lambda done: done.get()).id, "e", ValueError),
    ("5-23 then with on_error", lambda r: r.then(lambda done: done.get(), lambda exc: None).id, "e", "e"),
    ("5-34 maybe_throw", lambda r: r.maybe_throw(), 7, ValueError),
    ("5-35 as_tuple", lambda r: (r.as_tuple(), r.as_list()), ((("e", None), None), ["e"]),
     ((("e", None), None), ["e"])),
    ("5-36 supports_native_join", lambda r: r.supports_native_join, False, False),
    ("5-38 equality", lambda r: (r == "e", r == AsyncResult("e")), (True, True), (True, True)),
    ("scoreboard", lambda r: (r.scoreboard["state"], r.scoreboard["complete"]), ("SUCCESS", True), ("FAILURE", True)),
]  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("row", EAGER, ids=[row[0] for row in EAGER])
def test_an_eager_result(row: Any, fails: bool) -> None:
    _, ask, good, bad = row
    result: EagerResult[Any] = EagerResult("e", 7, "SUCCESS", name="t")
    if fails:
        result = EagerResult("e", ValueError("no"), "FAILURE", name="t")
    if fails and isinstance(bad, type):
        with pytest.raises(bad, match="no"):
            ask(result)
    else:
        assert ask(result) == (bad if fails else good)


def test_asking_the_backend_for_what_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """5-57."""
    with Kernel("eager", broker="memory://", backend="memory://", task_always_eager=True) as app:
        with pytest.warns(RuntimeWarning, match="task_store_eager_result"):
            assert app.AsyncResult("x").state == "PENDING"
        with pytest.warns(RuntimeWarning, match="task_store_eager_result"), pytest.raises(errors.TimeoutError):
            app.AsyncResult("x").get(timeout=0.01)


# --- scoreboards ------------------------------------------------------------------------------------------------


def test_a_scoreboard_of_what_was_seen(app: Kernel) -> None:
    result = app.AsyncResult("x", task_name="t")
    empty = result.scoreboard
    assert (empty["id"], empty["name"], empty["state"], empty["states"]) == ("x", "t", "PENDING", [])
    store(app, "x", {"pid": 1, "hostname": "w@h"}, state=states.STARTED)
    assert result.state == "STARTED"
    store(app, "x", OSError("again"), state=states.RETRY)
    assert result.scoreboard["state"] == "RETRY"
    store(app, "x", "done", date_done=1e9)
    board = result.scoreboard
    assert [each["state"] for each in board["states"]] == ["STARTED", "RETRY", "SUCCESS"]
    assert (board["worker"], board["retries"], board["complete"]) == ("w@h", 1, False)
    assert board["states"][-1]["at"] == 1e9
    assert json.loads(json.dumps(board)) == board


def test_a_scoreboard_of_what_cannot_be_read(app: Kernel) -> None:
    app.backend.store([Record(id="x", state="SUCCESS", result=b"{", date_done=1e9)])
    assert "DecodeError" in app.AsyncResult("x").scoreboard["states"][0]["info"]


# --- settings ---------------------------------------------------------------------------------------------------


def failing(app: Kernel, monkeypatch: pytest.MonkeyPatch, failures: int) -> list[int]:
    """The backend's next reads fail; what was read."""
    reads: list[int] = []
    original = app.backend.load

    def read(ids: Any) -> Any:
        reads.append(len(ids))
        if len(reads) <= failures:
            raise errors.OperationalError("away")
        return original(ids)

    monkeypatch.setattr(app.backend, "load", read)
    return reads


def test_result_cache_max(monkeypatch: pytest.MonkeyPatch) -> None:
    """5-59: of results that ended well, as many as the setting says; 0: all."""
    for most, count in ((-1, 0), (2, 2), (0, 3)):
        with Kernel("cache", broker="memory://", backend="memory://", result_cache_max=most) as app:
            reads = failing(app, monkeypatch, 0)
            for name in ("a", "b", "c"):
                store(app, name, name)
                assert app.AsyncResult(name).result == name
            store(app, "bad", ValueError("no"), state=states.FAILURE)
            assert app.AsyncResult("bad").failed()
            reads.clear()
            assert [app.AsyncResult(name).result for name in ("c", "b", "a", "bad")][:3] == ["c", "b", "a"]
            assert len(reads) == 4 - count
            if most == 0:
                app.AsyncResult("a").forget()
                assert app.AsyncResult("a").state == "PENDING"


@pytest.mark.parametrize(("failures", "most", "succeeds"), [(3, float("inf"), True), (3, 3, True), (3, 2, False)])
def test_result_backend_always_retry(
    monkeypatch: pytest.MonkeyPatch, failures: int, most: float, succeeds: bool
) -> None:
    """5-61."""
    settings: dict[str, Any] = {
        "result_backend_always_retry": True,
        "result_backend_max_retries": most,
        "result_backend_base_sleep_between_retries_ms": 1,
        "result_backend_max_sleep_between_retries_ms": 2,
    }
    with Kernel("retry", broker="memory://", backend="memory://", **settings) as app:
        store(app, "a", 1)
        reads = failing(app, monkeypatch, failures)
        if succeeds:
            assert app.AsyncResult("a").result == 1
            assert len(reads) == failures + 1
        else:
            with pytest.raises(errors.OperationalError):
                _ = app.AsyncResult("a").state
            assert len(reads) == most + 1


def test_without_it_an_error_is_told_at_once(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = failing(app, monkeypatch, 1)
    with pytest.raises(errors.OperationalError):
        _ = app.AsyncResult("a").state
    assert len(reads) == 1
