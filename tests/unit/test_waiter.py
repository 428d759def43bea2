"""One listener for everybody who waits: nobody is missed, nobody hangs, nobody polls."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from kernel_backend_memory import MemoryBackend

from kernel import errors
from kernel.interfaces.backend import BackendConfig, Record
from kernel.waiter import Waiter

LIMIT = 20.0


class Counting(MemoryBackend):
    """Counts its watches, and fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__(BackendConfig(url="memory://"))
        self.watches: list[Any] = []
        self.failures: list[Exception] = []

    def watch(self, ids: Sequence[str] = ()) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        watch = super().watch(ids)
        self.watches.append(watch)
        return watch


@pytest.fixture
def backend() -> Counting:
    return Counting()


@pytest.fixture
def waiter(backend: Counting) -> Iterator[Waiter]:
    made = Waiter(lambda: backend)
    yield made
    made.close()
    assert "kernel-results" not in {thread.name for thread in threading.enumerate()}


def done(task_id: str, value: bytes = b"1") -> Record:
    return Record(id=task_id, state="SUCCESS", result=value)


def later(step: Callable[[], object], seconds: float = 0.05) -> threading.Timer:
    timer = threading.Timer(seconds, step)
    timer.daemon = True
    timer.start()
    return timer


def on_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(function())
        except Exception as exc:
            answers.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers


def occupy(waiter: Waiter) -> Callable[[], None]:
    """Let another thread have the watch of its own, so that all others use the listener."""
    thread, _ = on_thread(lambda: waiter.wait("occupied", timeout=LIMIT))
    until(lambda: waiter._direct is not None)
    return lambda: thread.join(LIMIT)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.001)


def test_what_is_there_already_comes_at_once(waiter: Waiter, backend: Counting) -> None:
    backend.store([done("a")])
    assert waiter.wait("a", timeout=LIMIT).result == b"1"


def test_what_comes_later_ends_the_wait(waiter: Waiter, backend: Counting) -> None:
    later(lambda: backend.store([done("a")]))
    assert waiter.wait("a", timeout=LIMIT).state == "SUCCESS"


def test_a_thread_that_waits_alone_starts_no_thread_and_keeps_its_watch(waiter: Waiter, backend: Counting) -> None:
    before = threading.active_count()
    for number in range(20):
        backend.store([done(str(number))])
        waiter.wait(str(number), timeout=LIMIT)
    assert threading.active_count() == before
    assert len(backend.watches) == 1


def test_time_runs_out(waiter: Waiter, backend: Counting) -> None:
    backend.store([Record(id="a", state="STARTED")])
    for timeout in (0, 0.01, 0.05):
        with pytest.raises(errors.TimeoutError, match="a was not ready"):
            waiter.wait("a", timeout=timeout)
    assert len(backend.watches) == 1, "a timeout costs no new watch"


def test_a_timeout_of_zero_looks_once(waiter: Waiter, backend: Counting) -> None:
    backend.store([done("a")])
    assert waiter.wait("a", timeout=0).state == "SUCCESS"
    assert backend.watches == []


@pytest.mark.parametrize("shared", [False, True], ids=["own watch", "listener"])
def test_every_state_is_told(waiter: Waiter, backend: Counting, shared: bool) -> None:
    release = occupy(waiter) if shared else lambda: None
    seen: list[str] = []

    def on_record(record: Record) -> None:
        seen.append(record.state)
        following = {"STARTED": Record(id="a", state="PROGRESS"), "PROGRESS": done("a")}.get(record.state)
        if following is not None:
            backend.store([following])

    backend.store([Record(id="a", state="STARTED")])
    waiter.wait("a", timeout=LIMIT, on_record=on_record)
    assert seen == ["STARTED", "PROGRESS", "SUCCESS"]
    backend.store([done("occupied")])
    release()


