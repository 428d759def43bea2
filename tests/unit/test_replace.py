"""`Task.replace`: what takes the place of a task, and that it takes it once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernel import chain, errors, group, states
from kernel.app import Kernel
from kernel.interfaces.broker import Verdict
from kernel.signature import Signature
from kernel.task import Task
from tests.unit.executing import Bench


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_replace", broker="memory://", backend="memory://") as made:

        @made.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @made.task(name="swap", bind=True)
        def swap(self: Task[..., Any], data: Any) -> Any:
            runs.append(self.request.id)
            return self.replace(made_of(data))

        def made_of(data: Any) -> Any:
            return None if data is None else data if not isinstance(data, dict) else Signature.from_dict(data, made)

        runs: list[Any] = []
        made.stash = runs  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def bench(app: Kernel) -> Bench:
    return Bench(app)


@pytest.fixture
def runs(app: Kernel) -> list[str]:
    found: list[str] = app.stash  # type: ignore[attr-defined]
    return found


def test_it_has_the_id_and_the_place_of_the_task(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    options: dict[str, Any] = {"task_id": "x", "root_id": "r", "parent_id": "p", "group_id": "g", "group_index": 3}
    options |= {"reply_to": "caller", "link": [add.s(5)], "link_error": [add.s(6)]}
    options["chain"] = [dict(add.s(8).set(task_id="c2")), dict(add.s(7).set(task_id="c1"))]
    ending = bench.run(swap, add.s(1, 2), **options)
    assert (ending.state, ending.verdict) == (states.IGNORED, Verdict.ACK)
    [item] = ending.publications
    headers = item.message.headers
    shown = {name: headers[name] for name in ("id", "root_id", "parent_id", "group", "group_index", "task")}
    assert shown == {"id": "x", "root_id": "r", "parent_id": "p", "group": "g", "group_index": 3, "task": "add"}
    assert (headers["replaced_task_nesting"], item.message.properties["reply_to"]) == (1, "caller")
    args, _, embed = bench.body(item)
    assert args == [1, 2]
    assert [link["args"] for link in embed["callbacks"]] == [[5]]
    assert [link["args"] for link in embed["errbacks"]] == [[6]]
    assert [(step["options"]["task_id"], step["options"]["replaced_task_nesting"]) for step in embed["chain"]] == [
        ("c2", 1),
        ("c1", 1),
    ]


def test_the_last_task_of_a_chain_has_the_id(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    made = chain(add.s(1), add.s(2), add.s(3))
    options = {"task_id": "x", "root_id": "r", "group_id": "g", "group_index": 0, "link": [add.s(5)]}
    [item] = bench.run(swap, made, chain=[dict(add.s(9).set(task_id="c1"))], **options).publications
    first, embed = item.message.headers, bench.body(item)[2]
    assert first["id"] != "x"
    assert (first["root_id"], first["group"]) == ("r", None)
    following = [step["options"] for step in reversed(embed["chain"])]
    assert [step.get("replaced_task_nesting") for step in (*following, {"replaced_task_nesting": 1})] == [1, 1, 1, 1]
    assert [step["task_id"] for step in following][1:] == ["x", "c1"]
    assert (following[1]["group_id"], following[1]["group_index"]) == ("g", 0)
    assert [len(step.get("link") or ()) for step in following] == [0, 1, 0]
    assert embed["callbacks"] is None


def test_ids_are_the_same_each_time_and_the_signature_is_left_alone(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    made = chain(add.s(1), add.s(2))
    before = repr(dict(made))
    ids = [[bench.run(swap, made, task_id="x").publications[0].message.id] for _ in range(2)]
    assert ids[0] == ids[1] != ["x"]
    assert repr(dict(made)) == before


def test_an_id_that_it_had_is_given_up(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    made = add.s(1)
    made.freeze("own")
    assert bench.run(swap, made, task_id="x").publications[0].message.id == "x"
    assert made.id == "own"


def test_a_replacement_that_is_replaced_again(app: Kernel, bench: Bench) -> None:
    swap, add = app.tasks["swap"], app.tasks["add"]
    [first] = bench.run(swap, swap.s(add.s(4)), task_id="x", link=[add.s(5)]).publications
    [second] = bench.run_message(first.message).publications
    assert [item.message.headers["replaced_task_nesting"] for item in (first, second)] == [1, 2]
    assert (second.message.id, bench.body(second)[0]) == ("x", [4])
    assert [link["args"] for link in bench.body(second)[2]["callbacks"]] == [[5]]


def test_a_group_becomes_a_chord_of_one_value(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    made = group(add.s(1), add.s(2))
    for sig, count in ((made, 2), (add.s(0) | made, 1)):
        items = bench.run(swap, sig, task_id="x", link=[add.s(5)]).publications
        assert len(items) == count
        embed = bench.body(items[0])[2]
        whole = embed["chord"] or embed["chain"][0]
        body = whole if embed["chord"] else whole["kwargs"]["body"]
        assert (body["task"], body["options"]["task_id"], body["kwargs"]) == ("celery.accumulate", "x", {"index": 0})
        assert body["options"]["replaced_task_nesting"] == 1
        assert [link["args"] for link in body["options"]["link"]] == [[5]]
    [empty] = bench.run(swap, group(), task_id="x").publications
    ending = bench.run_message(empty.message)
    assert bench.value(ending.records[0]) == []


@pytest.mark.parametrize("made", ["nothing", "text"])
def test_what_is_no_signature_fails_the_task(app: Kernel, bench: Bench, made: str) -> None:
    ending = bench.run(app.tasks["swap"], None if made == "nothing" else made)
    assert (ending.state, ending.publications) == (states.FAILURE, ())


def test_what_cannot_replace_a_task(app: Kernel, bench: Bench) -> None:
    add = app.tasks["add"]
    for made, said in ((add.s(1).set(chord=dict(add.s())), "chord of its own"), (chain(), "empty chain")):
        ending = bench.run(app.tasks["swap"], made)
        assert (ending.state, ending.publications) == (states.FAILURE, ())
        assert said in str(bench.value(ending.records[0]))


def test_arguments_are_checked_while_the_task_runs(app: Kernel, bench: Bench) -> None:
    add = app.tasks["add"]
    ending = bench.run(app.tasks["swap"], chain(add.s(1), add.s(1, 2)))
    assert (ending.state, ending.publications) == (states.FAILURE, ())
    assert "in swap" in (ending.records[0].traceback or "")


# --- what is kept of it -------------------------------------------------------------------------------------


def test_a_redelivery_publishes_the_same_again_and_runs_nothing(app: Kernel, bench: Bench, runs: list[str]) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    message = bench.message(swap, chain(add.s(1), add.s(2)), task_id="x")
    first = bench.run_message(message)
    [published] = bench.carry_out(first)
    again = bench.run_message(message, seen=True)
    assert runs == ["x"]
    assert (again.verdict, again.records, again.state) == (Verdict.ACK, (), "")
    [repeated] = again.publications
    expected = {**published.message.headers, "redelivered": True}
    assert (repeated.message.headers, repeated.message.body) == (expected, published.message.body)
    assert (repeated.queue, repeated.priority, repeated.due) == (published.queue, published.priority, published.due)


def test_a_redelivery_calls_no_link_that_the_replacement_calls(app: Kernel, bench: Bench, runs: list[str]) -> None:
    """The replacement's own link comes first, so ids worked out from the task's links alone would be others."""
    add, swap = app.tasks["add"], app.tasks["swap"]
    made = add.s(1)
    made.link(add.s(100))
    message = bench.message(swap, made, task_id="x", link=[add.s(5)])
    [item] = bench.carry_out(bench.run_message(message))
    links = bench.carry_out(bench.run_message(item.message))
    assert [bench.body(link)[0] for link in links] == [[1, 100], [1, 5]]
    [repeated] = bench.run_message(message, seen=True).publications
    assert (runs, repeated.message.id) == (["x"], "x")
    resumed = bench.run_message(repeated.message).publications
    assert [link.message.id for link in resumed] == [link.message.id for link in links]
    assert all(link.message.headers["redelivered"] for link in resumed)


def test_the_end_of_two_runs_at_once_is_that_of_the_first(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    message = bench.message(swap, add.s(1), task_id="x")
    other = bench.message(swap, add.s(2), task_id="x")
    first, second = bench.run_message(message), bench.run_message(other)
    [kept] = bench.carry_out(first)
    [published] = bench.carry_out(second)
    assert published.message.body == kept.message.body


def test_the_replacement_itself_is_not_taken_for_replaced(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    [item] = bench.carry_out(bench.run(swap, chain(add.s(1), add.s(2)), task_id="x"))
    [second] = bench.carry_out(bench.run_message(item.message, seen=True))
    assert second.message.id == "x"
    bench.carry_out(bench.run_message(second.message, seen=True))
    assert app.AsyncResult("x").get(timeout=5) == 3


def test_a_replay_from_the_dead_letters_runs(app: Kernel, bench: Bench, runs: list[str]) -> None:
    message = bench.message(app.tasks["swap"], app.tasks["add"].s(1), task_id="x")
    bench.carry_out(bench.run_message(message))
    bench.run_message(message.replayed(), seen=True)
    assert runs == ["x", "x"]


def test_ignored_results_leave_no_record(app: Kernel, bench: Bench) -> None:
    ending = bench.run(app.tasks["swap"], app.tasks["add"].s(1), ignore_result=True)
    assert (ending.records, len(ending.publications)) == ((), 1)


def test_what_the_record_holds_is_readable_by_the_result_serializer_alone(app: Kernel, bench: Bench) -> None:
    """A message may be in a format that results are not."""
    made = app.tasks["add"].s(1).set(serializer="pickle")
    ending = bench.run(app.tasks["swap"], made, task_id="x")
    [record] = ending.records
    assert record.content_type == "application/json"
    assert record.id not in ("x", *(item.message.id for item in ending.publications))


def test_a_record_that_cannot_be_read_is_told(
    app: Kernel, bench: Bench, runs: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    message = bench.message(app.tasks["swap"], app.tasks["add"].s(1), task_id="x")
    ending = bench.run_message(message)
    ending.records[0].result = b'{"replaced_by": 1}'
    bench.carry_out(ending)
    again = bench.run_message(message, seen=True)
    assert (again.verdict, again.publications, runs) == (Verdict.DEAD, (), ["x"])
    assert "cannot be read" in again.reason
    assert "cannot be read" in caplog.text


# --- in other ways ------------------------------------------------------------------------------------------


def test_on_replace_may_change_it(app: Kernel, bench: Bench) -> None:
    class Stamping(Task[..., Any]):
        def on_replace(self, sig: Signature[Any]) -> Any:
            return super().on_replace(sig.stamp(by=self.request.id))

    @app.task(name="stamps", bind=True, base=Stamping)
    def stamps(self: Task[..., Any]) -> Any:
        return self.replace(app.tasks["add"].s(1))

    [item] = bench.run(stamps, task_id="x").publications
    assert item.message.headers["stamps"] == {"by": "x"}
    [plain] = bench.run(app.tasks["swap"], app.tasks["add"].s(1), stamped_headers=["a"], a=1).publications
    assert not plain.message.headers["stamps"], "stamps of the task are not those of its replacement"


def test_eagerly_it_gives_the_value(app: Kernel) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    seen: list[Any] = []
    note = app.task(name="note")(seen.append)
    result = swap.apply((chain(add.s(1), add.s(2)),), task_id="x", link=[note.s()])
    assert (result.id, result.state, result.get()) == ("x", states.SUCCESS, 3)
    assert seen == [3]


def test_eagerly_its_error_is_the_tasks(app: Kernel) -> None:
    app.task(name="fail")(lambda: 1 / 0)
    seen: list[Any] = []
    note = app.task(name="note")(seen.append)
    result = app.tasks["swap"].apply((app.signature("fail"),), task_id="x", link_error=[note.s()])
    assert (result.state, seen) == (states.FAILURE, ["x"])
    with pytest.raises(ZeroDivisionError):
        result.get()


def test_called_directly_it_is_published(app: Kernel) -> None:
    with pytest.raises(errors.Ignore, match="Replaced by new task"):
        app.tasks["swap"](app.tasks["add"].s(1, 2))
    [message] = app.broker.peek("celery", 10)
    assert message.task == "add"


def test_a_backend_that_cannot_be_opened_is_no_fault_of_the_tasks(
    bench: Bench, app: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = bench.message(app.tasks["swap"], app.tasks["add"].s(1), task_id="x")
    monkeypatch.setattr(type(app), "backend", property(lambda self: pytest.fail("it is away")))
    ending = bench.run_message(message)
    assert (ending.state, len(ending.records), len(ending.publications)) == (states.IGNORED, 1, 1)
