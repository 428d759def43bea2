"""What `kernel doctor` says of a RabbitMQ."""

from __future__ import annotations

import contextlib
import time
import uuid

import pytest
from kernel_lib_amqp import AmqpServer
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.findings import examine

from kernel.hooks import Finding
from kernel.testing.rabbitmq import RabbitProcess


@pytest.fixture
def rabbit(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


def found(url: str, *queues: str, timeout: float = 1800.0, confirms: bool = True) -> dict[str, Finding]:
    declared = {name: {"x-max-priority": 5} if name.startswith("ranked") else {} for name in queues}
    findings = examine(AmqpServer(url, timeout=5.0), declared, consumer_timeout=timeout, confirms=confirms)
    return {finding.subject: finding for finding in findings}


def test_a_server_as_it_should_be(rabbit: RabbitProcess) -> None:
    findings = found(rabbit.url, "nowhere-yet", timeout=600.0)
    assert findings["broker RabbitMQ"].text[0].isdecimal()
    assert "600 s" in findings["broker consumer_timeout"].text
    assert "not there yet" in findings["queue nowhere-yet"].text
    assert {finding.level for subject, finding in findings.items() if "latency" not in subject} == {"ok"}
    assert "nowhere-yet" not in rabbit.queues()
    assert found(rabbit.url, confirms=False)["broker confirms"].level == "warn"


def test_queues_that_are_otherwise(rabbit: RabbitProcess) -> None:
    right, ranked, fleeting = (f"{kind}-{uuid.uuid4().hex}" for kind in ("right", "ranked", "fleeting"))
    with contextlib.closing(AmqpServer(rabbit.url, timeout=5.0).connect()) as wire:
        channel = Channel(wire)
        channel.declare_queue(right)
        channel.declare_queue(ranked)
        channel.declare_queue(fleeting, durable=False)
        findings = found(rabbit.url, right, ranked, fleeting)
        for name in (right, ranked, fleeting):
            channel.delete_queue(name)
    assert findings[f"queue {right}"].level == "ok"
    assert findings[f"queue {ranked}"].level == "warn"
    assert "x-max-priority" in findings[f"queue {ranked}"].text
    assert findings[f"queue {fleeting}"].level == "fail"
    assert "not durable" in findings[f"queue {fleeting}"].remedy


def test_a_server_that_is_short_of_memory(rabbit: RabbitProcess) -> None:
    rabbit.raise_alarm()
    try:
        deadline = time.monotonic() + 20
        while (findings := found(rabbit.url))["broker alarms"].level != "fail" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert findings["broker alarms"].level == "fail"
        assert "memory" in findings["broker alarms"].text
    finally:
        rabbit.clear_alarm()


def test_no_server() -> None:
    (finding,) = found("amqp://me:hidden@127.0.0.1:1//").values()
    assert finding.level == "fail"
    assert "hidden" not in finding.text
