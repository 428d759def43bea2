"""Results of a worker of processes, on SQLite, Redis and over RabbitMQ: what a program that waits for them sees."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel import errors
from kernel.groupresult import GroupResult
from kernel.testing.servers import redis_server
from kernel.testing.workers import Project, WorkerProcess, project_in

TIMEOUT = 60.0
TASKS = '''
@app.task(bind=True)
def steps(self, gate):
    """States on the way; half of them when somebody has seen the first."""
    self.update_state(state="READY", meta={"gate": gate})
    deadline = time.monotonic() + 60
    while not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.01)
    self.progress(1, 3, "one")
    self.progress(2, 3)
    return 7


@app.task(bind=True)
def flaky(self):
    if not self.request.retries:
        raise self.retry(exc=OSError("again"), countdown=0)
    return self.request.retries


@app.task
def spawn(count):
    return [add.delay(number, 1).id for number in range(count)]


@app.task
def fail(x):
    raise ValueError(f"no {x}")
'''


class Place:
    """A project with a worker on it. `kind` is ``sql``, ``redis`` or ``rpc``."""

    def __init__(self, kind: str, project: Project) -> None:
        self.kind = kind
        self.project = project
        self.app = project.app

    def task(self, name: str) -> Any:
        return self.project.task(name)

    def again(self, result: Any) -> Any:
        """The same result, as somebody has it who knows its id alone."""
        return self.app.AsyncResult(result.id)


@pytest.fixture(scope="module", params=["sql", "redis", "rpc"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings: dict[str, Any] = {"task_track_started": True, "result_extended": True}
    folder = tmp_path_factory.mktemp("results") / "p"
    if request.param == "redis":
        with redis_server() as server:
            yield from running("redis", folder, broker_url=server.url, result_backend=server.url, **settings)
    elif request.param == "rpc":
        rabbitmq = request.getfixturevalue("kernel_rabbitmq")
        url = rabbitmq.add_vhost()
        yield from running("rpc", folder, broker_url=url, result_backend="rpc://", **settings)
        rabbitmq.delete_vhost(url)
    else:
        yield from running("sql", folder, **settings)


def running(kind: str, folder: Path, **settings: Any) -> Iterator[Place]:
    with project_in(folder, tasks=TASKS, **settings) as project, WorkerProcess(project, "-c", "2"):
        yield Place(kind, project)


def run_steps(place: Place, gate: Path, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A call of `steps`, waited for by somebody who opens the gate at the first state in between; and what came."""
    seen: list[dict[str, Any]] = []

    def tell(meta: dict[str, Any]) -> None:
        seen.append(meta)
        if meta["status"] == "READY":
            gate.touch()

    result = place.task("steps").delay(str(gate))
    assert result.get(timeout=TIMEOUT, on_message=tell, **options) == 7
    return result, seen


def test_every_state_is_told(place: Place, tmp_path: Path) -> None:
    reports: list[Any] = []
    _, seen = run_steps(place, tmp_path / "gate", progress=reports.append)
    told = [each["status"] for each in seen]
    if place.kind == "redis":
        # Those that came before somebody listened are in nobody's hands any more.
        told = ["STARTED", *told[told.index("READY") :]]
    assert told == ["STARTED", "READY", "PROGRESS", "PROGRESS", "SUCCESS"]
    assert [each["result"] for each in seen[-3:]] == [
        {"current": 1, "total": 3, "message": "one"},
        {"current": 2, "total": 3, "message": ""},
        7,
    ]
    assert reports[-1] == {"current": 2, "total": 3, "message": ""}
    assert seen[-1]["worker"].startswith("w0@")


def test_who_comes_late_is_told_of_the_states_before_where_they_are_kept(place: Place, tmp_path: Path) -> None:
    result, _ = run_steps(place, tmp_path / "gate")
    late: list[str] = []
    if place.kind != "rpc":
        assert place.again(result).get(timeout=TIMEOUT, on_message=lambda meta: late.append(meta["status"])) == 7
        everything = ["STARTED", "READY", "PROGRESS", "PROGRESS", "SUCCESS"]
        assert late == (everything if place.kind == "sql" else ["SUCCESS"])
    board = result.scoreboard
    assert (board["state"], board["complete"]) == ("SUCCESS", place.kind == "sql")
    assert [each["state"] for each in board["states"]][-3:] == ["PROGRESS", "PROGRESS", "SUCCESS"]
    assert board["worker"].startswith("w0@")
    assert (board["name"], board["retries"], board["queue"]) == ("proj.steps", 0, "celery")
    if place.kind == "sql":
        times = [each["at"] for each in board["states"]]
        assert times == sorted(times)
        assert board["runtime"] >= 0