@pytest.mark.parametrize("shared", [False, True], ids=["own watch", "listener"])
def test_the_interval_is_told_and_what_it_raises_ends_the_wait(waiter: Waiter, backend: Counting, shared: bool) -> None:
    release = occupy(waiter) if shared else lambda: None
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        waiter.wait("a", timeout=LIMIT, on_interval=tick, interval=0.01)
    assert len(ticks) == 3
    backend.store([done("a"), done("occupied")])
    assert waiter.wait("a", timeout=LIMIT).state == "SUCCESS", "the next wait works"
    release()


def test_a_wait_inside_a_wait(waiter: Waiter, backend: Counting) -> None:
    backend.store([done("a", b"1"), done("b", b"2")])
    inner: list[bytes] = []
    waiter.wait("a", timeout=LIMIT, on_record=lambda _: inner.append(waiter.wait("b", timeout=LIMIT).result))
    assert inner == [b"2"]


def test_many_threads_share_one_listener(waiter: Waiter, backend: Counting) -> None:
    waits = [on_thread(lambda n=n: waiter.wait(f"id-{n % 50}", timeout=LIMIT).result) for n in range(100)]
    for number in range(50):
        backend.store([done(f"id-{number}", str(number).encode())])
    for thread, _ in waits:
        thread.join(LIMIT)
    assert [answers for _, answers in waits] == [[str(n % 50).encode()] for n in range(100)]
    assert len(backend.watches) <= 2


def test_who_comes_second_for_an_id_gets_it_too(waiter: Waiter, backend: Counting) -> None:
    release = occupy(waiter)
    backend.store([Record(id="a", state="STARTED")])
    first, one = on_thread(lambda: waiter.wait("a", timeout=LIMIT))
    seen = threading.Event()
    second, two = on_thread(lambda: waiter.wait("a", timeout=LIMIT, on_record=lambda record: seen.set()))
    assert seen.wait(LIMIT), "the state that stood before it came is told to it"
    backend.store([done("a"), done("occupied")])
    first.join(LIMIT)
    second.join(LIMIT)
    assert [record.state for record in one + two] == ["SUCCESS", "SUCCESS"]
    # Everybody has gone, and the id may be asked for again.
    assert waiter.wait("a", timeout=LIMIT).state == "SUCCESS"
    release()


def test_thousands_of_coroutines(waiter: Waiter, backend: Counting) -> None:
    count = 2000

    async def main() -> list[bytes]:
        waits = [asyncio.create_task(waiter.wait_async(str(n), timeout=LIMIT)) for n in range(count)]
        await asyncio.sleep(0)
        records = [done(str(n), str(n).encode()) for n in range(count)]
        await asyncio.to_thread(backend.store, records)
        return [record.result for record in await asyncio.gather(*waits)]

    assert asyncio.run(main()) == [str(n).encode() for n in range(count)]
    assert len(backend.watches) == 1


def test_a_coroutine_times_out_sees_states_and_can_be_cancelled(waiter: Waiter, backend: Counting) -> None:
    async def main() -> None:
        seen: list[str] = []
        backend.store([Record(id="a", state="STARTED")])
        with pytest.raises(errors.TimeoutError):
            await waiter.wait_async("a", timeout=0.05, on_record=lambda record: seen.append(record.state))
        assert seen == ["STARTED"]
        task = asyncio.create_task(waiter.wait_async("a", timeout=LIMIT))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(backend.store, [done("a")])
        assert (await waiter.wait_async("a", timeout=LIMIT)).state == "SUCCESS"

    asyncio.run(main())


def test_two_event_loops_at_once(waiter: Waiter, backend: Counting) -> None:
    def run() -> str:
        return asyncio.run(waiter.wait_async("a", timeout=LIMIT)).state

    first, second = on_thread(run), on_thread(run)
    later(lambda: backend.store([done("a")]))
    for thread, answers in (first, second):
        thread.join(LIMIT)
        assert answers == ["SUCCESS"]


