"""How much a consumer has ahead, and what becomes of it when it asks for more, or for nothing."""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kernel_broker_amqp import AmqpBroker
from kernel_broker_amqp.line import Claim, Line, Tap
from kernel_lib_amqp import frames

from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Delivery, QueueSpec
from kernel.message import Message, Publication
from kernel.testing.rabbitmq import RabbitProcess

AMPLE = 1 << 30
PATIENCE = 20.0


class _Wire:
    """Takes what is sent."""

    lost = None

    def __init__(self) -> None:
        self.sent: list[int] = []

    def open_channel(self, number: int) -> None:
        assert number == 1

    def send(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            size, method = struct.unpack_from(">II", data, at + 3)
            self.sent.append(method)
            at += size + 8


def line() -> tuple[Line, Tap, Any]:
    wire: Any = _Wire()
    made = Line(wire, ["q"])
    tap = made.taps["q"]
    made.widen(tap, 2)
    for tag in (1, 2):
        pipe = tap.pipes[0]
        pipe.outstanding += 1
        made.unsettled[tag] = Claim(made, tap, pipe, tag, b"\x02k1" + bytes(9), b"", b"", 0.0)
        tap.buffer.append(made.unsettled[tag])
    wire.sent.clear()
    return made, tap, wire


def test_what_came_stays_when_its_consumer_ends() -> None:
    made, tap, wire = line()
    pipe = tap.pipes[0]
    made.stop(tap)
    assert wire.sent == [frames.BASIC_CANCEL]
    assert [claim.tag for claim in tap.buffer] == [1, 2]
    assert not tap.pipes
    assert not pipe.given_up


def test_it_goes_back_where_others_shall_have_it() -> None:
    made, tap, wire = line()
    pipe = tap.pipes[0]
    made.stop(tap)
    made.narrow(tap)
    assert wire.sent == [frames.BASIC_CANCEL, frames.BASIC_NACK, frames.BASIC_NACK]
    assert not tap.buffer
    assert not made.unsettled
    assert pipe.given_up, "what is under way goes back, too"


def test_more_is_ahead_while_thousands_are_handed_out() -> None:
    tap = Tap("q")
    assert tap.ahead(100.0) == 0
    tap.handed_out(1000)
    assert tap.ahead(100.1) == 100
    assert tap.ahead(100.11) == 100
    tap.handed_out(20)
    assert tap.ahead(100.2) == 0
    tap.handed_out(1_000_000)
    assert tap.ahead(5000.0) == 0, "that was long ago"


@pytest.fixture
def broker(kernel_rabbitmq: RabbitProcess) -> Iterator[AmqpBroker]:
    made = AmqpBroker(BrokerConfig(url=kernel_rabbitmq.url))
    made.open()
    yield made
    made.close()


def test_who_asks_for_ever_more_gets_each_message_once_and_as_new(broker: AmqpBroker) -> None:
    queue, count = f"credit-{uuid.uuid4().hex}", 600
    broker.declare([QueueSpec(queue)])
    broker.publish(
        [
            Publication(Message({"id": str(at), "task": "t"}, b"[[],{},{}]", content_type="application/json"), queue)
            for at in range(count)
        ]
    )
    found: list[Delivery] = []
    with closing(broker.consume([queue], ConsumeOptions(owner="me", lease=60.0))) as consumer:
        deadline = time.monotonic() + PATIENCE
        limit = 1
        while len(found) < count and time.monotonic() < deadline:
            found += consumer.fetch(limit, AMPLE, 0.2)
            limit = min(limit + limit // 2 + 1, 200)
        assert [delivery.message.id for delivery in found] == [str(at) for at in range(count)]
        assert not [delivery for delivery in found if delivery.seen]
    assert broker.purge(queue) == count
