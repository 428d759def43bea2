"""The body of a chord whose message is there several times, with all copies in hand at once: cases C2 and C6.

A worker dies after each publication of the body and before the settlement of what completed the chord, so that the body
is published again. Nobody takes bodies until there are at least two copies of each of their tasks, which then go to two
workers; and none of them ends before another copy was looked at: none can find a record of the other.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kernel import chord, group
from kernel.interfaces.broker import STORED, ConsumeOptions, QueueSpec, Settlement, Verdict
from kernel.message import Publication
from kernel.testing.workers import Project, WorkerProcess, wait_for
from tests.faults.fleet import fleet_project
from tests.faults.table import Tally

pytestmark = [pytest.mark.faults, pytest.mark.thorough, pytest.mark.timeout(300)]

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
_FIRST, _OTHERS = "bodies.first", "bodies.others"
_GAVE_WAY: Final = "gives way to the copy"
_DIES: Final = {"KERNEL_FAILPOINTS": "successors.published=kill"}


def _on(names: str, case: str, note: str) -> Any:
    """A parameter, with its row in the table of faults."""
    server = "RabbitMQ" if names.startswith("amqp") else "Redis"
    return pytest.param(names, marks=pytest.mark.case(case, server=server, note=note))


_IN_HAND: Final = ("C2", "copies of the body in hand at once")
_AGAIN: Final = ("C6", "a body's copy that comes again")


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
        url: str = request.getfixturevalue("empty_redis").url
        return url if name == "redis" else url.removesuffix("/0") + "/1"

    with contextlib.ExitStack() as stack:

        def made(names: str) -> Project:
            broker, backend = map(url_of, names.split("+"))
            settings: dict[str, Any] = {"task_delivery_limit": 50, "worker_lease": 1.5}
            return stack.enter_context(fleet_project(tmp_path, broker, backend=backend, tasks=_TASKS, **settings))

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
    part(project)
    return result


def part(project: Project) -> None:
    """One copy of each task stays in its queue, and the others go to another: a worker that has a copy in hand keeps
    others waiting, and these are to be in hand elsewhere."""
    broker, met = project.app.broker, set()
    broker.declare([QueueSpec(_FIRST), QueueSpec(_OTHERS)])
    consumer = broker.consume([_BODIES], ConsumeOptions(owner="the test"))
    try:
        while taken := consumer.fetch(100, 1 << 20, 1.0):
            for delivery in taken:
                queue = _OTHERS if delivery.message.id in met else _FIRST
                met.add(delivery.message.id)
                assert all(outcome is STORED for outcome in broker.publish([Publication(delivery.message, queue)]))
            consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])
    finally:
        consumer.close()


@contextlib.contextmanager
def workers(project: Project) -> Iterator[list[WorkerProcess]]:
    """One for the first copies, and then one for the others."""
    with contextlib.ExitStack() as stack:
        queues = (f"{_FIRST},{_BODIES},celery", _OTHERS)
        yield [stack.enter_context(WorkerProcess(project, "-c", "2", "-Q", each)) for each in queues]


def looked_at(project: Project, running: list[WorkerProcess], expected: dict[str, int]) -> None:
    """Until the bodies have begun as often as is `expected`, and another copy was looked at meanwhile."""

    def done() -> bool:
        found = project.counts("BODY")
        if any(found[key] < count for key, count in expected.items()):
            return False
        return found != expected or any(_GAVE_WAY in worker.log for worker in running)

    wait_for(done, 40, lambda: "\n".join(worker.log for worker in running))


def go(project: Project) -> None:
    (project.folder / "go").touch()


def settled(project: Project) -> None:
    stats = project.app.broker.stats
    wait_for(lambda: not any(each.ready or each.claimed or each.delayed for each in stats()), 40, lambda: str(stats()))


@pytest.mark.parametrize(
    "names",
    [
        _on("amqp+redis", *_IN_HAND),
        _on("amqp+rpc", *_IN_HAND),
        _on("redis+sql", *_IN_HAND),
    ],
)
def test_copies_of_a_body_in_hand_at_once(on: Callable[[str], Project], names: str, tally: Tally) -> None:
    project = on(names)
    result = copies_of(project, project.task("body").s("b").set(queue=_BODIES), 1)
    with workers(project) as running:
        looked_at(project, running, {"b": 1})
        go(project)
        assert result.get(timeout=40) == ["m", "b"]
        settled(project)
    tally.runs += 1
    tally.doubled += project.counts("BODY")["b"] - 1
    assert project.counts("BODY") == {"b": 1}


@pytest.mark.parametrize("names", [_on("amqp+rpc", *_IN_HAND), _on("redis+redis/1", *_IN_HAND)])
def test_copies_of_a_body_that_is_a_group(on: Callable[[str], Project], names: str, tally: Tally) -> None:
    project = on(names)
    body = project.task("body")
    made = group(body.s("x", retries=1).set(queue=_BODIES), body.s("y").set(queue=_BODIES))
    result = copies_of(project, made, 2)
    with workers(project) as running:
        looked_at(project, running, {"x": 2, "y": 1})
        go(project)
        assert [each.get(timeout=40) for each in result.results] == [["m", "x"], ["m", "y"]]
        settled(project)
    tally.runs += 2
    tally.doubled += project.counts("BODY")["y"] - 1
    assert project.counts("BODY") == {"x": 2, "y": 1}, "one retries"


@pytest.mark.parametrize("names", [_on("amqp+rpc", *_AGAIN), _on("redis+sql", *_AGAIN)])
def test_the_copy_that_began_is_run_again_when_its_worker_dies(
    on: Callable[[str], Project], names: str, tally: Tally
) -> None:
    project = on(names)
    result = copies_of(project, project.task("body").s("b").set(queue=_BODIES), 1)
    with workers(project) as running:
        looked_at(project, running, {"b": 1})
        for worker in running:
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
    ran = project.counts("BODY")["b"]
    go(project)
    with workers(project):
        assert result.get(timeout=40) == ["m", "b"]
        settled(project)
    tally.runs += 1
    tally.doubled += ran - 1
    assert ran == 1
    assert project.counts("BODY")["b"] == 2, "the start that never ended, and the one that did"
