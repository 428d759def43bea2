"""An exception from outside hits the body of a task, and nothing but the body."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel import attempt, errors, states
from kernel.app import Kernel
from kernel.attempt import Conclusion, Loops, Prepared
from kernel.guard import Guard
from tests.unit.attempting import attempted, request_of

LIMIT = 20.0


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_guard", broker="memory://", backend="memory://") as made:
        yield made


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object], float], None]]:
    """Runs something in a signal handler of the main thread, after so many seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def arrange(step: Callable[[], object], seconds: float) -> None:
        signal.signal(signal.SIGALRM, lambda signum, frame: step())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield arrange
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def busy(seconds: float = LIMIT) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        sum(range(100))


def test_a_signal_interrupts_the_body(app: Kernel, on_signal: Any) -> None:
    guard = Guard()
    on_signal(lambda: guard.interrupt(errors.SoftTimeLimitExceeded), 0.05)
    outcome = attempted(app, app.task(busy), guard=guard).outcome
    assert isinstance(outcome.error, errors.SoftTimeLimitExceeded)
    assert guard.interrupted is errors.SoftTimeLimitExceeded


def test_a_body_may_catch_its_soft_limit(app: Kernel, on_signal: Any) -> None:
    guard = Guard()

    @app.task
    def careful() -> str:
        try:
            busy()
        except errors.SoftTimeLimitExceeded:
            return "cleaned up"
        return "not interrupted"

    on_signal(lambda: guard.interrupt(errors.SoftTimeLimitExceeded), 0.05)
    outcome = attempted(app, careful, guard=guard).outcome
    assert (outcome.state, outcome.value) == (states.SUCCESS, "cleaned up")


def test_after_the_body_nothing_is_raised(app: Kernel) -> None:
    guard = Guard()
    assert attempted(app, app.task(lambda: 1), guard=guard).outcome.value == 1
    assert guard.interrupt(errors.SoftTimeLimitExceeded) is False


def test_what_comes_before_the_body_is_raised_as_it_begins(app: Kernel) -> None:
    guard = Guard()
    assert guard.interrupt(errors.LeaseLost) is True
    conclusion = attempted(app, app.task(lambda: pytest.fail("it ran")), guard=guard)
    assert conclusion.handed_back


@pytest.mark.parametrize("where", ["main", "thread"])
def test_another_thread_interrupts_the_body(app: Kernel, where: str) -> None:
    guard = Guard()
    answers: list[Conclusion] = []
    task = app.task(busy)

    def send() -> None:
        deadline = time.monotonic() + LIMIT
        while guard.thread_id is None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert guard.interrupt(errors.SoftTimeLimitExceeded)

    def run() -> None:
        answers.append(attempted(app, task, guard=guard))

    sender = threading.Thread(target=send)
    sender.start()
    if where == "main":
        run()
    else:
        runner = threading.Thread(target=run)
        runner.start()
        runner.join(LIMIT)
    sender.join(LIMIT)
    assert isinstance(answers[0].outcome.error, errors.SoftTimeLimitExceeded)


def test_an_interrupt_at_any_moment_hits_the_body_or_nothing(app: Kernel) -> None:
    """Short bodies and interrupts at random: whatever the moment, the attempt returns one conclusion."""
    prepared = Prepared(app, app.task(lambda: sum(range(50))))
    current: list[Guard] = [Guard()]
    stop = threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            sent += current[0].interrupt(errors.SoftTimeLimitExceeded)
            time.sleep(0)

    outcomes: list[str] = []

    def run() -> None:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            request = request_of(app, prepared.task)
            guard = Guard()
            # The real order: it is in reach of the interrupter before its body begins.
            current[0] = guard
            outcomes.append(attempt.run(prepared, request, guard=guard, loops=loops).outcome.state)

    loops = Loops()
    sender, runner = threading.Thread(target=send), threading.Thread(target=run)
    sender.start()
    runner.start()
    runner.join(LIMIT)
    stop.set()
    sender.join(LIMIT)
    assert not runner.is_alive()
    assert len(outcomes) > 100
    assert set(outcomes) <= {states.SUCCESS, states.FAILURE}
    assert sent > 0


def test_signals_at_any_moment_hit_the_body_or_nothing(app: Kernel, on_signal: Any) -> None:
    prepared = Prepared(app, app.task(lambda: sum(range(300))))
    current: list[Guard] = [Guard()]
    outcomes: list[str] = []
    loops = Loops()

    def strike() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0007)
        current[0].interrupt(errors.SoftTimeLimitExceeded)

    on_signal(strike, 0.0007)
    try:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            guard = current[0] = Guard()
            outcomes.append(
                attempt.run(prepared, request_of(app, prepared.task), guard=guard, loops=loops).outcome.state
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert states.SUCCESS in outcomes
    assert set(outcomes) <= {states.SUCCESS, states.FAILURE}


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("blocking", [False, True], ids=["awaits", "computes"])
def test_a_signal_interrupts_a_coroutine(app: Kernel, on_signal: Any, blocking: bool, caught: bool) -> None:
    guard = Guard()

    @app.task
    async def wait() -> str:
        on_signal(lambda: guard.interrupt(errors.SoftTimeLimitExceeded), 0.05)
        try:
            busy() if blocking else await asyncio.sleep(LIMIT)
        except errors.SoftTimeLimitExceeded:
            await asyncio.sleep(0)  # it may clean up
            if caught:
                return "cleaned up"
            raise
        return "not interrupted"

    loops = Loops()
    outcome = attempted(app, wait, guard=guard, loops=loops).outcome
    if caught:
        assert outcome.value == "cleaned up"
    else:
        assert isinstance(outcome.error, errors.SoftTimeLimitExceeded)

    @app.task
    async def after() -> int:
        await asyncio.sleep(0)
        return 1

    assert attempted(app, after, loops=loops).outcome.value == 1, "the loop is usable afterwards"
    loops.close()


def test_many_coroutines_and_one_is_interrupted(app: Kernel) -> None:
    @app.task
    async def wait(event: asyncio.Event) -> str:
        await event.wait()
        return "done"

    async def main() -> list[Conclusion]:
        prepared = Prepared(app, wait)
        events = [asyncio.Event() for _ in range(3)]
        guards = [Guard() for _ in range(3)]
        tasks = []
        for event, guard in zip(events, guards, strict=True):
            request = request_of(app, wait, event)
            tasks.append(asyncio.create_task(attempt.arun(prepared, request, guard=guard)))
        await asyncio.sleep(0.01)
        assert await asyncio.to_thread(guards[1].interrupt, errors.LeaseLost)
        conclusions = [await asyncio.wait_for(tasks[1], LIMIT)]
        assert tasks[1].cancelling() == 0
        for event in events:
            event.set()
        return conclusions + list(await asyncio.gather(tasks[0], tasks[2]))

    lost, *others = asyncio.run(main())
    assert lost.handed_back
    assert [other.outcome.value for other in others] == ["done", "done"]


def test_a_cancelled_pool_hands_the_task_back(app: Kernel) -> None:
    @app.task
    async def wait() -> None:
        await asyncio.sleep(LIMIT)

    async def main() -> Conclusion:
        task = asyncio.create_task(attempt.arun(Prepared(app, wait), request_of(app, wait), guard=Guard()))
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return await task
        raise AssertionError("it did not return")

    assert asyncio.run(main()).handed_back
