from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from kernel import errors
from kernel.app import Kernel
from kernel.app.aio import Bridge
from kernel.message import Message, Publication


def publication(number: int) -> Publication:
    return Publication(Message({"id": str(number), "task": "t"}, b"", content_type="application/json"), "q")


class Deliver:
    """Stands in for `Publisher.deliver`, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[Publication]] = []
        self.options: list[Any] = []
        self.go = threading.Event()
        self.go.set()
        self.answers: Mapping[str, BaseException] = {}
        self.error: BaseException | None = None

    def __call__(self, batch: Sequence[Publication], *, retry: Any, policy: Any) -> list[BaseException | None]:
        self.batches.append(list(batch))
        self.options.append((retry, policy))
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return [self.answers.get(item.message.id) for item in batch]


@pytest.fixture
def deliver() -> Deliver:
    return Deliver()


@pytest.fixture
def bridge(deliver: Deliver) -> Iterator[Bridge]:
    bridge = Bridge(deliver)
    yield bridge
    deliver.go.set()
    bridge.close()


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about within 5 seconds")


def test_what_is_awaited_meanwhile_is_one_batch(bridge: Bridge, deliver: Deliver) -> None:
    async def main() -> None:
        deliver.go.clear()
        first = asyncio.create_task(bridge.publish(publication(0)))
        await until(lambda: deliver.batches)
        rest = [asyncio.create_task(bridge.publish(publication(n))) for n in range(1, 100)]
        await asyncio.sleep(0)
        assert not first.done()
        deliver.go.set()
        await asyncio.wait_for(asyncio.gather(first, *rest), 10)

    asyncio.run(main())
    assert [len(batch) for batch in deliver.batches] == [1, 99]


def test_each_coroutine_gets_its_own_answer(bridge: Bridge, deliver: Deliver) -> None:
    deliver.answers = {"1": errors.OperationalError("refused")}

    async def main() -> list[Any]:
        calls = [bridge.publish(publication(n)) for n in range(3)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)

    answers = asyncio.run(main())
    assert answers[0] is None
    assert isinstance(answers[1], errors.OperationalError)
    assert answers[2] is None


def test_an_error_of_the_batch_is_everybodys(bridge: Bridge, deliver: Deliver) -> None:
    deliver.error = ZeroDivisionError()

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(bridge.publish(publication(1)), 10)
        deliver.error = None
        await asyncio.wait_for(bridge.publish(publication(2)), 10)

    asyncio.run(main())


def test_other_policies_are_other_batches(bridge: Bridge, deliver: Deliver) -> None:
    async def main() -> None:
        deliver.go.clear()
        calls = [asyncio.create_task(bridge.publish(publication(0)))]
        await until(lambda: deliver.batches)
        calls.append(asyncio.create_task(bridge.publish(publication(1), retry=False)))
        calls.append(asyncio.create_task(bridge.publish(publication(2), policy={"max_retries": 1})))
        await asyncio.sleep(0)
        deliver.go.set()
        await asyncio.wait_for(asyncio.gather(*calls), 10)

    asyncio.run(main())
    assert deliver.options == [(None, None), (False, None), (None, {"max_retries": 1})]


def test_a_cancelled_coroutine_disturbs_nobody(bridge: Bridge, deliver: Deliver) -> None:
    async def main() -> None:
        deliver.go.clear()
        first = asyncio.create_task(bridge.publish(publication(0)))
        await until(lambda: deliver.batches)
        second = asyncio.create_task(bridge.publish(publication(1)))
        third = asyncio.create_task(bridge.publish(publication(2)))
        await asyncio.sleep(0)
        second.cancel()
        deliver.go.set()
        await asyncio.wait_for(asyncio.gather(first, third), 10)

    asyncio.run(main())
    assert sum(map(len, deliver.batches)) == 3


def test_several_loops_use_one_thread(bridge: Bridge, deliver: Deliver) -> None:
    def run() -> None:
        asyncio.run(asyncio.wait_for(bridge.publish(publication(1)), 10))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum(map(len, deliver.batches)) == 4
    assert sum(thread.name == "kernel-publish" for thread in threading.enumerate()) == 1


def test_closing_sends_what_was_given_and_ends_the_thread(bridge: Bridge, deliver: Deliver) -> None:
    async def main() -> None:
        call = asyncio.create_task(bridge.publish(publication(1)))
        await asyncio.sleep(0)
        bridge.close()
        bridge.close()
        await asyncio.wait_for(call, 10)
        with pytest.raises(errors.OperationalError, match="closed"):
            await bridge.publish(publication(2))

    asyncio.run(main())
    assert sum(map(len, deliver.batches)) == 1
    assert not any(thread.name == "kernel-publish" for thread in threading.enumerate())


def test_adelay_publishes_and_gives_the_result() -> None:
    app = Kernel("tests", broker="memory://", backend="memory://")

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    async def main() -> list[str]:
        results = await asyncio.gather(*(add.adelay(n, y=1) for n in range(50)))
        one = await add.aapply_async((1,), queue="other", task_id="mine")
        assert one.id == "mine"
        with pytest.raises(TypeError, match="missing"):
            await add.adelay()  # type: ignore[call-arg]
        return [result.id for result in results]

    ids = asyncio.run(main())
    assert sorted(message.id for message in app.broker.peek("celery", 100)) == sorted(ids)
    assert app.broker.peek("other", 1)[0].id == "mine"
    app.close()
    assert not any(thread.name == "kernel-publish" for thread in threading.enumerate())
