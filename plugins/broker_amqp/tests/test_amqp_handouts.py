"""What is handed out, and what becomes of it when a server takes back nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from kernel_broker_amqp import envelope
from kernel_broker_amqp.ended import Ended
from kernel_broker_amqp.handouts import Handouts
from kernel_broker_amqp.line import Claim, Line
from kernel_lib_amqp import frames

from kernel import errors
from kernel.message import Message

AMPLE = 1 << 30


class _Wire:
    """Takes what is sent."""

    lost = None

    def open_channel(self, number: int) -> None:
        assert number == 1

    def send(self, data: bytes) -> None:
        assert data


class _Shared:
    """Stores nothing while the server is short of memory."""

    def __init__(self) -> None:
        self.is_blocked = False
        self.stored: list[Any] = []

    def address(self, queue: str, due: float) -> bytes:
        return frames.address("", queue, mandatory=True)

    def store(self, parcels: Any) -> None:
        if self.is_blocked:
            raise errors.OperationalError("the server takes no messages: memory")
        self.stored += parcels


class Case:
    def __init__(self) -> None:
        wire: Any = _Wire()
        shared: Any = _Shared()
        self.shared = shared
        self.line = Line(wire, ["q"], number=3)
        self.tap = self.line.taps["q"]
        self.line.widen(self.tap, 9)
        self.handouts = Handouts(shared, Ended(), "me")

    def came(self, *ids: str, exchange: str = "", **headers: Any) -> None:
        for task_id in ids:
            message = Message({"id": task_id, "task": "t", **headers}, b"[]", content_type="application/json")
            tag = len(self.line.unsettled) + 1
            args = b"\x02k1" + tag.to_bytes(8, "big") + b"\0" + frames.short(exchange) + frames.short("q")
            claim = Claim(self.line, self.tap, self.tap.pipes[0], tag, args, envelope.head(message), message.body, 0.0)
            self.line.unsettled[tag] = claim
            self.tap.buffer.append(claim)

    def take(self, limit: int = 9) -> list[str]:
        return [delivery.message.id for delivery in self.handouts.take(self.line, limit, AMPLE)]


def eta(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()


def test_tokens_name_the_consumer_the_line_and_the_tag() -> None:
    case = Case()
    case.came("a", "b")
    (first,) = case.handouts.take(case.line, 1, AMPLE)
    (second,) = case.handouts.take(case.line, 9, AMPLE)
    assert (first.token, second.token) == ("me-3-1", "me-3-2")
    assert isinstance(first.key, Claim)
    assert not first.seen


def test_what_is_early_waits_elsewhere() -> None:
    case = Case()
    case.came("a", eta=eta(60))
    case.came("b", eta=eta(-60))
    assert case.take() == ["b"]
    assert len(case.shared.stored) == 1
    assert [*case.line.unsettled] == [2]


def test_nothing_is_lost_while_the_server_stores_nothing() -> None:
    case = Case()
    case.came("a", "b", eta=eta(60))
    case.came("c")
    case.shared.is_blocked = True
    assert case.take() == ["c"], "which was taken from the buffer, and has to go to somebody"
    with pytest.raises(errors.OperationalError, match="memory"):
        case.take()
    assert [claim.tag for claim in case.tap.buffer] == [1, 2]
    case.shared.is_blocked = False
    assert case.take() == []
    assert len(case.shared.stored) == 2
    assert [*case.line.unsettled] == [3]


def test_those_that_went_through_an_exchange_say_so() -> None:
    """Also in the midst of others of their kind, which are read by what they have in common."""
    case = Case()
    case.came("a", "b")
    case.came("c", exchange="news")
    case.came("d")
    found = case.handouts.take(case.line, 9, AMPLE)
    told = [delivery.message.headers.get("kernel_exchange") for delivery in found]
    assert told == [None, None, "news", None]
    headers: Any = found[2].message.at_hand[0]
    assert headers["kernel_routing_key"] == "q"
