"""Hostile messages among good ones, in a worker inside this process, by every pool that can be hosted there.

The fault suite does the same with child processes; this one is quick, and its tracebacks are at hand.
"""

from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path

import pytest

from kernel import Kernel
from kernel.message import Publication
from kernel.testing.hostile import hostile_messages
from kernel.worker.worker import Worker

HOSTILE, GOOD = 1500, 150


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
def test_good_tasks_run_whatever_comes_between_them(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    # Thousands of refusals are not worth their lines here.
    caplog.set_level(logging.CRITICAL, logger="kernel")
    before = set(threading.enumerate())
    app = Kernel("hostile", broker="memory://", backend="memory://")

    @app.task(name="hostile.victim")
    def victim(*args: object, **kwargs: object) -> None:
        return None

    @app.task(name="good")
    def good(number: int) -> int:
        return number + 1

    @app.task(name="good.coroutine")
    async def coroutine(number: int) -> int:
        return number + 1

    strangers = hostile_messages(12, HOSTILE, canary=str(tmp_path / "canary"))
    with Worker(app, pool=pool, concurrency=4):
        results = []
        for number in range(GOOD):
            some = itertools.islice(strangers, HOSTILE // GOOD)
            app.broker.publish([Publication(message, "celery") for message in some])
            results.append((good if number % 2 else coroutine).delay(number))
        assert [result.get(timeout=60) for result in results] == list(range(1, GOOD + 1))
        assert good.delay(1).get(timeout=10) == 2
    letters = app.broker.dead_letters(limit=HOSTILE)
    assert len(letters) > HOSTILE // 2
    assert all(letter.reason for letter in letters)
    app.close()
    assert not any((tmp_path / name).exists() for name in ("canary", "hostile-canary"))
    assert set(threading.enumerate()) <= before
