"""The conformance kit on RabbitMQ: classic queues with priorities, and quorum queues."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from kernel_broker_amqp import AmqpBroker

from kernel.interfaces.broker import Broker, BrokerConfig, QueueSpec
from kernel.testing.conformance.broker import BrokerConformance
from kernel.testing.conformance.broker_claims import LeaseCases
from kernel.testing.conformance.broker_ends import SettleCases
from kernel.testing.conformance.broker_kit import BrokerKit, made, numbers
from kernel.testing.rabbitmq import RabbitProcess


@pytest.fixture
def server(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


class OnRabbit(BrokerKit):
    """All tests share a virtual host, on queues of names that nobody else uses."""

    server: RabbitProcess
    url = ""
    settings: ClassVar[dict[str, str]] = {}
    driver: type[AmqpBroker] = AmqpBroker

    @pytest.fixture(autouse=True)
    def _on_server(self, server: RabbitProcess) -> None:
        self.server = server
        self.url = ""

    def make_broker(self, tmp_path: Path) -> Broker:
        if self.url:
            return self.driver(BrokerConfig(url=self.server.add_vhost(), settings=self.settings))
        self.url = self.server.url
        return self.driver(BrokerConfig(url=self.url, settings=self.settings))

    def second(self, broker: Broker) -> Broker:
        return self.driver(BrokerConfig(url=self.url, settings=self.settings))

    def raw_depth(self, broker: Broker, queue: str) -> int:
        facts = "[name, messages_ready, messages_unacknowledged]"
        return int(
            self.server.evaluate(
                "lists:sum([R + U || [{_, {_, _, _, N}}, {_, R}, {_, U}] <- "
                f'rabbit_amqqueue:info_all(<<"/">>, {facts}), binary:match(N, <<"{queue}">>) =/= nomatch])'
            )
        )

    def kill_connections(self, broker: Broker) -> bool:
        self.server.close_connections()
        return True


class TestClassic(OnRabbit, BrokerConformance):
    settings: ClassVar[dict[str, str]] = {"broker_native_delayed_delivery_queue_type": "classic"}

    def new_queue(self, broker: Broker, prefix: str = "kit") -> str:
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        broker.declare([QueueSpec(name, max_priority=255)])
        return name


class QuorumBroker(AmqpBroker):
    capabilities = replace(AmqpBroker.capabilities, priorities=False)


@pytest.mark.slow
class TestQuorum(OnRabbit, SettleCases, LeaseCases):
    settings: ClassVar[dict[str, str]] = {
        "task_default_queue_type": "quorum",
        "broker_native_delayed_delivery_queue_type": "classic",
    }
    driver = QuorumBroker

    def test_a_requeued_message_is_in_front_again(self, broker: Broker, queue: str) -> None:
        # Quorum queues put it behind what waits already.
        broker.publish(made(queue, 3))
        consumer = self.consume(broker, queue)
        self.give_up(consumer, self.one(consumer))
        assert sorted(numbers(self.gather(consumer, 3))) == [0, 1, 2]
