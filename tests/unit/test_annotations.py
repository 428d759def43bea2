"""`task_annotations` in every form (row 1-91 of the contract), and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import Kernel, Task, errors
from kernel.worker.manifest import describe
from kernel.worker.options import WorkerOptions

HERE = __name__


class Annotation:
    def annotate(self, task: Any) -> Any:
        return {"priority": 4} if task.name.startswith("a") else None

    def annotate_any(self) -> Any:
        return {"max_retries": 8}


def annotate(task: Any) -> Any:
    return {"priority": 4} if task.name == "a" else None


TABLE = {"a": {"priority": 4}, "*": {"max_retries": 8}}


def made(annotations: Any, **settings: Any) -> tuple[Kernel, Any, Any]:
    app = Kernel("tests", broker="memory://", task_annotations=annotations, **settings)

    @app.task(name="a", priority=1)
    def a() -> str:
        return "a"

    @app.task(name="b")
    def b() -> None:
        raise ValueError("b")

    app._configure()
    return app, a, b


@pytest.mark.parametrize(
    ("annotations", "priority", "retries"),
    [
        pytest.param(None, 1, 3, id="none"),
        pytest.param({"a": {"priority": 4}}, 4, 3, id="name"),
        pytest.param(TABLE, 4, 8, id="name and *"),
        pytest.param({"a": {"priority": 4}, "*": {"priority": 9}}, 9, 3, id="* wins"),
        pytest.param([{"a": {"priority": 4}}, {"a": {"priority": 5}, "*": {"max_retries": 8}}], 4, 8, id="list"),
        pytest.param([{"*": {"max_retries": 8}}, {"*": {"max_retries": 9}}], 1, 8, id="the first *"),
        pytest.param(Annotation(), 4, 8, id="object"),
        pytest.param(Annotation, 4, 8, id="class"),
        pytest.param(f"{HERE}.Annotation", 4, 8, id="path of a class"),
        pytest.param(f"{HERE}:TABLE", 4, 8, id="path of a dictionary"),
        pytest.param(annotate, 4, 3, id="function"),
        pytest.param([annotate, Annotation()], 4, 8, id="list of both"),
    ],
)
def test_forms(annotations: Any, priority: int, retries: int) -> None:
    app, a, _ = made(annotations)
    assert (a.priority, a.max_retries) == (priority, retries)
    app.close()


def test_a_task_that_comes_later_is_changed_too() -> None:
    app, *_ = made({"late": {"priority": 4}})

    @app.task(name="late")
    def late() -> None: ...

    assert late.priority == 4
    app.close()


def test_calls_go_by_what_was_changed() -> None:
    app, a, _ = made({"a": {"queue": "changed", "priority": 7}})
    a.delay()
    (message,) = app.broker.peek("changed", 5)
    assert message.priority == 7
    app.close()


def test_methods_are_replaced_and_wrapped_once() -> None:
    seen: list[Any] = []

    def on_failure(self: Task[..., Any], exc: Exception, *rest: Any) -> None:
        seen.append(("failure", self.name, str(exc)))

    def around(method: Any) -> Any:
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(("around", self.name))
            return method(self, *args, **kwargs)

        return wrapped

    def twice(run: Any) -> Any:
        return lambda: run() * 2

    app, a, b = made({"a": {"@run": twice}, "*": {"on_failure": on_failure, "@on_success": around}})
    app.close()
    app.open()._configure()
    assert a.apply().get() == "aa"
    assert b.apply().state == "FAILURE"
    assert seen == [("around", "a"), ("failure", "b", "b")]
    app.close()


def test_a_worker_is_told_rate_limits_and_times() -> None:
    app = Kernel("tests", broker="memory://", task_annotations={"a": {"rate_limit": "10/m", "time_limit": 5.0}})

    @app.task(name="a")
    def a() -> None: ...

    facts = describe(app, WorkerOptions(pool="threads", processes=0)).tasks["a"]
    assert (facts.rate_limit, facts.time_limit) == ("10/m", 5.0)
    app.close()


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({"a": 5}, "task_annotations has 'a': 5"),
        ([5], "task_annotations has 5"),
        (lambda task: 5, "answered 5 for a"),
        ({"a": {"priorty": 5}}, "changes 'priorty' of a, which it does not have; did you mean 'priority'"),
        ({"a": {"@run": 5}}, "no decorator of a method"),
        ("no.such", "'no.such' of task_annotations cannot be imported"),
        (5, "task_annotations"),
    ],
)
def test_what_is_none_is_named(annotations: Any, said: str) -> None:
    with pytest.raises(errors.ImproperlyConfigured, match=said):
        made(annotations)
