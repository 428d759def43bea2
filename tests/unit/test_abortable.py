"""Tasks that a caller may ask to stop (row 5-56 of the contract)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from kernel import Kernel, states
from kernel.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from kernel.worker.worker import Worker
from tests.unit.resulting import store

LIMIT = 20.0


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("tests", broker="memory://", backend="memory://") as made:

        @made.task(name="plain")
        def plain() -> None: ...

        @made.task(name="long", base=AbortableTask, bind=True)
        def long(self: Any, turns: int = 1000) -> str:
            for _ in range(turns):
                if self.is_aborted():
                    return "stopped"
            return "done"

        yield made


def task(app: Kernel) -> Any:
    return app.tasks["long"]


def test_a_task_that_runs_sees_that_it_is_to_stop(app: Kernel) -> None:
    began, told = threading.Event(), threading.Event()

    @app.task(name="waits", base=AbortableTask, bind=True)
    def waits(self: Any) -> list[bool]:
        before = self.is_aborted()
        began.set()
        assert told.wait(LIMIT)
        return [before, self.is_aborted()]

    with Worker(app, pool="threads", concurrency=1, processes=0):
        result = waits.delay()
        assert isinstance(result, AbortableAsyncResult)
        assert began.wait(LIMIT)
        assert not result.is_aborted()
        result.abort()
        assert (result.state, result.is_aborted(), result.ready()) == (ABORTED, True, False)
        told.set()
        assert result.get(timeout=LIMIT) == [False, True]
        assert (result.state, result.is_aborted()) == (states.SUCCESS, False)


def test_one_that_waits_is_told_when_it_begins(app: Kernel) -> None:
    result = task(app).delay()
    result.abort()
    with Worker(app, pool="threads", concurrency=1, processes=0):
        assert result.get(timeout=LIMIT) == "stopped"


def test_one_that_has_ended_stays_ended(app: Kernel) -> None:
    store(app, "over", 7)
    result = task(app).AsyncResult("over")
    result.abort()
    assert (result.is_aborted(), result.get(timeout=LIMIT)) == (False, 7)


def test_all_calls_give_results_of_the_tasks_class(app: Kernel) -> None:
    long = task(app)
    results = [*long.map_delay([(1,), (2,)]), long.apply_async((1,), ignore_result=True)]
    assert [type(result) for result in results] == [AbortableAsyncResult] * 3
    assert [result.ignored for result in results] == [False, False, True]
    assert not isinstance(app.tasks["plain"].delay(), AbortableAsyncResult)


def test_run_here_nobody_asks_it_to_stop(app: Kernel) -> None:
    assert task(app).apply((3,)).get() == "done"
    with pytest.raises(ValueError, match="needs a task_id here"):
        task(app).is_aborted()
    assert not task(app).is_aborted(task_id="unknown")


def test_where_the_task_could_not_see_it_that_is_told(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = app.backend
    monkeypatch.setattr(backend, "capabilities", replace(backend.capabilities, to_caller=True), raising=False)
    with pytest.raises(NotImplementedError, match="cannot be told to stop"):
        task(app).AsyncResult("x").abort()
