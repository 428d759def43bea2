"""Tasks that are replaced, on SQLite with a worker of processes; and one whose process dies when it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel import chord, group
from kernel.naming import derive_id
from kernel.signature import Signature
from kernel.testing.workers import Project, WorkerProcess, project_in, wait_for

TIMEOUT = 60.0
TASKS = '''
from kernel import chain, chord, group, maybe_signature


@app.task
def double(x):
    return 2 * x


@app.task
def total(values):
    return sum(values)


@app.task
def fail(x):
    raise ValueError(f"no {x}")


@app.task
def saw(request, exc, traceback):
    note("ERRBACK", request.id)


@app.task(bind=True)
def swap(self, sig, *values):
    """What takes its place is an argument; earlier values, as in a chain, come before it."""
    found = maybe_signature(sig if isinstance(sig, dict) else values[0], app)
    note("SWAP", self.request.id)
    return self.replace(found)


@app.task(bind=True)
def countdown(self, n):
    note("COUNT", n)
    return self.replace(countdown.s(n - 1)) if n else "done"
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with (
        project_in(tmp_path_factory.mktemp("replace") / "p", tasks=TASKS) as project,
        WorkerProcess(project, "-c", "2"),
    ):
        yield project


def test_its_result_is_that_of_what_takes_its_place(project: Project) -> None:
    add, double, swap, total = (project.task(name) for name in ("add", "double", "swap", "total"))
    pair = group(add.s(1, 2), double.s(4))
    cases: list[tuple[Any, Any]] = [
        (swap.s(add.s(1, 2)), 3),
        (swap.s(add.s(1, 2) | double.s()), 6),
        (swap.s(pair), [3, 8]),
        (swap.s(double.s(1) | group(double.s(), add.s(1))), [4, 3]),
        (swap.s(chord(pair, total.s())), 11),
        (swap.s(double.chunks([(1,), (2,), (3,)], 2)), [[2, 4], [6]]),
        (swap.s(swap.s(swap.s(double.s(5)))), 10),
        (project.task("countdown").s(5), "done"),
        (double.s(1) | swap.s(add.s(1, 2)) | double.s() | add.s(1), 7),
        (double.s(1) | swap.s(pair) | total.s(), 11),
        (group(swap.s(add.s(1, 2)), double.s(1), swap.s(double.s(1) | double.s())), [3, 2, 4]),
        (chord([swap.s(add.s(1, 2)), double.s(1), swap.s(double.s(1) | double.s())], total.s()), 9),
        (chord([swap.s(pair), swap.s(add.s(1, 1))], double.s()), [[3, 8], 2, [3, 8], 2]),
        (chord([double.s(1), double.s(2)], swap.si(add.s(2, 2))) | double.s(), 8),
        (group(double.s(1), swap.s(chord(pair, total.s()))) | total.s(), 13),
    ]
    results = [made.apply_async() for made, _ in cases]
    assert [result.get(timeout=TIMEOUT) for result in results] == [value for _, value in cases]


def test_links_and_errors_are_those_of_what_takes_its_place(project: Project) -> None:
    project.ledger.unlink(missing_ok=True)
    swap, double, fail = project.task("swap"), project.task("double"), project.task("fail")
    result = swap.apply_async((double.s(1) | double.s(),), task_id="linked", link=project.task("work").s(seconds=0.0))
    assert result.get(timeout=TIMEOUT) == 4
    assert project.app.AsyncResult(derive_id("linked", "link", 0)).get(timeout=TIMEOUT) == 4
    broken = (swap.s(double.s(1) | fail.s() | double.s()) | double.s()).apply_async(
        task_id="broken", link_error=project.task("saw").s()
    )
    with pytest.raises(ValueError, match="no 2"):
        broken.get(timeout=TIMEOUT)
    assert sum(project.counts("ERRBACK").values()) == 1


@pytest.mark.parametrize("point", ["result.stored", "successors.published"])
def test_it_is_replaced_once_though_its_process_dies_over_it(tmp_path: Path, point: str) -> None:
    """Results in a database of their own, so that the end is not one transaction."""
    urls = {"broker": f"sqlite:///{tmp_path / 'queue.db'}", "backend": f"db+sqlite:///{tmp_path / 'results.db'}"}
    with project_in(tmp_path / "p", tasks=TASKS, **urls) as project:
        app = project.app
        swap, double = project.task("swap"), project.task("double")
        made: Signature[Any] = swap.s(double.s(3) | double.s()).set(link=[project.task("work").s(seconds=0.0)])
        result = made.apply_async(task_id="swapped")
        dying = {"KERNEL_FAILPOINTS": f"{point}=kill@1", "KERNEL_WORKER_LEASE": "2"}
        worker = WorkerProcess(project, "-c", "1", environment=dying)
        wait_for(lambda: "was ended by SIGKILL" in worker.log, TIMEOUT, lambda: worker.log)
        worker.signal_all(signal.SIGKILL)
        worker.process.wait(10)
        with WorkerProcess(project, "-c", "1", environment={"KERNEL_WORKER_LEASE": "2"}):
            assert result.get(timeout=TIMEOUT) == 12
            assert app.AsyncResult(derive_id("swapped", "link", 0)).get(timeout=TIMEOUT) == 12
        assert project.counts("SWAP") == {"swapped": 1}
        assert project.counts("BEGIN") == {"12": 1}
