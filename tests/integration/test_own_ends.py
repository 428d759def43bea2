"""Chains on Redis, which one child runs under one claim while nothing else waits: what stops and what kills them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kernel import chain, errors
from kernel.testing.servers import RedisProcess, redis_server
from kernel.testing.workers import Project, WorkerProcess, project_in, wait_for

TIMEOUT = 60.0
TASKS = """
@app.task(bind=True)
def step(self, x, seconds=0.0):
    note("STEP", x)
    time.sleep(seconds)
    return x + 1


@app.task(bind=True)
def moody(self, x):
    note("MOODY", x)
    with open(_LEDGER) as file:
        if file.read().count("MOODY") < 2:
            raise Reject("later", requeue=True)
    return x + 1


@app.task
def refused(x):
    raise Reject("never", requeue=False)


@app.task(bind=True)
def told(self, *before):
    request = self.request
    names = ["id", "correlation_id", "parent_id", "root_id", "group", "group_index", "expires", "retries", "eta"]
    names += ["delivery_info", "reply_to", "args", "kwargs", "hostname", "timelimit", "origin", "is_eager", "headers"]
    found = {name: getattr(request, name, None) for name in names}
    found.pop("args")
    import json
    return json.loads(json.dumps(found, default=repr))


@app.task(bind=True, time_limit=0.5)
def stuck(self, x):
    note("STUCK", x)
    time.sleep(30)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with redis_server() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: RedisProcess) -> Iterator[Project]:
    """Each with keys of its own."""
    prefix = f"{tmp_path.name}:"
    with project_in(
        tmp_path / "p",
        tasks=TASKS,
        broker=server.url,
        backend=server.url,
        worker_lease=2.0,
        broker_transport_options={"global_keyprefix": prefix},
        result_backend_transport_options={"global_keyprefix": prefix},
    ) as project:
        yield project


def links(project: Project, count: int, *, seconds: float = 0.0) -> Any:
    """A chain of steps, from 0 up to `count`."""
    step = project.task("step")
    return chain(step.s(0, seconds=seconds), *[step.s(seconds=seconds) for _ in range(count - 1)])


def pushes(server: RedisProcess) -> int:
    """How many messages were laid into a list so far."""
    with redis.Redis.from_url(server.url) as client:
        found: Any = client.info("commandstats")
        return int(found.get("cmdstat_lpush", {}).get("calls", 0))


def once_each(project: Project, count: int) -> bool:
    return project.counts("STEP") == {str(n): 1 for n in range(count)}


def test_the_links_of_a_chain_do_not_lie_in_a_queue(project: Project, server: RedisProcess) -> None:
    with WorkerProcess(project, "-c", "2").wait_ready():
        assert project.task("add").delay(1, 2).get(timeout=TIMEOUT) == 3
        before = pushes(server)
        assert links(project, 40).delay().get(timeout=TIMEOUT) == 40
    assert once_each(project, 40)
    # The first was published. Where a child was still asked for something else, a link more.
    assert 1 <= pushes(server) - before <= 12


def test_every_link_has_its_record_and_its_parent(project: Project) -> None:
    with WorkerProcess(project, "-c", "1"):
        result = links(project, 5).delay()
        assert result.get(timeout=TIMEOUT) == 5
        found = []
        while result is not None:
            found.append((result.state, result.get(timeout=TIMEOUT)))
            result = result.parent
        assert found == [("SUCCESS", n) for n in (5, 4, 3, 2, 1)]


def test_what_else_waits_has_its_turn(project: Project) -> None:
    """One slot, and a chain that would keep it for ten seconds."""
    with WorkerProcess(project, "-c", "1").wait_ready():
        result = links(project, 100, seconds=0.1).delay()
        wait_for(lambda: len(project.counts("STEP")) >= 3, TIMEOUT)
        assert project.task("add").delay(1, 2).get(timeout=TIMEOUT) == 3
        assert len(project.counts("STEP")) < 90
        assert not result.ready()


def test_a_link_that_was_revoked_does_not_run(project: Project) -> None:
    with WorkerProcess(project, "-c", "1").wait_ready():
        made = links(project, 40, seconds=0.1)
        result = made.freeze()
        result.revoke()
        made.apply_async()
        with pytest.raises(errors.TaskRevokedError):
            result.get(timeout=TIMEOUT)
    assert once_each(project, 39)


def test_a_link_has_its_time_limit(project: Project) -> None:
    with WorkerProcess(project, "-c", "1").wait_ready():
        result = (project.task("step").s(0) | project.task("stuck").s() | project.task("step").s()).delay()
        with pytest.raises(errors.TimeLimitExceeded):
            result.get(timeout=TIMEOUT)
        assert project.task("add").delay(1, 2).get(timeout=TIMEOUT) == 3
    assert project.counts("STUCK") == {"1": 1}


def test_a_link_that_runs_can_be_terminated(project: Project) -> None:
    """Also where the links before it were so short that the engine has heard of none of them when it begins."""
    with WorkerProcess(project, "-c", "1").wait_ready() as worker:
        step = project.task("step")
        result = (step.s(0) | step.s() | step.s(seconds=TIMEOUT) | step.s()).delay()
        wait_for(lambda: "2" in project.counts("STEP"), TIMEOUT, lambda: worker.log)
        assert result.parent is not None
        result.parent.revoke(terminate=True)
        with pytest.raises(errors.TaskRevokedError):
            result.parent.get(timeout=TIMEOUT / 2)
        assert project.task("add").delay(1, 2).get(timeout=TIMEOUT) == 3
    assert once_each(project, 3)


