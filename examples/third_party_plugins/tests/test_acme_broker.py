"""The acme broker passes the kit."""

from __future__ import annotations

from pathlib import Path

from acme_kernel.broker import AcmeBroker

from kernel.interfaces.broker import BrokerConfig, PublishState
from kernel.message import Message, Publication
from kernel.testing.conformance.broker import BrokerConformance


class TestAcmeBroker(BrokerConformance):
    short_lease = 0.3

    def make_broker(self, tmp_path: Path) -> AcmeBroker:
        return AcmeBroker(BrokerConfig(url="acme://"))


def test_it_keeps_no_more_than_it_is_told_to() -> None:
    broker = AcmeBroker(BrokerConfig(url="acme://", settings={"acme_max_messages": 2}))
    message = Message({"id": "a", "task": "t"}, b"[]", content_type="application/json")
    states = [outcome.state for outcome in broker.publish([Publication(message, "q")] * 3)]
    assert states == [PublishState.STORED, PublishState.STORED, PublishState.REFUSED]
