"""How often the backend is asked: about many results as about one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from kernel import Kernel, states
from kernel.groupresult import GroupResult
from tests.unit.resulting import group_of, store

COUNT = 50


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("tests", broker="memory://", backend="memory://") as made:
        yield made


@pytest.fixture
def asked(app: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ids each look was for."""
    found: list[int] = []
    load = app.backend.load

    def counted(ids: Sequence[str]) -> Any:
        found.append(len(ids))
        return load(ids)

    monkeypatch.setattr(app.backend, "load", counted)
    return found


def half(app: Kernel) -> GroupResult:
    """A group of which every second has ended, and a group in it that has."""
    for n in range(0, COUNT, 2):
        store(app, str(n), n)
    store(app, "in", 1)
    store(app, "late", state=states.STARTED)
    found = group_of(app, *map(str, range(COUNT)), "late")
    found.add(group_of(app, "in", id="inner"))
    return found


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda group: group.ready(), False),
        (lambda group: group.waiting(), True),
        (lambda group: group.successful(), False),
        (lambda group: group.failed(), False),
        (lambda group: group.completed_count(), COUNT // 2 + 1),
        (lambda group: group.maybe_throw(), None),
    ],
)
def test_one_look_for_a_group(app: Kernel, asked: list[int], ask: Callable[[GroupResult], Any], answer: Any) -> None:
    group = half(app)
    assert ask(group) == answer
    assert asked == [COUNT + 2]
    asked.clear()
    # What is known to have ended is not asked about again.
    assert ask(group) == answer
    assert asked == [COUNT // 2 + 1]


@pytest.mark.parametrize("state", [states.SUCCESS, states.FAILURE])
def test_one_look_for_all_that_came_before(app: Kernel, asked: list[int], state: str) -> None:
    parent: Any = None
    for n in range(COUNT):
        parent = app.AsyncResult(f"parent-{n}", parent=parent)
    if state == states.FAILURE:
        store(app, "parent-7", ValueError("seven"), state=state)
    store(app, "last", "value")
    result = app.AsyncResult("last", parent=parent)
    if state == states.FAILURE:
        with pytest.raises(ValueError, match="seven"):
            result.get(timeout=20)
    else:
        assert result.get(timeout=20) == "value"
    assert asked[0] == COUNT
    assert len(asked) <= 2
