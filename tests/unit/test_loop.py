"""What coroutines call holds up no event loop: neither broker nor backend is ever asked on its thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any

import pytest
from kernel_backend_memory.backend import MemoryBackend
from kernel_broker_memory.broker import MemoryBroker

from kernel import Exchange, Kernel, Queue, chain, group, states
from kernel.canvas import chord
from tests.unit.resulting import group_of, later, store

LIMIT = 20.0


def loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.fixture
def on_the_loop(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the drivers that were called where an event loop runs, by their names."""
    found: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if loop_runs():
                found.append(name)
            return function(*args, **kwargs)

        return call

    for driver in (MemoryBroker, MemoryBackend):
        for name, item in vars(driver).items():
            if isinstance(item, FunctionType):
                monkeypatch.setattr(driver, name, watched(f"{driver.__name__}.{name}", item))
    return found


@pytest.fixture
def app(on_the_loop: list[str]) -> Any:
    with Kernel("tests", broker="memory://", backend="memory://") as made:

        @made.task(name="add")
        def add(a: int, b: int) -> int:
            return a + b

        yield made


def run(main: Any) -> Any:
    return asyncio.run(asyncio.wait_for(main, LIMIT))


def test_it_is_noticed(app: Kernel, on_the_loop: list[str]) -> None:
    async def main() -> None:
        app.tasks["add"].delay(1, 2)

    run(main())
    assert "MemoryBroker.publish" in on_the_loop


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"countdown": 60},
        {"declare": ["one", Queue("two", Exchange("e", "topic"), "k"), Exchange("f")]},
        {"queue": "two", "retry_policy": {"max_retries": 1}, "timeout": 5},
    ],
)
def test_publishing(app: Kernel, on_the_loop: list[str], options: dict[str, Any]) -> None:
    async def main() -> None:
        await app.tasks["add"].aapply_async((1, 2), **options)
        await app.asend_task("elsewhere", (1,), **options)
        await app.tasks["add"].s(1, 2).aapply_async(**options)

    run(main())
    assert on_the_loop == []
    assert sum(queue.ready + queue.delayed for queue in app.broker.stats()) == 3
    if "declare" in options:
        assert {"one", "two"} <= {queue.name for queue in app.broker.stats()}


def test_a_canvas(app: Kernel, on_the_loop: list[str]) -> None:
    async def main() -> None:
        add = app.tasks["add"]
        await chain(add.s(1, 2), add.s(3)).aapply_async()
        await group(add.s(n, n) for n in range(3)).aapply_async()
        await chord([add.s(1, 1), add.s(2, 2)], add.s(3)).aapply_async()

    run(main())
    assert on_the_loop == []
    assert app.broker.stats()[0].ready == 6


def test_results_and_those_before_them(app: Kernel, on_the_loop: list[str]) -> None:
    store(app, "parent", 1)

    async def main() -> None:
        result = app.AsyncResult("child", parent=app.AsyncResult("parent"))
        later(lambda: store(app, "child", 2))
        assert await result == 2
        members = group_of(app, "a", "b")
        members.parent = app.AsyncResult("parent")
        for name in ("a", "b"):
            later(lambda name=name: store(app, name, name))  # type: ignore[misc]
        assert await members == ["a", "b"]
        assert sorted([(name, meta["status"]) async for name, meta in group_of(app, "a", "b").aiter_native()]) == [
            ("a", states.SUCCESS),
            ("b", states.SUCCESS),
        ]

    run(main())
    assert on_the_loop == []


def test_a_parent_that_failed_ends_the_wait(app: Kernel, on_the_loop: list[str]) -> None:
    store(app, "parent", ValueError("no"), state=states.FAILURE)

    async def main() -> None:
        with pytest.raises(ValueError, match="no"):
            await app.AsyncResult("child", parent=app.AsyncResult("parent"))
        members = group_of(app, "a")
        members.parent = app.AsyncResult("parent")
        with pytest.raises(ValueError, match="no"):
            await members

    run(main())
    assert on_the_loop == []
