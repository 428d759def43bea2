"""What a user's program does with tasks and results, on a worker of the command line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from kernel import allow_join_result, errors, states
from kernel.task import Task
from kernel.testing.workers import Project, WorkerProcess, project_in, wait_for

TASKS = """
from kernel import Task


class Wrong(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)


@app.task(bind=True)
def about(self, *args, **kwargs):
    r = self.request
    return {name: getattr(r, name) for name in (
        "id task retries headers shadow expires reply_to timelimit root_id parent_id hostname called_directly is_eager"
    ).split()} | {"priority": r.delivery_info["priority"], "args": list(r.args), "kwargs": dict(r.kwargs)}


@app.task
async def wait(seconds):
    import asyncio
    await asyncio.sleep(seconds)
    return seconds


@app.task
def fail(code):
    raise Wrong(code, "text")


@app.task
def errback(task_id):
    note("ERRBACK", task_id)


@app.task
def errback_with_all(request, exc, traceback):
    note("ERRBACK_ALL", f"{request.id}:{type(exc).__name__}:{'Traceback' in traceback}")


@app.task
def linked(value, key):
    note("LINKED", f"{key}:{value}")


@app.task(bind=True, max_retries=3)
def asks(self, key, how, n=0):
    note("RUN", f"{key}:{n}:{self.request.retries}")
    if not self.request.retries:
        retry = self.retry(args=(key, how, n + 1), countdown=0, throw=False)
        note("ASKED", key)
        if how == "raised":
            raise retry
        if how == "ignored":
            raise Ignore()
        if how == "failed":
            raise ValueError("after it asked")
    return n


@app.task
async def asks_in_a_coroutine(key):
    task = app.tasks["proj.asks_in_a_coroutine"]
    note("RUN", f"{key}:{task.request.retries}")
    if not task.request.retries:
        task.retry(countdown=0, throw=False)
    return key


@app.task(bind=True)
def parent(self):
    one = add.delay(1, 1)
    other = add.apply_async((2, 2), add_to_parent=False)
    return one.id, other.id


@app.task
def joins():
    return add.delay(1, 1).get(timeout=5)


@app.task(bind=True)
def progress(self):
    for number in range(3):
        self.update_state(state="PROGRESS", meta={"at": number})
        time.sleep(0.05)
    return "done"


class Told(Task):
    def before_start(self, task_id, args, kwargs):
        note("BEFORE", task_id)

    def on_success(self, retval, task_id, args, kwargs):
        note("SUCCESS", f"{task_id}:{retval}")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note("FAILURE", f"{task_id}:{exc}")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note("RETRY", f"{task_id}:{exc}")

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note("AFTER", f"{task_id}:{status}")


@app.task(base=Told, bind=True)
def told(self, what):
    if what == "fails":
        raise ValueError("f")
    if what == "retries" and not self.request.retries:
        raise self.retry(countdown=0, exc=ValueError("r"))
    return what


@app.task
def speaks(x):
    from kernel import get_task_logger
    print("printed", x)
    get_task_logger("mine").info("logged %s", x)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("calls"), tasks=TASKS, result_extended=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(project: Project) -> Iterator[WorkerProcess]:
    with WorkerProcess(project, "-P", "prefork", "-c", "2") as running:
        yield running


@pytest.fixture
def task(project: Project, worker: WorkerProcess) -> Any:
    return project.task


def noted(project: Project, word: str, key: str) -> None:
    wait_for(lambda: project.counts(word)[key], 10, lambda: f"{word} {key} in {project.notes()}")


def test_the_program_of_the_readme(project: Project, task: Any) -> None:
    add, wait = task("add"), task("wait")
    assert add.delay(2, 3).get(timeout=10) == 5

    async def both() -> list[Any]:
        first = await add.adelay(2, 3)
        waits = [await wait.adelay(0.05) for _ in range(4)]
        return [await first.aget(timeout=10), await asyncio.gather(*(result.aget(timeout=10) for result in waits))]

    assert asyncio.run(both()) == [5, [0.05] * 4]
    many = add.map_delay([(n, n) for n in range(300)])
    assert [result.get(timeout=10) for result in many] == [2 * n for n in range(300)]
    assert project.app.send_task("proj.add", (1,), {"y": 2}).get(timeout=10) == 3


