"""One server, kombu on the other side: what either writes the other reads."""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from queue import Empty
from typing import Any

import pytest
from kernel_broker_redis import RedisBroker

from kernel.interfaces.broker import (
    BindingSpec,
    ConsumeOptions,
    ExchangeSpec,
    QueueSpec,
    Settlement,
    Verdict,
)
from kernel.message import Message, Publication
from kernel.testing.servers import RedisProcess

# It has no annotations.
kombu: Any = importlib.import_module("kombu")

BODY = [[1, "žluť"], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
AMPLE = 1 << 30


@pytest.fixture
def channel(server: RedisProcess) -> Iterator[Any]:
    with kombu.Connection(server.url) as connection:
        yield connection.channel()


def headers(**more: Any) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "task": "shop.add", "eta": None, "stamps": {}, "list": [], **more}


def send(channel: Any, queue: str = "celery", **options: Any) -> dict[str, Any]:
    """As Celery sends: through the default exchange, with the task's id as correlation id."""
    sent = headers(**options.pop("headers", {}))
    kombu.Producer(channel, serializer="json").publish(
        BODY, routing_key=queue, headers=sent, correlation_id=sent["id"], reply_to="somebody", **options
    )
    return sent


def test_what_kombu_sends_is_claimed_as_it_was(broker: RedisBroker, channel: Any) -> None:
    sent = send(channel)
    consumer = broker.consume(["celery"], ConsumeOptions(owner="test"))
    (delivery,) = consumer.fetch(10, AMPLE, 5)
    message = delivery.message
    assert message.headers == sent
    assert json.loads(message.body) == BODY
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert (message.properties["correlation_id"], message.properties["reply_to"]) == (sent["id"], "somebody")


def test_what_kombu_sends_to_an_exchange_says_so(broker: RedisBroker, channel: Any) -> None:
    queue = kombu.Queue("post", kombu.Exchange("mail", "topic"), routing_key="mail.#")
    queue(channel).declare()
    sent = send(channel, "mail.eu", exchange="mail")
    consumer = broker.consume(["post"], ConsumeOptions(owner="test"))
    (delivery,) = consumer.fetch(10, AMPLE, 5)
    assert delivery.message.headers == {**sent, "kernel_exchange": "mail", "kernel_routing_key": "mail.eu"}


def test_what_we_send_kombu_takes_and_acknowledges(broker: RedisBroker, channel: Any, client: Any) -> None:
    body = json.dumps(BODY).encode()
    sent = headers()
    properties = {"correlation_id": sent["id"], "reply_to": "somebody", "delivery_mode": 2, "priority": 0}
    message = Message(sent, body, content_type="application/json", properties=properties)
    broker.publish([Publication(message, "celery")])
    taken = channel.basic_get("celery")
    assert taken.headers == sent
    assert taken.decode() == BODY
    assert taken.properties["correlation_id"] == sent["id"]
    assert taken.delivery_info == {"exchange": "", "routing_key": "celery"}
    taken.ack()
    assert client.llen("celery") == 0


def test_the_envelopes_have_the_same_shape(broker: RedisBroker, channel: Any, client: Any) -> None:
    sent = send(channel)
    properties = {"correlation_id": sent["id"], "reply_to": "somebody", "delivery_mode": 2, "priority": 0}
    body = json.dumps(BODY, ensure_ascii=False, separators=(", ", ": ")).encode()
    message = Message(json.dumps(sent).encode(), body, content_type="application/json", properties=properties)
    broker.publish([Publication(message, "celery")])
    ours, theirs = client.lrange("celery", 0, -1)
    mine, other = json.loads(ours), json.loads(theirs)
    assert list(mine) == list(other)
    mine["properties"].pop("kernel_sent")
    for document in (mine, other):
        assert uuid.UUID(document["properties"].pop("delivery_tag"))
        document["body"] = None
    assert mine == other
    head, headers_at = (
        b'{"body": "',
        b'", "content-encoding": "utf-8", "content-type": "application/json", "headers": {',
    )
    for raw in (ours, theirs):
        assert raw.startswith(head)
        assert headers_at in raw


def test_kombu_puts_back_what_it_got_from_us(broker: RedisBroker, channel: Any) -> None:
    message = Message(headers(), b"[[], {}, {}]", content_type="application/json", properties={"priority": 0})
    broker.publish([Publication(message, "celery")])
    channel.basic_get("celery").requeue()
    consumer = broker.consume(["celery"], ConsumeOptions(owner="test"))
    (delivery,) = consumer.fetch(10, AMPLE, 5)
    assert delivery.message.id == message.id
    assert delivery.message.body == message.body


def test_what_we_put_back_kombu_takes(broker: RedisBroker, channel: Any, client: Any) -> None:
    sent = send(channel)
    (before,) = client.lrange("celery", 0, -1)
    consumer = broker.consume(["celery"], ConsumeOptions(owner="test"))
    (delivery,) = consumer.fetch(1, AMPLE, 5)
    assert client.llen("celery") == 0
    consumer.settle([Settlement(delivery, Verdict.REQUEUE, charged=True)])
    assert client.lrange("celery", 0, -1) == [before]
    assert channel.basic_get("celery").headers == sent
    # Nothing of ours is left over once the list is found empty.
    assert not consumer.fetch(1, AMPLE, 0.05)
    send(channel)
    assert len(consumer.fetch(1, AMPLE, 5)) == 1


def test_priorities_share_the_lists(broker: RedisBroker, channel: Any) -> None:
    ids = [send(channel, priority=priority)["id"] for priority in (9, 0, 4, 6)]
    consumer = broker.consume(["celery"], ConsumeOptions(owner="test"))
    taken = consumer.fetch(10, AMPLE, 5)
    assert [delivery.message.id for delivery in taken] == [ids[1], ids[2], ids[3], ids[0]]


