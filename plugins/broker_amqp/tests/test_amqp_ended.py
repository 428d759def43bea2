"""What ended here and comes again: told by the message, once for each end, and not for too long."""

from __future__ import annotations

import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from kernel_broker_amqp import AmqpBroker, ended
from kernel_broker_amqp.ended import Ended

from kernel import errors
from kernel.interfaces.broker import (
    BrokerConfig,
    ConsumeOptions,
    Delivery,
    PublishState,
    QueueSpec,
    Settled,
    Settlement,
    Verdict,
)
from kernel.message import Message, Publication
from kernel.testing.rabbitmq import RabbitProcess

AMPLE = 1 << 30
PATIENCE = 15.0


class _Claim(SimpleNamespace):
    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def read(self) -> Any:
        return self.message


def claim(id: str = "a", *, body: bytes = b"[]", redelivered: bool = True, **headers: Any) -> Any:
    message = SimpleNamespace(headers={"id": id, **headers}, properties={"priority": 1})
    tap = SimpleNamespace(queue="q")
    return _Claim(message=message, tap=tap, body=body, head=b"", redelivered=redelivered, done=False)


def test_one_end_covers_one_delivery() -> None:
    known = Ended()
    known.refused(claim())
    assert not known.has(claim("b"))
    assert not known.has(claim(retries=1))
    assert not known.has(claim(body=b"[1]"))
    assert not known.has(claim(redelivered=False))
    counted = claim()
    counted.message.headers["x-delivery-count"] = 2
    assert known.has(counted)
    assert not known.has(claim())


def test_an_end_is_noted_once() -> None:
    known, one = Ended(), claim()
    known.refused(one)
    known.refused(one)
    assert known.has(claim())
    assert not known.has(claim())


def test_the_last_acknowledgements_may_not_have_arrived() -> None:
    known = Ended()
    known.acked([claim("a"), claim("b")])
    assert not known.has(claim("a"))
    known.lost([])
    assert known.has(claim("a"))
    assert known.has(claim("b"))


def test_old_acknowledgements_have_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Ended()
    known.acked([claim("a")])
    monkeypatch.setattr(ended, "_RECENT_SECONDS", -1.0)
    known.lost([])
    assert not known.has(claim("a"))


def test_twins_run() -> None:
    """Two messages in the same words, one ended and one not: which comes again cannot be told."""
    known = Ended()
    known.acked([claim("a")])
    known.lost([claim("a")])
    assert not known.has(claim("a"))


def test_it_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Ended()
    monkeypatch.setattr(ended, "_KNOWN", 3)
    for n in range(5):
        known.refused(claim(str(n)))
    assert [known.has(claim(str(n))) for n in range(5)] == [False, False, True, True, True]
    known.refused(claim())
    known._until = 0.0
    assert not known.has(claim())


def test_what_was_acknowledged_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Ended()
    monkeypatch.setattr(ended, "_RECENT", 10)
    for n in range(50):
        known.acked([claim(str(n))])
    known.lost([])
    assert sum(known.has(claim(str(n))) for n in range(50)) == 10


def send(broker: AmqpBroker, queue: str, count: int) -> None:
    items = [
        Publication(
            Message({"id": f"{n}", "task": "t", "n": n}, b"[[], {}, {}]", content_type="application/json"), queue
        )
        for n in range(count)
    ]
    assert all(outcome.state is PublishState.STORED for outcome in broker.publish(items))


def take(consumer: Any, count: int) -> list[Delivery]:
    """As the worker fetches: errors are tried again."""
    deadline = time.monotonic() + PATIENCE
    taken: list[Delivery] = []
    while len(taken) < count and time.monotonic() < deadline:
        try:
            taken += consumer.fetch(count - len(taken), AMPLE, 0.3)
        except errors.OperationalError:
            time.sleep(0.05)
    return taken


def test_what_ended_here_comes_to_nobody_again(kernel_rabbitmq: RabbitProcess, kernel_rabbitmq_url: str) -> None:
    """Its acknowledgement was refused, since the connection had gone: it is made when the message comes back. What
    was to run only after the acknowledgement, and what was handed back, does come."""
    queue = "ended"
    broker = AmqpBroker(BrokerConfig(url=kernel_rabbitmq_url, timeout=5.0))
    broker.declare([QueueSpec(queue)])
    send(broker, queue, 20)
    consumer = broker.consume([queue], ConsumeOptions(owner="ended", lease=30.0))
    lost = take(consumer, 20)
    kernel_rabbitmq.close_connections()
    deadline = time.monotonic() + PATIENCE
    while consumer.renew() and time.monotonic() < deadline:
        with suppress(errors.OperationalError):
            consumer.fetch(0, AMPLE, 0)
            consumer.start([])
        time.sleep(0.02)
    ends = [Settlement(each, Verdict.ACK) for each in lost[:10]]
    ends += [Settlement(each, Verdict.ACK, early=True) for each in lost[10:15]]
    ends += [Settlement(each, Verdict.REQUEUE) for each in lost[15:]]
    assert [*consumer.settle(ends)] == [Settled.STALE] * 20
    again = take(consumer, 10)
    assert sorted(each.message.headers["n"] for each in again) == [*range(10, 20)]
    assert not consumer.fetch(10, AMPLE, 0.5)
    assert [*consumer.settle([Settlement(each, Verdict.ACK) for each in again])] == [Settled.DONE] * 10
    deadline = time.monotonic() + PATIENCE
    while (left := broker.stats()[0]).ready + left.claimed and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left.ready + left.claimed == 0
    consumer.close()
    broker.close()
