"""`Task.replace`: what takes the place of a task, and that it takes it once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernel import chain, errors, group, states
from kernel.app import Kernel
from kernel.interfaces.broker import Verdict
from kernel.signature import Signature
from kernel.task import Task
from kernel.worker import replacing
from tests.unit.executing import Bench


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_replace", broker="memory://", backend="memory://") as made:

        @made.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @made.task(name="swap", bind=True)
        def swap(self: Task[..., Any], data: Any) -> Any:
            runs.append(self.request.id)
            return self.replace(made_of(data))

        def made_of(data: Any) -> Any:
            return None if data is None else data if not isinstance(data, dict) else Signature.from_dict(data, made)

        runs: list[Any] = []
        made.stash = runs  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def bench(app: Kernel) -> Bench:
    return Bench(app)


@pytest.fixture
def runs(app: Kernel) -> list[str]:
    found: list[str] = app.stash  # type: ignore[attr-defined]
    return found


def test_it_has_the_id_and_the_place_of_the_task(app: Kernel, bench: Bench) -> None:
    add, swap = app.tasks["add"], app.tasks["swap"]
    options: dict[str, Any] = {"task_id": "x", "root_id": "r", "parent_id": "p", "group_id": "g", "group_index": 3}
    options |= {"reply_to": "caller", "link": [add.s(5)], "link_error": [add.s(6)]}
    options["chain"] = [dict(add.s(8).set(task_id="c2")), dict(add.s(7).set(task_id="c1"))]
    ending = bench.run(swap, add.s(1, 2), **options)
    assert (ending.state, ending.verdict) == (states.IGNORED, Verdict.ACK)
    [item] = ending.publications
    headers = item.message.headers
    shown = {name: headers[name] for name in ("id", "root_id", "parent_id", "group", "group_index", "task")}
    assert shown == {"id": "x", "root_id": "r", "parent_id": "p", "group": "g", "group_index": 3, "task": "add"}
    assert (headers["replaced_task_nesting"], item.message.properties["reply_to"]) == (1, "caller")
    args, _, embed = bench.body(item)
    assert args == [1, 2]
    assert [link["args"] for link in embed["callbacks"]] == [[5]]
    assert [link["args"] for link in embed["errbacks"]] == [[6]]
    assert [(step["options"]["task_id"], step["options"]["replaced_task_nesting"]) for step in embed["chain"]] == [
        ("c2", 1),
        ("c1", 1),
    ]
