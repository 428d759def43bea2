"""Members that are added to a chord while it runs, with a worker of processes on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernel.canvas.chord import chord
from kernel.testing.workers import Project, WorkerProcess, project_in

TIMEOUT = 60.0
TASKS = '''
from kernel import group


@app.task
def double(x):
    return 2 * x


@app.task
def collect(values):
    note("BODY", len(values))
    return values


@app.task(bind=True)
def grow(self, x, more=(), deeper=0, retry=False):
    """Adds a task for each of `more`, itself once more while `deeper`, and then all again, if it is to."""
    for value in more:
        self.add_to_chord(double.s(value))
    if deeper:
        self.add_to_chord(grow.s(x + 100, more, deeper - 1))
    if retry and not self.request.retries:
        raise self.retry(countdown=0)
    return x


@app.task(bind=True)
def grow_by_canvas(self, x):
    results = [self.add_to_chord(sig) for sig in (add.s(x, 1) | double.s(), group(double.s(x), double.s(x + 1)))]
    lazy = self.add_to_chord(double.s(x + 2), lazy=True)
    lazy.delay()
    return [result.id for result in results] + [lazy.id]


@app.task(bind=True)
def die_once(self, x):
    self.add_to_chord(double.s(x))
    first = not any(line.startswith("DIED") for line in open(_LEDGER)) if os.path.exists(_LEDGER) else True
    if first:
        note("DIED", x)
        os.kill(os.getpid(), signal.SIGKILL)
    return x
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with (
        project_in(tmp_path_factory.mktemp("growing") / "p", tasks=TASKS) as project,
        WorkerProcess(project, "-c", "2"),
    ):
        yield project


def test_the_body_waits_for_those_who_were_added(project: Project) -> None:
    double, grow, collect = (project.task(name) for name in ("double", "grow", "collect"))
    made: list[tuple[Any, list[Any]]] = [
        (chord([double.s(1), grow.s(5, [6, 7])], collect.s()), [2, 5, 12, 14]),
        (chord([grow.s(1, [2]), grow.s(3, [4])], collect.s()), [1, 3, 4, 8]),
        (chord([grow.s(1, [2], 2)], collect.s()), [1, 4, 101, 4, 201, 4]),
        (chord([grow.s(1, [2], 0, True)], collect.s()), [1, 4, 4]),
        (chord([double.s(n) if n else grow.s(0, list(range(20))) for n in range(5)], collect.s()), []),
    ]
    results = [chord.apply_async() for chord, _ in made]
    values = [result.get(timeout=TIMEOUT) for result in results]
    assert values[:2] == [expected for _, expected in made[:2]]
    assert [sorted(value) for value in values[2:4]] == [sorted(expected) for _, expected in made[2:4]]
    assert values[4] == [0, 2, 4, 6, 8, *(2 * n for n in range(20))]


def test_a_canvas_is_one_member(project: Project) -> None:
    made = chord([project.task("grow_by_canvas").s(1)], project.task("collect").s())
    ids, *values = made.apply_async().get(timeout=TIMEOUT)
    assert values == [4, [2, 4], 6]
    assert [project.app.AsyncResult(task_id).get(timeout=TIMEOUT) for task_id in ids] == values


def test_a_member_whose_process_dies_adds_once(project: Project) -> None:
    project.ledger.unlink(missing_ok=True)
    made = chord([project.task("die_once").s(4), project.task("double").s(1)], project.task("collect").s())
    assert made.apply_async().get(timeout=TIMEOUT) == [4, 2, 8]
    assert project.counts("DIED")["4"] == 1
    assert project.counts("BODY") == {"3": 1}


def test_one_that_fails_breaks_the_chord(project: Project) -> None:
    made = chord([project.task("grow").s(1, [None])], project.task("collect").s())
    with pytest.raises(Exception, match=r"Dependency .* raised"):
        made.apply_async().get(timeout=TIMEOUT)


def test_outside_of_a_chord(project: Project) -> None:
    with pytest.raises(ValueError, match="in none"):
        project.task("grow").delay(1, [2]).get(timeout=TIMEOUT)
