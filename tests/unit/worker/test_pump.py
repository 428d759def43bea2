"""The pump says when its broker fails, and when it works again."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from kernel import errors
from kernel.interfaces.broker import ConsumeOptions, QueueSpec
from kernel.worker.claims.pump import Pump
from kernel.worker.failpoints import Failpoints
from kernel.worker.outage import Outage


class Flaky:
    """A broker and its consumer: fails as often as it is told, then has nothing to give."""

    def __init__(self, opens: int, fetches: int) -> None:
        self.opens = opens
        self.fetches = fetches
        self.fetched = threading.Event()

    def open(self) -> None:
        self.opens -= 1
        if self.opens >= 0:
            raise errors.OperationalError("nobody listens there")

    def declare(self, queues: Any) -> None: ...

    def consume(self, queues: Any, options: Any) -> Flaky:
        return self

    def fetch(self, limit: int, *args: Any, **options: Any) -> list[Any]:
        self.fetches -= 1
        if self.fetches >= 0:
            raise errors.OperationalError("the server closed the connection")
        if self.fetches < -1:
            self.fetched.set()
        return []

    def wake(self) -> None: ...

    def close(self, *args: Any, **options: Any) -> None: ...


def run(broker: Flaky) -> None:
    """A pump with `broker`, until two fetches have succeeded."""
    options = ConsumeOptions(owner="tests")
    pump = Pump(
        broker,  # type: ignore[arg-type]
        [QueueSpec("celery")],
        options,
        room=lambda: (1, 1000),
        post=lambda _: None,
        failpoints=Failpoints(),
    )
    pump.start()
    try:
        assert broker.fetched.wait(20)
    finally:
        assert pump.stop(20)


def test_it_says_when_the_broker_works_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kernel.worker"):
        run(Flaky(opens=1, fetches=2))
    texts = [record.getMessage() for record in caplog.records]
    assert [text.split(",")[0] for text in texts] == [
        "cannot reach the broker",
        "the broker is reached",
        "the broker failed",
        "the broker works again",
    ]


def test_a_long_absence_is_told_ever_more_rarely(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("kernel.worker.outage.time.monotonic", lambda: now)
    outage = Outage()
    with caplog.at_level(logging.WARNING, "kernel.worker"):
        for _ in range(600):
            outage.failed("the broker failed", 3.0, errors.OperationalError("nobody listens there"))
            outage.failed("commands cannot be read", 2.0, errors.OperationalError("nobody listens there"))
            now += 2.0
        outage.ended("the broker works again")
        outage.ended("the broker works again")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "the broker failed, next try in 3s: nobody listens there"
    assert 5 <= len(texts) <= 9
    assert texts[1].startswith("the broker failed, still, after ")
    assert texts[-1] == "the broker works again, after 1200 failed attempts in 1200.0s"


def test_it_says_nothing_while_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kernel.worker"):
        run(Flaky(opens=0, fetches=0))
    assert not caplog.records
