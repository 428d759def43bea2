"""The body of a chord whose message is there several times, with all copies in hand at once: cases C2 and C6.

A worker dies after each publication of the body and before the settlement of what completed the chord, so that the body
is published again. Nobody takes bodies until there are at least two copies of each of their tasks, and none of these
ends before another copy was looked at: none can find a record of the other.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kernel import chord, group
from kernel.testing.servers import RedisProcess, redis_server
from kernel.testing.workers import Project, WorkerProcess, wait_for
from tests.faults.fleet import fleet_project
from tests.faults.table import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

_TASKS: Final = """
@app.task
def member(key):
    note("MEMBER", key)
    return key


@app.task(bind=True, max_retries=3)
def body(self, values, key, retries=0):
    '''Ends when it is told to.'''
    note("BODY", key)
    if self.request.retries < retries:
        raise self.retry(countdown=0)
    for _ in range(4000):
        if os.path.exists(os.path.join(os.path.dirname(_LEDGER), "go")):
            return [*values, key]
        time.sleep(0.02)
    raise RuntimeError("nobody said go")
"""
_BODIES: Final = "bodies"
_GAVE_WAY: Final = "gives way to the copy"
_DIES: Final = {"KERNEL_FAILPOINTS": "successors.published=kill"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with redis_server() as server:
        yield server


@pytest.fixture
def on(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Project]]:
    """A project on a broker and a backend that share no transaction, by their names."""

    def url_of(name: str) -> str:
        match name:
            case "amqp":
                return str(request.getfixturevalue("kernel_rabbitmq_url"))
            case "rpc":
                return "rpc://"
            case "sql":
                return f"db+sqlite:///{tmp_path}/results.db"
        return f"{request.getfixturevalue('redis').url.rpartition('/')[0]}/{('redis', 'redis2').index(name)}"

    with contextlib.ExitStack() as stack:

        def made(names: str) -> Project:
            broker, backend = map(url_of, names.split("+"))
            settings = {"tasks": _TASKS, "task_delivery_limit": 50, "worker_lease": 1.5}
            return stack.enter_context(fleet_project(tmp_path, broker, backend=backend, **settings))

        yield made


def copies_of(project: Project, made: Any, count: int) -> Any:
    """The result of a chord of one member whose body, of so many tasks, was published at least twice."""
    result = chord([project.task("member").s("m")], made).delay()

    def published() -> bool:
        return sum(each.ready for each in project.app.broker.stats([_BODIES])) >= 2 * count

    worker = WorkerProcess(project, "-c", "1", "-Q", "celery", environment=_DIES)
    try:
        wait_for(published, 60, lambda: worker.log)
    finally:
        worker.signal_all(signal.SIGKILL)
        worker.process.wait(10)
    return result


def looked_at(project: Project, worker: WorkerProcess, count: int) -> None:
    """Until another copy of one of `count` bodies that have begun was looked at."""
    wait_for(
        lambda: (
            len(project.counts("BODY")) == count
            and (_GAVE_WAY in worker.log or sum(project.counts("BODY").values()) > count)
        ),
        40,
        lambda: worker.log,
    )


def go(project: Project) -> None:
    (project.folder / "go").touch()


def settled(project: Project) -> None:
    stats = project.app.broker.stats
    wait_for(lambda: not any(each.ready or each.claimed or each.delayed for each in stats()), 40, lambda: str(stats()))


@pytest.mark.case("C2", note="and both copies of the body in hand")
@pytest.mark.parametrize("names", ["amqp+rpc", "amqp+redis", "redis+sql"])
def test_copies_of_a_body_in_hand_at_once(on: Callable[[str], Project], names: str, tally: Tally) -> None:
    project = on(names)
    result = copies_of(project, project.task("body").s("b").set(queue=_BODIES), 1)
    with WorkerProcess(project, "-c", "3", "-Q", f"celery,{_BODIES}") as worker:
        looked_at(project, worker, 1)
        go(project)
        assert result.get(timeout=40) == ["m", "b"]
        settled(project)
    tally.runs += 1
    tally.doubled += project.counts("BODY")["b"] - 1
    assert project.counts("BODY") == {"b": 1}


@pytest.mark.case("C2", note="a body of two tasks, and all copies in hand")
@pytest.mark.parametrize("names", ["amqp+rpc", "redis+redis2"])
def test_copies_of_a_body_that_is_a_group(on: Callable[[str], Project], names: str, tally: Tally) -> None:
    project = on(names)
    body = project.task("body")
    made = group(body.s("x", retries=1).set(queue=_BODIES), body.s("y").set(queue=_BODIES))
    result = copies_of(project, made, 2)
    with WorkerProcess(project, "-c", "4", "-Q", f"celery,{_BODIES}") as worker:
        looked_at(project, worker, 2)
        go(project)
        assert [each.get(timeout=40) for each in result.results] == [["m", "x"], ["m", "y"]]
        settled(project)
    tally.runs += 2
    tally.doubled += project.counts("BODY")["y"] - 1
    assert project.counts("BODY") == {"x": 2, "y": 1}, "one retries"


@pytest.mark.case("C6", note="the copy that runs is delivered again")
@pytest.mark.parametrize("names", ["amqp+rpc", "redis+sql"])
def test_the_copy_that_began_is_run_again_when_its_worker_dies(
    on: Callable[[str], Project], names: str, tally: Tally
) -> None:
    project = on(names)
    result = copies_of(project, project.task("body").s("b").set(queue=_BODIES), 1)
    first = WorkerProcess(project, "-c", "3", "-Q", f"celery,{_BODIES}")
    try:
        looked_at(project, first, 1)
    finally:
        first.signal_all(signal.SIGKILL)
        first.process.wait(10)
    ran = project.counts("BODY")["b"]
    go(project)
    with WorkerProcess(project, "-c", "1", "-Q", f"celery,{_BODIES}"):
        assert result.get(timeout=40) == ["m", "b"]
        settled(project)
    tally.runs += 1
    tally.doubled += ran - 1
    assert ran == 1
    assert project.counts("BODY")["b"] == 2, "the start that never ended, and the one that did"