def test_options_reach_the_task(task: Any) -> None:
    options = {"headers": {"mine": "h"}, "shadow": "other", "expires": 60, "priority": 7, "reply_to": "there"}
    result = task("about").apply_async(
        (1,), {"k": 2}, time_limit=30, soft_time_limit=20, task_id="my-own-id", **options
    )
    found = result.get(timeout=10)
    assert datetime.fromisoformat(found.pop("expires")) > datetime.now(UTC)
    assert found.pop("hostname").startswith("w0@")
    assert found == {
        "id": "my-own-id",
        "task": "proj.about",
        "retries": 0,
        "headers": {"mine": "h"},
        "shadow": "other",
        "reply_to": "there",
        "timelimit": [30, 20],
        "root_id": "my-own-id",
        "parent_id": None,
        "called_directly": False,
        "is_eager": False,
        "priority": 7,
        "args": [1],
        "kwargs": {"k": 2},
    }
    assert (result.name, result.args, result.kwargs, result.retries, result.queue) == (
        "proj.about",
        [1],
        {"k": 2},
        0,
        "celery",
    )
    assert result.worker.startswith("w0@")
    assert result.date_done.tzinfo is not None


@pytest.mark.parametrize(
    "due",
    [
        lambda: {"countdown": 0.5},
        lambda: {"eta": datetime.now(ZoneInfo("Asia/Tokyo")) + timedelta(seconds=0.5)},
        lambda: {"eta": datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=0.5)},
        lambda: {"eta": (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()},
    ],
    ids=["countdown", "another zone", "naive, in the app's zone", "text"],
)
def test_a_task_is_not_run_before_it_is_due(task: Any, due: Any) -> None:
    asked = time.time()
    result = task("about").apply_async(**due())
    result.get(timeout=10)
    assert result.date_done.timestamp() - asked > 0.45


def test_a_task_that_has_expired_is_revoked(task: Any) -> None:
    for options in ({"countdown": 0.4, "expires": 0.1}, {"expires": datetime.now(UTC) - timedelta(days=1)}):
        result = task("add").apply_async((1, 1), **options)
        with pytest.raises(errors.TaskRevokedError, match="expired"):
            result.get(timeout=10)
        assert result.state == "REVOKED"


@pytest.mark.parametrize("compression", [None, "zlib", "gzip", "bzip2", "lzma", "zstd", "brotli"])
def test_values_come_back_as_they_were(task: Any, compression: str | None) -> None:
    values = [datetime(2024, 1, 2, 3, 4, 5, 6, UTC), date(2024, 1, 2), timedelta(1, 2, 3), Decimal("1.50")]
    values += [UUID(int=5), b"\0\xff", {"a": [1, None, "é"]}]
    assert task("about").apply_async((values,), compression=compression).get(timeout=10)["args"] == [values]


def test_links_and_errbacks(project: Project, task: Any) -> None:
    linked = task("linked")
    result = task("add").apply_async((1, 2), link=[linked.s("one"), linked.si("two", "other")])
    assert result.get(timeout=10) == 3
    noted(project, "LINKED", "one:3")
    noted(project, "LINKED", "other:two")
    failing = task("fail").apply_async((5,), link_error=[task("errback").s(), task("errback_with_all").s()])
    error = failing.get(timeout=10, propagate=False)
    assert (type(error).__name__, error.args) == ("Wrong", (5, "text"))
    noted(project, "ERRBACK", failing.id)
    noted(project, "ERRBACK_ALL", f"{failing.id}:Wrong:True")


@pytest.mark.parametrize("how", ["returned", "raised", "ignored", "failed"])
def test_a_retry_that_is_asked_for_happens_however_the_body_ends(project: Project, task: Any, how: str) -> None:
    task("asks").delay(how, how)
    noted(project, "RUN", f"{how}:1:1")
    task("add").delay(1, 1).get(timeout=10)
    counts = project.counts("RUN")
    assert (counts[f"{how}:0:0"], counts[f"{how}:1:1"], project.counts("ASKED")[how]) == (1, 1, 1)


