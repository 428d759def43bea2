"""The conformance kit on RabbitMQ: classic queues with priorities, and quorum queues."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kernel_broker_amqp import AmqpBroker

from kernel.interfaces.broker import Broker, BrokerConfig, QueueSpec
from kernel.testing.conformance.broker import BrokerConformance
from kernel.testing.rabbitmq import RabbitProcess, rabbitmq_server


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitProcess]:
    with rabbitmq_server() as server:
        yield server


class TestClassic(BrokerConformance):
    server: RabbitProcess
    url = ""

    @pytest.fixture(autouse=True)
    def _on_server(self, server: RabbitProcess) -> None:
        self.server = server

    def make_broker(self, tmp_path: Path) -> Broker:
        self.url = self.server.add_vhost()
        return AmqpBroker(BrokerConfig(url=self.url))

    def second(self, broker: Broker) -> Broker:
        return AmqpBroker(BrokerConfig(url=self.url))

    def new_queue(self, broker: Broker, prefix: str = "kit") -> str:
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        broker.declare([QueueSpec(name, max_priority=255)])
        return name

    def raw_depth(self, broker: Broker, queue: str) -> int:
        found = self.server.queues(self.url.rpartition("/")[2])
        return sum(sum(counts) for name, counts in found.items() if queue in name)

    def kill_connections(self, broker: Broker) -> bool:
        self.server.close_connections()
        return True


class Quorum(AmqpBroker):
    capabilities = replace(AmqpBroker.capabilities, priorities=False)


QUORUM_CASES = (
    "test_publish_answers_for_each",
    "test_oldest_first",
    "test_a_recorded_start_counts_when_its_owner_dies",
    "test_a_requeued_message_is_in_front_again",
    "test_a_stale_owner_settles_nothing",
    "test_many_ends_of_all_kinds_in_one_batch",
    "test_a_requeue_may_wait",
    "test_four_threads_claim_each_message_once",
    "test_closing_gives_back_at_once_and_uncharged",
)