def test_a_retry_is_on_the_scoreboard(place: Place) -> None:
    seen: list[str] = []
    result = place.task("flaky").delay()
    assert result.get(timeout=TIMEOUT, on_message=lambda meta: seen.append(meta["status"])) == 1
    assert result.scoreboard["retries"] == 1
    assert result.retries == 1
    if place.kind != "redis":
        assert seen == ["STARTED", "RETRY", "STARTED", "SUCCESS"]


def test_the_tree_of_calls_in_a_task(place: Place) -> None:
    result = place.task("spawn").delay(3)
    ids = result.get(timeout=TIMEOUT)
    assert sorted(child.id for child in result.children) == sorted(ids)
    if place.kind == "rpc":
        # What a task calls answers its worker.
        with pytest.raises(errors.IncompleteStream, match="sends each answer to the process that called"):
            [*result.collect()]
        with pytest.raises(errors.IncompleteStream, match="sends each answer to the process that called"):
            _ = result.graph
        assert len(result.build_graph(intermediate=True)) == 4
        return
    assert sorted(value for _, value in list(result.collect(timeout=TIMEOUT))[1:]) == [1, 2, 3]
    assert len(result.graph.edges()) == 3


def test_the_tree_of_what_comes_after_a_task(place: Place) -> None:
    add = place.task("add")
    last = (add.s(1, 2) | add.s(10)).apply_async()
    assert [value for _, value in last.parent.collect(timeout=TIMEOUT)] == [3, 13]
    if place.kind == "rpc":
        return  # what a link returns goes to the worker that called it
    result = add.apply_async((1, 2), link=add.s(10))
    assert [value for _, value in result.collect(timeout=TIMEOUT)] == [3, 13]
    assert result.get_leaf(timeout=TIMEOUT) == 13
    assert len(result.graph.edges()) == 1


def test_functions_that_wait(place: Place) -> None:
    done = threading.Event()
    told: list[Any] = []

    def end(found: Any) -> None:
        told.append(found)
        done.set()

    results = [place.task("add").delay(number, 1) for number in range(5)]
    made = place.app.ResultSet(results)
    made.then(end)
    assert done.wait(TIMEOUT)
    assert told == [made]
    assert made.get(timeout=0) == [1, 2, 3, 4, 5]


def test_a_group_is_counted_and_its_first_failure_told(place: Place) -> None:
    add, fail = place.task("add"), place.task("fail")
    reports: list[Any] = []
    good = place.app.ResultSet([add.delay(number, 1) for number in range(10)])
    assert good.get(timeout=TIMEOUT, progress=reports.append) == list(range(1, 11))
    assert [each["current"] for each in reports] == list(range(1, 11))
    mixed = place.app.ResultSet([fail.delay(1), add.delay(1, 1)])
    with pytest.raises(ValueError, match="no 1"):
        mixed.get(timeout=TIMEOUT)
    assert mixed.join(timeout=TIMEOUT, propagate=False)[1] == 2


def test_a_group_is_saved_where_groups_are_kept(place: Place) -> None:
    results = [place.task("add").delay(number, 1) for number in range(3)]
    made = GroupResult("saved", results, app=place.app)
    if place.kind == "rpc":
        with pytest.raises(NotImplementedError, match="rpc:// keeps no groups"):
            made.save()
        assert made.get(timeout=TIMEOUT) == [1, 2, 3]
        return
    again = GroupResult.restore(made.save().id, app=place.app)
    assert again is not None
    assert again.get(timeout=TIMEOUT) == [1, 2, 3]
    again.forget()
    assert [member.state for member in again] == ["PENDING"] * 3
    again.delete()
    assert GroupResult.restore("saved", app=place.app) is None


def test_everything_can_be_awaited(place: Place) -> None:
    add = place.task("add")
    results = [add.delay(number, 1) for number in range(50)]

    async def gather() -> tuple[list[Any], list[Any]]:
        async with asyncio.timeout(TIMEOUT):
            one_by_one = await asyncio.gather(*results[:25])
            together = await place.app.ResultSet(results[25:])
        return list(one_by_one), together

    first, second = asyncio.run(gather())
    assert first + second == list(range(1, 51))