def test_a_coroutine_may_ask_for_a_retry(project: Project, task: Any) -> None:
    task("asks_in_a_coroutine").delay("coroutine")
    noted(project, "RUN", "coroutine:1")
    assert project.counts("RUN")["coroutine:0"] == 1


def test_children_and_parents(task: Any) -> None:
    result = task("parent").delay()
    one, other = result.get(timeout=10)
    assert [child.id for child in result.children] == [one]
    assert result.children[0].get(timeout=10) == 2
    assert result.children[0].parent_id == result.id
    assert result.app.AsyncResult(other).get(timeout=10) == 4


def test_waiting_inside_a_task_is_refused(task: Any) -> None:
    with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task"):
        task("joins").delay().get(timeout=10)
    with allow_join_result():
        assert task("add").delay(1, 1).get(timeout=10) == 2


def test_states_of_ones_own_are_seen(task: Any) -> None:
    seen: list[dict[str, Any]] = []
    result = task("progress").delay()
    assert result.get(timeout=10, on_message=seen.append) == "done"
    states = [(meta["status"], meta["result"]) for meta in seen]
    assert ("PROGRESS", {"at": 1}) in states
    assert states[-1] == ("SUCCESS", "done")
    result.forget()
    assert result.state == "PENDING"


def test_results_that_nobody_wants(task: Any) -> None:
    result = task("add").apply_async((1, 1), ignore_result=True)
    assert result.ignored
    assert result.get(timeout=1) is None
    task("add").delay(1, 1).get(timeout=10)
    assert not result.exists()


def test_hooks_of_a_class_of_ones_own(project: Project, task: Any) -> None:
    told: Task[..., Any] = task("told")
    ends = {"works": "SUCCESS", "fails": "FAILURE", "retries": "SUCCESS"}
    ids = {}
    for what, state in ends.items():
        result = told.delay(what)
        ids[what] = result.id
        result.get(timeout=10, propagate=False)
        noted(project, "AFTER", f"{result.id}:{state}")
    counts = project.counts("BEFORE")
    assert [counts[ids[what]] for what in ends] == [1, 1, 2]
    noted(project, "SUCCESS", f"{ids['works']}:works")
    noted(project, "FAILURE", f"{ids['fails']}:f")
    noted(project, "RETRY", f"{ids['retries']}:r")


def test_every_task_has_its_line_and_what_it_says_is_logged(task: Any, worker: WorkerProcess) -> None:
    result = task("speaks").apply_async((7,), shadow="loud")
    result.get(timeout=10)
    wait_for(lambda: f"loud[{result.id}] succeeded" in worker.log, 10, lambda: worker.log[-2000:])
    lines = [line for line in worker.log.splitlines() if result.id in line]
    assert [line.partition("] ")[2].partition(" in ")[0] for line in lines] == [
        f"loud[{result.id}]: printed 7",
        f"loud[{result.id}]: logged 7",
        f"Task loud[{result.id}] succeeded",
    ]


def test_a_task_that_nobody_knew_runs_once_somebody_does(tmp_path: Path) -> None:
    with project_in(tmp_path) as project:
        with WorkerProcess(project, "-P", "prefork", "-c", "1"):
            result = project.app.send_task("late.task", (5,))
            with pytest.raises(errors.NotRegistered, match="dead retry"):
                result.get(timeout=10)
        (tmp_path / "late.py").write_text(
            "from proj import app\n\n@app.task(name='late.task')\ndef late(x):\n    return x * 2\n"
        )
        with WorkerProcess(project, "-P", "prefork", "-c", "1", app="late"):
            assert project.command("-A", "proj", "dead", "retry", result.id).stdout == "1 dead letter retried\n"
            # Until it has run again, its record says how it ended before.
            wait_for(lambda: project.app.AsyncResult(result.id).state == states.SUCCESS, 20)
            assert project.app.AsyncResult(result.id).get(timeout=10) == 10
