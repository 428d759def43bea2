"""What a type checker must know of tasks. `mypy --strict` reads this file; nothing runs it.

Each ``type: ignore`` names an error that must be there: strict mode reports the ones that are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from kernel import AsyncResult, EagerResult, Kernel, Retry, Signature, Task

app = Kernel("typed")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="shop.fetch", max_retries=3, autoretry_for=(OSError,), retry_backoff=True)
def fetch(path: str, *, force: bool = False) -> bytes:
    return path.encode()


@app.task(bind=True, max_retries=None)
def bound(self: Task[..., Any], number: int) -> str:
    raise self.retry(countdown=number)


@app.task(bind=True)
def untyped_self(self, number: int) -> str:  # type: ignore[no-untyped-def]
    return str(number)


@app.task
async def wait(seconds: float) -> list[float]:
    return [seconds]


@app.task(bind=True, ignore_result=True)
async def bound_wait(self: Task[..., Any], seconds: float) -> None: ...


class Adder(Task[[int, int], int]):
    def run(self, x: int, y: int) -> int:
        return x + y


adder = app.register_task(Adder())
from_class = app.register_task(Adder)


def calls() -> None:
    assert_type(add.delay(1), AsyncResult[int])
    assert_type(add.delay(1, y=2).get(timeout=1), int)
    assert_type(add(1, 2), int)
    assert_type(fetch.delay("a", force=True).get(), bytes)
    assert_type(bound.delay(5).get(), str)
    assert_type(wait.delay(0.5).get(), list[float])
    assert_type(bound_wait.delay(0.5), AsyncResult[None])
    assert_type(add.apply_async((1, 2), countdown=5, queue="x", link=add.s(1)), AsyncResult[int])
    assert_type(add.map_delay([(1, 2), {"x": 1}]), list[AsyncResult[int]])
    assert_type(add.apply((1,)), EagerResult[int])
    assert_type(add.s(1), Signature[int])
    assert_type(add.s(1).delay().get(), int)
    assert_type(add.AsyncResult("i").get(), int)
    assert_type(app.send_task("x", (1,)), AsyncResult[Any])
    assert_type(adder, Adder)
    assert_type(from_class, Adder)
    assert_type(adder.delay(1, 2).get(), int)
    assert_type(add.retry(), Retry)


async def coroutines() -> None:
    assert_type(await add.adelay(1, y=2), AsyncResult[int])
    assert_type(await (await add.aapply_async((1,), priority=3)), int)
    assert_type(await (await add.adelay(1)).aget(timeout=1), int)
    assert_type(await wait(0.5), list[float])


def mistakes() -> None:
    add.delay("1")  # type: ignore[arg-type]
    add.delay()  # type: ignore[call-arg]
    add.delay(1, 2, 3)  # type: ignore[call-arg]
    add.delay(1, z=2)  # type: ignore[call-arg]
    add("1")  # type: ignore[arg-type]
    fetch.delay("a", force="yes")  # type: ignore[arg-type]
    bound.delay("5")  # type: ignore[arg-type]
    untyped_self.delay("5")  # type: ignore[arg-type]
    wait.delay("1")  # type: ignore[arg-type]
    adder.delay(1)  # type: ignore[call-arg]
    add.apply_async((1,), coutdown=5)  # type: ignore[call-arg]
    add.apply_async((1,), countdown="5")  # type: ignore[arg-type]
    app.send_task("x", priority="high")  # type: ignore[arg-type]
    text: str = add.delay(1).get()  # type: ignore[assignment]
    print(text)


async def mistakes_of_coroutines() -> None:
    await add.adelay("1")  # type: ignore[arg-type]
    await wait.adelay()  # type: ignore[call-arg]


def wrong_options() -> None:
    @app.task(max_retires=3)  # type: ignore[call-overload,untyped-decorator]
    def one() -> None: ...

    @app.task(autoretry_for=OSError)  # type: ignore[call-overload,untyped-decorator]
    def two() -> None: ...


def plugin_options() -> None:
    @app.task(plugin_options={"tenant": "a"})
    def one(x: int) -> int:
        return x

    assert_type(one.delay(1).get(), int)


def a_task_is_callable() -> Callable[[int], int]:
    return add