def test_a_child_that_dies_far_from_the_first_link_loses_nothing(project: Project) -> None:
    """The claim has got the message of another link twice by then."""
    environment = {"KERNEL_FAILPOINTS": "task.decided=kill@90"}
    with WorkerProcess(project, "-c", "1", environment=environment).wait_ready() as worker:
        result = links(project, 100).delay()
        assert result.get(timeout=TIMEOUT) == 100
        assert worker.log.count("was ended by SIGKILL") >= 1
        deaths = worker.log.count("was ended by SIGKILL")
    counts = project.counts("STEP")
    assert set(counts) == {str(n) for n in range(100)}
    assert sum(counts.values()) <= 100 + deaths, "each takes the one along that ran"


def test_a_child_is_replaced_after_so_many_links(project: Project) -> None:
    with WorkerProcess(project, "-c", "1", "--max-tasks-per-child", "3") as worker:
        assert links(project, 12).delay().get(timeout=TIMEOUT) == 12
        assert "Traceback" not in worker.log
    assert once_each(project, 12)


def test_a_worker_that_stops_leaves_the_rest_to_others(project: Project) -> None:
    with WorkerProcess(project, "-c", "2") as worker:
        result = links(project, 30, seconds=0.05).delay()
        wait_for(lambda: len(project.counts("STEP")) >= 5, TIMEOUT, lambda: worker.log)
        assert worker.stop() == 0
    assert len(project.counts("STEP")) < 30
    with WorkerProcess(project, "-c", "2"):
        assert result.get(timeout=TIMEOUT) == 30
    assert once_each(project, 30)


@pytest.mark.parametrize("point", ["task.decided", "end.carried_out", "outcome.sent", "child.started"])
def test_a_child_that_dies_over_a_link_loses_nothing(project: Project, point: str) -> None:
    """Between the end of a link and the engine's hearing of it, too, where only the server knows of the next one."""
    with WorkerProcess(project, "-c", "1", environment={"KERNEL_FAILPOINTS": f"{point}=kill@5"}) as worker:
        result = links(project, 20).delay()
        assert result.get(timeout=TIMEOUT) == 20
        assert "was ended by SIGKILL" in worker.log
        counts = project.counts("STEP")
        assert set(counts) == {str(n) for n in range(20)}
        deaths = worker.log.count("was ended by SIGKILL")
        assert sum(counts.values()) <= 20 + deaths, "each takes the one along that ran"
        if point != "task.decided":  # which ends that are only looked up pass, too: there a link may meet two deaths
            assert max(counts.values()) <= 2
        if point in ("end.carried_out", "outcome.sent"):
            assert set(counts.values()) == {1}, "what is settled does not run again"


def test_a_link_that_gives_itself_back_is_the_one_that_comes_again(project: Project) -> None:
    with WorkerProcess(project, "-c", "1"):
        step, moody = project.task("step"), project.task("moody")
        assert (step.s(0) | step.s() | moody.s() | step.s()).delay().get(timeout=TIMEOUT) == 4
    assert project.counts("STEP") == {"0": 1, "1": 1, "3": 1}
    assert project.counts("MOODY") == {"2": 2}


def test_a_link_that_is_refused_is_the_dead_letter(project: Project) -> None:
    with WorkerProcess(project, "-c", "1"):
        step, refused = project.task("step"), project.task("refused")
        result = (step.s(0) | step.s() | refused.s() | step.s()).delay()
        with pytest.raises(errors.KernelError):
            result.get(timeout=TIMEOUT)
        wait_for(lambda: project.app.broker.dead_letters(), TIMEOUT)
        (letter,) = project.app.broker.dead_letters()
        assert letter.task == "proj.refused"


def test_a_link_tells_the_same_of_itself_as_one_from_a_queue(project: Project) -> None:
    told = project.task("told")
    with WorkerProcess(project, "-c", "1").wait_ready():
        by_row = (told.s() | told.s()).delay()
        assert by_row.get(timeout=TIMEOUT)
        # One that has an expiry is published.
        by_queue = (told.s() | told.s().set(expires=3600)).delay()
        assert by_queue.get(timeout=TIMEOUT)
    one, other = (dict(result.get(timeout=TIMEOUT)) for result in (by_row, by_queue))
    for facts, result in ((one, by_row), (other, by_queue)):
        assert facts.pop("id") == facts.pop("correlation_id") == result.id
        assert facts.pop("parent_id") == facts.pop("root_id") == result.parent.id
    assert one.pop("expires") is None
    assert other.pop("expires") is not None
    assert one == other


def test_a_worker_that_dies_loses_nothing(project: Project) -> None:
    first = WorkerProcess(project, "-c", "2")
    result = links(project, 60, seconds=0.02).delay()
    wait_for(lambda: len(project.counts("STEP")) >= 10, TIMEOUT, lambda: first.log)
    first.signal_all(signal.SIGKILL)
    first.process.wait(10)
    with WorkerProcess(project, "-c", "2"):
        assert result.get(timeout=TIMEOUT) == 60
    counts = project.counts("STEP")
    assert set(counts) == {str(n) for n in range(60)}
    assert sum(counts.values()) <= 61, "but for the one that ran"