def test_an_eta_waits_in_the_sorted_set(broker: RedisBroker, channel: Any, client: Any) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1.0)
    late = send(channel, headers={"eta": due.isoformat()})
    now = send(channel, headers={"note": 'says "eta": "2100-01-01T00:00:00+00:00" itself'})
    consumer = broker.consume(["celery"], ConsumeOptions(owner="test"))
    assert [delivery.message.id for delivery in consumer.fetch(10, AMPLE, 0.2)] == [now["id"]]
    assert client.llen("celery") == 0
    assert client.zcard("kernel:{celery}:delayed") == 1
    (delivery,) = consumer.fetch(10, AMPLE, 10)
    assert delivery.message.id == late["id"]
    assert datetime.now(UTC) >= due - timedelta(milliseconds=2)
    assert (delivery.seen, delivery.starts) == (False, 0)


@pytest.mark.parametrize(
    ("eta", "ahead"),
    [
        ("2100-02-28T23:59:59.123456+00:00", True),
        ("2100-01-01T00:00:00Z", True),
        ("2100-01-01T00:00:00-11:30", True),
        ("1999-12-31T23:59:59+00:00", False),
        ("2100-01-01T00:00:00", False),
        ("soon", False),
        (7, False),
        ({"__type__": "datetime"}, False),
    ],
)
def test_which_etas_are_ahead(broker: RedisBroker, channel: Any, eta: object, ahead: bool) -> None:
    send(channel, headers={"eta": eta})
    consumer = broker.consume(["celery"], ConsumeOptions(owner="test"))
    assert len(consumer.fetch(10, AMPLE, 0.05)) == (not ahead)
    assert broker.stats(["celery"])[0].delayed == ahead


def test_a_delayed_message_of_ours_lies_in_the_list_for_celery(broker: RedisBroker, channel: Any, client: Any) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    message = Message(headers(eta=due.isoformat()), b"[[], {}, {}]", content_type="application/json")
    broker.publish([Publication(message, "celery", due=due.timestamp())])
    assert client.llen("celery") == 1
    assert channel.basic_get("celery").headers["eta"] == due.isoformat()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b"[]",
        b"7",
        b'{"body": 7}',
        b'{"body": "!", "headers": {}, "properties": {"body_encoding": "base64"}}',
        b'{"body": "", "headers": [], "properties": {}}',
        b'{"body": "", "content-encoding": "utf-8", "content-type": "x", "headers": {"eta": "' + b'"eta"' * 99,
        b"\xff\xfe" * 50,
        (
            b'{"body": "A", "content-encoding": "\xff", "content-type": "x", "headers": {}, "properties": {"a": 1, '
            b'"delivery_info": {"exchange": "", "routing_key": "celery"}, "body_encoding": "base64", '
            b'"delivery_tag": "00000000-0000-4000-a000-000000000000", "kernel_sent": 1.5}}'
        ),
        b"[" * 5000,
    ],
)
def test_what_is_no_envelope_ends_as_a_letter(broker: RedisBroker, client: Any, raw: bytes) -> None:
    client.lpush("celery", raw)
    consumer = broker.consume(["celery"], ConsumeOptions(owner="test"))
    (delivery,) = consumer.fetch(10, AMPLE, 5)
    consumer.settle([Settlement(delivery, Verdict.DEAD, reason="no task")])
    (letter,) = broker.dead_letters("celery")
    assert (letter.task, letter.reason) == ("", "no task")
    assert client.hvals("kernel:{celery}:dead") == [raw]
    assert broker.retry_dead([letter.id]) == 1
    assert len(consumer.fetch(10, AMPLE, 5)) == 1


def test_a_declared_queue_is_bound_for_kombu(broker: RedisBroker, channel: Any, client: Any) -> None:
    broker.declare([QueueSpec("emails", [BindingSpec(ExchangeSpec("mail", "topic"), "mail.#")])])
    broker.declare([QueueSpec("celery", [BindingSpec(ExchangeSpec("celery"), "celery")])])
    assert client.smembers("_kombu.binding.celery") == {b"celery\x06\x16\x06\x16celery"}
    exchange = kombu.Exchange("mail", "topic")
    kombu.Producer(channel, exchange=exchange).publish(BODY, routing_key="mail.daily.news", headers=headers())
    consumer = broker.consume(["emails"], ConsumeOptions(owner="test"))
    assert len(consumer.fetch(10, AMPLE, 5)) == 1


def test_broadcasts_travel_on_the_channels_of_a_fanout(broker: RedisBroker, channel: Any) -> None:
    exchange = kombu.Exchange("all.workers", "fanout", durable=False)
    subscription = broker.subscribe("all.workers")
    kombu.Producer(channel, exchange=exchange).publish({"method": "ping"}, routing_key="")
    (message,) = subscription.read(10, 5)
    assert json.loads(message.body) == {"method": "ping"}
    queue = kombu.Queue("", exchange, exclusive=True, auto_delete=True)(channel)
    queue.declare()
    heard: list[Any] = []
    with kombu.Consumer(channel, [queue], callbacks=[lambda body, _: heard.append(body)], no_ack=True):
        for _ in range(50):
            broker.broadcast("all.workers", [Message({}, b'{"a": 1}', content_type="application/json")])
            try:
                channel.connection.client.drain_events(timeout=0.1)
            except (Empty, TimeoutError, OSError):
                continue
            if heard:
                break
    assert heard[:1] == [{"a": 1}]
