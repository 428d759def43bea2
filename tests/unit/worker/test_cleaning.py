"""Expired results are deleted a minute after the start and then hourly, whatever goes wrong meanwhile."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from kernel.app import Kernel
from kernel.worker.running.cleaning import Cleaner


class Clock:
    """Waits as long as the test lets it wait."""

    def __init__(self) -> None:
        self.asked: queue.Queue[float] = queue.Queue()
        self.answers: queue.Queue[bool] = queue.Queue()

    def wait(self, seconds: float) -> bool:
        self.asked.put(seconds)
        return self.answers.get(timeout=5)


def cleaner(clean: Callable[[], int]) -> tuple[Cleaner, Clock]:
    clock = Clock()
    made = Cleaner(clean, wait=clock.wait)
    made.start()
    return made, clock


def test_first_after_a_minute_then_hourly() -> None:
    calls: list[str] = []

    def clean() -> int:
        calls.append(threading.current_thread().name)
        return 3

    made, clock = cleaner(clean)
    assert clock.asked.get(timeout=5) == 60
    assert not calls
    clock.answers.put(False)
    assert clock.asked.get(timeout=5) == 3600
    assert calls == ["kernel-cleaner"]
    clock.answers.put(True)
    made.stop()
    assert len(calls) == 1
    assert not any(thread.name == "kernel-cleaner" for thread in threading.enumerate())


def test_an_error_is_logged_and_the_next_hour_comes(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[Any] = [OSError("disk is on fire"), 0]

    def clean() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return int(outcome)

    with caplog.at_level(logging.WARNING, logger="kernel.worker"):
        made, clock = cleaner(clean)
        for answer in (False, False, True):
            clock.asked.get(timeout=5)
            clock.answers.put(answer)
        made.stop()
    assert not outcomes
    assert "disk is on fire" in caplog.text


def test_stop_does_not_wait_for_the_hour() -> None:
    made = Cleaner(lambda: 0)
    made.start()
    made.stop(timeout=5)
    assert not any(thread.name == "kernel-cleaner" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("backend", "expires", "cleans"),
    [("memory://", 60, True), ("memory://", timedelta(days=1), True), ("memory://", 0, False), (None, 60, False)],
)
def test_only_where_results_are_kept_and_expire(backend: str | None, expires: Any, cleans: bool) -> None:
    app = Kernel("cleaning", broker="memory://", backend=backend, result_expires=expires)
    assert (Cleaner.of(app) is not None) is cleans
    app.close()
