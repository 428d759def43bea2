"""Messages that kombu wrote, and ours read by kombu, on a real server."""

from __future__ import annotations

import importlib
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kernel_broker_amqp import AmqpBroker

from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Delivery, PublishState, QueueSpec
from kernel.message import Message, Publication
from kernel.testing.rabbitmq import RabbitProcess

kombu: Any = importlib.import_module("kombu")
native: Any = importlib.import_module("kombu.transport.native_delayed_delivery")

HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": "shop.add",
    "id": "11111111-2222-3333-4444-555555555555",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 2,
    "timelimit": [None, 30],
    "root_id": "11111111-2222-3333-4444-555555555555",
    "parent_id": None,
    "argsrepr": "(2, 3)",
    "kwargsrepr": "{'ž': 1.5}",
    "origin": "gen1@host",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": ["tenant"],
    "stamps": {"tenant": ["a", "b"]},
    "custom": {"deep": [1, {"x": 2**40}], "yes": True},
}
BODY = b'[[2, 3], {"\xc5\xbe": 1.5}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


@pytest.fixture
def server(kernel_rabbitmq: RabbitProcess) -> RabbitProcess:
    return kernel_rabbitmq


@pytest.fixture
def broker(server: RabbitProcess) -> Iterator[AmqpBroker]:
    settings = {"broker_native_delayed_delivery_queue_type": "classic"}
    broker = AmqpBroker(BrokerConfig(url=server.url, settings=settings))
    yield broker
    broker.close()


@pytest.fixture
def connection(server: RabbitProcess) -> Iterator[Any]:
    with kombu.Connection(server.url) as connection:
        yield connection


@pytest.fixture
def name() -> str:
    return f"kombu-{uuid.uuid4().hex[:10]}"


def one(broker: AmqpBroker, queue: str, seconds: float = 15) -> Delivery:
    consumer = broker.consume([queue], ConsumeOptions(owner="kombu"))
    (delivery,) = consumer.fetch(1, 1 << 30, seconds)
    return delivery


def test_what_kombu_wrote_is_read_as_it_was(broker: AmqpBroker, connection: Any, name: str) -> None:
    queue = kombu.Queue(name, kombu.Exchange(name, "direct"), routing_key=name)
    kombu.Producer(connection).publish(
        BODY, exchange=queue.exchange, routing_key=name, headers=HEADERS, declare=[queue], priority=4,
        content_type="application/json", content_encoding="utf-8", correlation_id=HEADERS["id"], reply_to="me",
    )  # fmt: skip
    message = one(broker, name).message
    # What the server says of the way is in the headers, as we send them ourselves.
    read = {**HEADERS, "kernel_exchange": name, "kernel_routing_key": name}
    assert message.headers == read
    assert json.loads(message.raw_headers) == read
    assert message.body == BODY
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.properties == {
        "delivery_mode": 2, "priority": 4, "correlation_id": HEADERS["id"], "reply_to": "me",
    }  # fmt: skip
    assert (message.id, message.task, message.priority) == (HEADERS["id"], "shop.add", 4)


def test_what_we_wrote_is_read_by_kombu(broker: AmqpBroker, connection: Any, name: str) -> None:
    broker.declare([QueueSpec(name)])
    properties = {"delivery_mode": 2, "priority": 0, "correlation_id": HEADERS["id"], "reply_to": "me"}
    sent = Message(HEADERS, BODY, content_type="application/json", properties=properties)
    assert broker.publish([Publication(sent, name)])[0].state is PublishState.STORED
    got = kombu.Queue(name)(connection).get()
    assert got is not None
    assert got.headers == HEADERS
    assert got.payload == [[2, 3], {"ž": 1.5}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]
    assert {field: got.properties[field] for field in properties} == properties
    got.ack()


def test_a_celery_queue_is_left_as_it_was_declared(
    broker: AmqpBroker, connection: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    kombu.Queue(name, max_priority=7, queue_arguments={"x-message-ttl": 600_000})(connection).declare()
    broker.declare([QueueSpec(name)])
    broker.declare([QueueSpec(name)])
    (told,) = [record.getMessage() for record in caplog.records if record.name == "kernel.amqp"]
    assert name in told
    assert "inequivalent arg" in told
    sent = Message({"id": "1", "task": "t"}, b"[]", content_type="application/json")
    assert broker.publish([Publication(sent, name)])[0].state is PublishState.STORED
    assert one(broker, name).message.id == "1"


def test_a_delay_of_celerys_reaches_us(broker: AmqpBroker, connection: Any, name: str) -> None:
    exchange = kombu.Exchange(name, "topic")
    queue = kombu.Queue(name, exchange, routing_key=name)
    queue(connection).declare()
    native.declare_native_delayed_delivery_exchanges_and_queues(connection, "classic")
    native.bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    due = time.time() + 2
    # Ours is on the same rungs, bound to the same queue, and comes once.
    sent = Message({"id": "ours", "task": "t"}, b"[]", content_type="application/json")
    assert broker.publish([Publication(sent, name, due=due)])[0].state is PublishState.STORED
    kombu.Producer(connection).publish(
        BODY,
        exchange=kombu.Exchange(native.level_name(27), "topic"),
        routing_key=native.calculate_routing_key(2, name),
        headers=HEADERS,
        content_type="application/json",
        content_encoding="utf-8",
    )
    consumer = broker.consume([name], ConsumeOptions(owner="kombu"))
    found: list[str] = []
    deadline = time.monotonic() + 15
    while len(found) < 2 and time.monotonic() < deadline:
        found += [each.message.id for each in consumer.fetch(5, 1 << 30, 0.5)]
    assert time.time() >= due - 0.1
    assert sorted(found) == [HEADERS["id"], "ours"]
    assert not consumer.fetch(5, 1 << 30, 0.5)


def test_an_eta_in_the_queue_itself_is_waited_for(broker: AmqpBroker, connection: Any, name: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1.2)
    headers = {**HEADERS, "eta": due.isoformat()}
    queue = kombu.Queue(name)
    kombu.Producer(connection).publish(
        BODY, routing_key=name, headers=headers, declare=[queue], content_type="application/json",
        content_encoding="utf-8",
    )  # fmt: skip
    delivery = one(broker, name)
    assert time.time() >= due.timestamp() - 0.002
    assert delivery.message.headers == headers
    assert (delivery.starts, delivery.seen) == (0, False)


def test_pidbox_hears_our_broadcasts(broker: AmqpBroker, connection: Any, name: str) -> None:
    queue = kombu.Queue("", kombu.Exchange(name, "fanout", durable=False), exclusive=True, durable=False)(connection)
    queue.declare()
    listener = broker.subscribe(name)
    sent = Message({"clock": 1}, b'{"method": "ping"}', content_type="application/json")
    broker.broadcast(name, [sent])
    assert [each.body for each in listener.read(5, 10)] == [sent.body]
    deadline = time.monotonic() + 10
    got = queue.get()
    while got is None and time.monotonic() < deadline:
        time.sleep(0.05)
        got = queue.get()
    assert got is not None
    assert got.payload == {"method": "ping"}