def test_a_loop_that_was_closed_disturbs_nobody(waiter: Waiter, backend: Counting) -> None:
    async def leave() -> None:
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
        await waiter.wait_async("a", timeout=LIMIT)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(leave())
    backend.store([done("a"), done("b")])
    assert asyncio.run(waiter.wait_async("b", timeout=LIMIT)).state == "SUCCESS"


@pytest.mark.parametrize("shared", [False, True], ids=["own watch", "listener"])
def test_a_backend_that_comes_back_is_waited_for(
    waiter: Waiter, backend: Counting, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    for room in ("waiting", "listener"):
        monkeypatch.setattr(f"kernel.results.{room}.FIRST_PAUSE", 0.001)
    backend.failures = [errors.OperationalError("away"), errors.BackendError("odd")]
    backend.store([done("a")])
    if shared:
        assert asyncio.run(waiter.wait_async("a", timeout=LIMIT)).state == "SUCCESS"
    else:
        assert waiter.wait("a", timeout=LIMIT).state == "SUCCESS"
    assert backend.failures == []


def test_a_backend_that_stays_away_is_told_to_everybody(
    waiter: Waiter, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in ("waiting", "listener"):
        monkeypatch.setattr(f"kernel.results.{room}.FIRST_PAUSE", 0.001)
    backend.failures = [errors.OperationalError("away") for _ in range(1000)]
    with pytest.raises(errors.OperationalError, match="away"):
        waiter.wait("a", timeout=LIMIT)

    async def main() -> list[Any]:
        waits = [waiter.wait_async(str(n), timeout=LIMIT) for n in range(20)]
        return await asyncio.gather(*waits, return_exceptions=True)

    assert {type(answer) for answer in asyncio.run(main())} == {errors.OperationalError}
    backend.failures.clear()
    backend.store([done("a")])
    assert asyncio.run(waiter.wait_async("a", timeout=LIMIT)).state == "SUCCESS"


@pytest.mark.parametrize("shared", [False, True], ids=["own watch", "listener"])
def test_what_will_not_pass_is_told_at_once(waiter: Waiter, backend: Counting, shared: bool) -> None:
    backend.failures = [NotImplementedError("No result backend"), NotImplementedError("second")]
    ask = (lambda: asyncio.run(waiter.wait_async("a", timeout=LIMIT))) if shared else (lambda: waiter.wait("a"))
    with pytest.raises(NotImplementedError, match="No result backend"):
        ask()
    assert len(backend.failures) == 1


def test_closing_ends_every_wait(waiter: Waiter, backend: Counting) -> None:
    direct, one = on_thread(lambda: waiter.wait("a", timeout=LIMIT))
    until(lambda: bool(backend.watches))
    shared, two = on_thread(lambda: waiter.wait("b", timeout=LIMIT))
    until(lambda: waiter._listener is not None and "b" in waiter._listener._watched)
    waiter.close()
    direct.join(LIMIT)
    shared.join(LIMIT)
    assert [type(answer) for answer in one + two] == [errors.OperationalError] * 2
    backend.store([done("c")])
    assert waiter.wait("c", timeout=LIMIT).state == "SUCCESS", "it may be used again"


def test_a_thread_that_ended_leaves_its_place_to_the_next(waiter: Waiter, backend: Counting) -> None:
    backend.store([done("a")])
    thread, _ = on_thread(lambda: waiter.wait("a", timeout=LIMIT))
    thread.join(LIMIT)
    assert waiter.wait("a", timeout=LIMIT).state == "SUCCESS"
    assert waiter._listener is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_anew(waiter: Waiter, backend: Counting) -> None:
    backend.store([done("a")])
    waiter.wait("a", timeout=LIMIT)
    asyncio.run(waiter.wait_async("a", timeout=LIMIT))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fine = waiter.wait("a", timeout=5).state == "SUCCESS"
            fine = fine and asyncio.run(waiter.wait_async("a", timeout=5)).state == "SUCCESS"
            waiter.close()
            status = 0 if fine else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
