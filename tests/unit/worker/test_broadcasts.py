"""What is sent to all workers goes into queues of this one, whatever the broker does meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from kernel import errors
from kernel.interfaces.broker import STORED, PublishOutcome, PublishState
from kernel.message import Message, Publication
from kernel.worker.claims import broadcasts
from kernel.worker.claims.broadcasts import Broadcasts

PATIENCE = 20.0


class Subscription:
    def __init__(self, waiting: list[Any]) -> None:
        self.waiting = waiting
        self.closed = threading.Event()

    def read(self, limit: int, timeout: float) -> Sequence[Message]:
        if not self.waiting:
            self.closed.wait(timeout)
            return []
        item = self.waiting.pop(0)
        if isinstance(item, Exception):
            raise item
        return [item]

    def close(self) -> None:
        self.closed.set()


class Broker:
    """Gives what `heard` says, an exception as one, and answers publications with `answers`."""

    def __init__(self, heard: list[Any], answers: Sequence[Any] = (), away: int = 0) -> None:
        self.heard = heard
        self.answers = list(answers)
        self.away = away
        self.stored: list[Publication] = []
        self.subscriptions: list[Subscription] = []

    def subscribe(self, topic: str) -> Subscription:
        assert topic == "news"
        if self.away:
            self.away -= 1
            raise errors.OperationalError("away")
        self.subscriptions.append(Subscription(self.heard))
        return self.subscriptions[-1]

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        answer = self.answers.pop(0) if self.answers else STORED
        if isinstance(answer, Exception):
            raise answer
        if answer is STORED:
            self.stored += batch
        return [answer] * len(batch)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "_PAUSE", 0.01)


def message(number: int, **headers: Any) -> Message:
    return Message({"id": f"id-{number}", "task": "t", **headers}, b"", content_type="application/json",
                   properties={"priority": number})  # fmt: skip


def run(broker: Any, until: Callable[[], bool], queues: Sequence[str] = ("mine",)) -> None:
    heard = Broadcasts(broker, {"news": queues})
    heard.start()
    deadline = time.monotonic() + PATIENCE
    while not until() and time.monotonic() < deadline:
        time.sleep(0.005)
    heard.stop(PATIENCE)
    assert until()
    assert all(subscription.closed.is_set() for subscription in broker.subscriptions)
    assert not any(thread.name == "kernel-broadcasts-news" for thread in threading.enumerate())


def test_each_queue_has_a_copy() -> None:
    broker = Broker([message(1), message(2, eta="2026-11-21T01:57:37+00:00")])
    run(broker, lambda: len(broker.stored) == 4, ("one", "two"))
    assert [(item.queue, item.message.id, item.priority) for item in broker.stored] == [
        ("one", "id-1", 1),
        ("two", "id-1", 1),
        ("one", "id-2", 2),
        ("two", "id-2", 2),
    ]
    assert [item.due for item in broker.stored] == [None, None, 1795226257.0, 1795226257.0]


def test_a_time_that_cannot_be_read_is_now() -> None:
    bad = [message(1, eta="tomorrow"), message(2, eta="2026-11-21T01:57:37"), message(3, eta=5)]
    broker = Broker([*bad, Message(b"\xff", b"", content_type="application/json")])
    run(broker, lambda: len(broker.stored) == 4)
    assert {item.due for item in broker.stored} == {None}


def test_a_broker_that_is_away_is_listened_to_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker([errors.OperationalError("broke"), message(1)], away=2)
    run(broker, lambda: len(broker.stored) == 1)
    assert len(broker.subscriptions) == 2
    assert "'news' is not heard yet: away" in caplog.text
    assert "'news' is not heard, next try" in caplog.text


def test_what_was_heard_is_stored_however_often_that_takes() -> None:
    unknown = PublishOutcome(PublishState.UNKNOWN, "broke")
    broker = Broker([message(1)], [errors.OperationalError("away"), unknown])
    run(broker, lambda: len(broker.stored) == 1)


def test_what_is_refused_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker([message(1), message(2)], [PublishOutcome(PublishState.REFUSED, "too large")])
    run(broker, lambda: len(broker.stored) == 1)
    assert "was refused: too large" in caplog.text


def test_an_end_does_not_wait_for_a_broker_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    tried = threading.Event()

    class Away(Broker):
        def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
            tried.set()
            raise errors.OperationalError("away")

    broker = Away([message(1)])
    run(broker, tried.is_set)
    assert "1 messages heard on 'news' are lost: the worker ends" in caplog.text


def test_who_has_nothing_to_listen_to_does_nothing() -> None:
    broker = Broker([])
    heard = Broadcasts(broker, {})  # type: ignore[arg-type]
    heard.start()
    heard.stop(1.0)
    assert not broker.subscriptions
