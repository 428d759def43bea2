"""Canvases on SQLite with a worker of processes: what a program gets that calls them from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernel import states
from kernel.canvas import chain, group, maybe_signature
from kernel.groupresult import GroupResult
from kernel.testing.workers import Project, WorkerProcess, project_in

TIMEOUT = 60.0
TASKS = '''
@app.task
def double(x):
    return 2 * x


@app.task
def fail(x):
    raise ValueError(f"no {x}")


@app.task
def die_once(x):
    """The first start takes its process with it."""
    first = not any(line.startswith("DIED") for line in open(_LEDGER)) if os.path.exists(_LEDGER) else True
    if first:
        note("DIED", x)
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@app.task
def plan(x):
    return add.s(x, 1) | double.s()
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_in(tmp_path_factory.mktemp("canvas") / "p", tasks=TASKS) as project, WorkerProcess(project, "-c", "2"):
        yield project


def test_it_runs_what_a_chain_and_its_groups_say(project: Project) -> None:
    add, double = project.task("add"), project.task("double")
    cases: list[tuple[Any, Any]] = [
        (add.s(1, 2) | double.s() | add.s(10), 16),
        (group(double.s(n) for n in range(100)), [2 * n for n in range(100)]),
        (group(add.s(1, 2) | double.s(), group(double.s(1), double.s(2))), [6, 2, 4]),
        (add.s(1, 2) | group(double.s(), double.s() | add.s(1)), [6, 7]),
        (double.map(range(5)), [0, 2, 4, 6, 8]),
        (add.starmap([(1, 2), (3, 4)]) | project.task("plan").si(1), None),
        (add.chunks([(n, n) for n in range(7)], 3), [[0, 2, 4], [6, 8, 10], [12]]),
        (chain(double.s(n) if n == 1 else double.s() for n in range(1, 11)), 1024),
    ]
    results = [made.apply_async() for made, _ in cases]
    for result, (_, value) in zip(results, cases, strict=True):
        got = result.get(timeout=TIMEOUT)
        if value is None:
            assert maybe_signature(got, project.app).apply_async().get(timeout=TIMEOUT) == 4
        else:
            assert got == value


def test_a_result_walks_back_and_is_restored(project: Project) -> None:
    double = project.task("double")
    result = (double.s(1) | double.s() | group(double.s(), double.s())).apply_async()
    assert result.get(timeout=TIMEOUT) == [8, 8]
    assert [result.parent.get(timeout=TIMEOUT), result.parent.parent.get(timeout=TIMEOUT)] == [4, 2]
    result.save()
    again = GroupResult.restore(result.id, app=project.app)
    assert again is not None
    assert again.get(timeout=TIMEOUT) == [8, 8]
    assert (again.successful(), again.completed_count(), again.parent) == (True, 2, result.parent)
    again.forget()
    assert again[0].state == states.PENDING


def test_a_failure_ends_the_chain_for_everybody_who_waits(project: Project) -> None:
    double, fail = project.task("double"), project.task("fail")
    result = (double.s(1) | fail.s() | double.s() | group(double.s(), double.s())).apply_async()
    with pytest.raises(ValueError, match="no 2"):
        result.get(timeout=TIMEOUT)
    assert [member.state for member in result] == [states.FAILURE] * 2
    assert result.parent.state == states.FAILURE


@pytest.mark.parametrize("several", [False, True])
def test_a_chain_survives_the_death_of_a_process(project: Project, several: bool) -> None:
    project.ledger.unlink(missing_ok=True)
    add = project.task("add")
    last = group(add.s(1), add.s(2)) if several else add.s(1)
    result = (project.task("die_once").s(7) | last).apply_async()
    assert result.get(timeout=TIMEOUT) == ([8, 9] if several else 8)
    assert project.counts("DIED")["7"] == 1
