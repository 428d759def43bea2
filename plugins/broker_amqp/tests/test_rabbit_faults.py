"""What happens to RabbitMQ and to the way there, and what must not happen to messages."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_broker_amqp import AmqpBroker
from kernel_broker_amqp.names import dead
from kernel_lib_amqp import AmqpServer, ChannelClosed
from kernel_lib_amqp.channel import Channel

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
from kernel.testing.proxy import Proxy
from kernel.testing.rabbitmq import RabbitProcess, rabbitmq_server

AMPLE = 1 << 30
PATIENCE = 15.0


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitProcess]:
    with rabbitmq_server(consumer_timeout="2500") as server:
        patience(server)
        yield server


def patience(server: RabbitProcess) -> None:
    """Let the server look often at how old deliveries are; it does so once a minute else."""
    assert server.evaluate("application:set_env(rabbit, channel_tick_interval, 300)") == "ok"


@pytest.fixture
def broker(server: RabbitProcess) -> Iterator[AmqpBroker]:
    broker = make(server)
    yield broker
    broker.close()


@pytest.fixture
def queue(broker: AmqpBroker) -> str:
    name = f"faults-{uuid.uuid4().hex[:10]}"
    broker.declare([QueueSpec(name)])
    return name


def make(server: RabbitProcess, **options: Any) -> AmqpBroker:
    return AmqpBroker(BrokerConfig(url=server.url, timeout=2.0, options={"consumer_timeout": 2.5, **options}))


def message(n: int = 0) -> Message:
    headers = {"id": str(uuid.uuid4()), "task": "t", "n": n}
    return Message(headers, b"[[], {}, {}]", content_type="application/json")


def send(broker: AmqpBroker, queue: str, count: int = 1) -> None:
    """Until each is stored, as the kernel does it."""
    items = [Publication(message(n), queue) for n in range(count)]
    deadline = time.monotonic() + PATIENCE
    while items and time.monotonic() < deadline:
        try:
            outcomes = broker.publish(items)
        except errors.OperationalError:
            time.sleep(0.05)
            continue
        items = [
            item for item, outcome in zip(items, outcomes, strict=True) if outcome.state is not PublishState.STORED
        ]
    assert not items


def options(lease: float = 30.0) -> ConsumeOptions:
    return ConsumeOptions(owner="faults", lease=lease)


def take(consumer: Any, count: int = 1) -> list[Delivery]:
    """As the worker fetches: errors are tried again."""
    deadline = time.monotonic() + PATIENCE
    taken: list[Delivery] = []
    while len(taken) < count and time.monotonic() < deadline:
        try:
            taken += consumer.fetch(count - len(taken), AMPLE, 0.3)
        except errors.OperationalError:
            time.sleep(0.05)
    return taken


def raw(server: RabbitProcess) -> Channel:
    return Channel(AmqpServer(server.url, timeout=5).connect())


def test_this_server_ends_the_channel_of_an_old_delivery(server: RabbitProcess, broker: AmqpBroker, queue: str) -> None:
    send(broker, queue)
    channel = raw(server)
    assert channel.get_many(queue, 1)
    with pytest.raises(ChannelClosed, match="timeout"):
        channel.wire.answer(channel.number, (), PATIENCE)
    channel.wire.close()


@pytest.mark.parametrize("started", [False, True])
def test_a_task_may_run_longer_than_the_servers_patience(
    server: RabbitProcess, broker: AmqpBroker, queue: str, started: bool
) -> None:
    send(broker, queue)
    consumer, other = broker.consume([queue], options()), broker.consume([queue], options())
    (delivery,) = take(consumer)
    if started:
        assert [*consumer.start([delivery])] == [Settled.DONE]
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert consumer.renew()
        assert not other.fetch(1, AMPLE, 0.2)
    assert [*consumer.settle([Settlement(delivery, Verdict.ACK)])] == [Settled.DONE]
    consumer.close()
    assert not other.fetch(1, AMPLE, 1.5)


def test_a_task_that_was_handed_over_returns_when_its_worker_dies(
    server: RabbitProcess, broker: AmqpBroker, queue: str
) -> None:
    send(broker, queue)
    consumer, other = broker.consume([queue], options(lease=4.0)), broker.consume([queue], options())
    take(consumer)
    # No renewal: it is handed over once or twice before the lease ends.
    (again,) = take(other)
    assert (again.seen, again.starts) == (True, 0)
    assert [*other.settle([Settlement(again, Verdict.ACK)])] == [Settled.DONE]


def test_closed_connections_heal_and_old_claims_are_refused(
    server: RabbitProcess, broker: AmqpBroker, queue: str
) -> None:
    send(broker, queue, 20)
    consumer = broker.consume([queue], options())
    lost = take(consumer, 20)
    server.close_connections()
    again = take(consumer, 20)
    assert sorted(each.message.headers["n"] for each in again) == [*range(20)]
    assert all(each.seen for each in again)
    assert [*consumer.settle([Settlement(each, Verdict.ACK) for each in lost])] == [Settled.STALE] * 20
    assert [*consumer.settle([Settlement(each, Verdict.ACK) for each in again])] == [Settled.DONE] * 20
    send(broker, queue, 5)
    assert len(take(consumer, 5)) == 5


def test_nobody_waits_on_the_other_connections_of_a_silent_server(server: RabbitProcess) -> None:
    """Each of them would wait for half a minute for an answer of its own."""
    with Proxy("127.0.0.1", server.port) as proxy:
        url, name = proxy.url(server.url), f"faults-{uuid.uuid4().hex[:10]}"
        broker = AmqpBroker(BrokerConfig(url=url, timeout=30.0, options={"heartbeat": 1.0}))
        broker.declare([QueueSpec(name)])
        send(broker, name)
        consumer = broker.consume([name], options())
        assert len(take(consumer)) == 1
        proxy.half_open()
        begun = time.monotonic()
        assert len(take(consumer)) == 1
        send(broker, name)
        assert time.monotonic() - begun < 20
        broker.close()


def test_a_deleted_queue_comes_back(server: RabbitProcess, broker: AmqpBroker, queue: str) -> None:
    send(broker, queue, 2)
    consumer = broker.consume([queue], options())
    first, second = take(consumer, 2)
    channel = raw(server)
    channel.delete_queue(queue)
    channel.wire.close()
    send(broker, queue)
    (third,) = take(consumer)
    assert [*consumer.settle([Settlement(first, Verdict.ACK)])] == [Settled.DONE]
    assert [*consumer.settle([Settlement(third, Verdict.ACK)])] == [Settled.DONE]
    # What was in flight is not lost with the queue.
    assert [*consumer.settle([Settlement(second, Verdict.REQUEUE, charged=True)])] == [Settled.DONE]
    (again,) = take(consumer)
    assert (again.message.id, again.starts) == (second.message.id, 1)


def test_a_deleted_queue_wakes_a_waiting_consumer(server: RabbitProcess, broker: AmqpBroker, queue: str) -> None:
    consumer = broker.consume([queue], options())
    assert not consumer.fetch(1, AMPLE, 0.2)
    channel = raw(server)
    channel.delete_queue(queue)
    channel.wire.close()
    found: list[Delivery] = []
    thread = threading.Thread(target=lambda: found.extend(take(consumer)))
    thread.start()
    send(broker, queue)
    thread.join(PATIENCE + 5)
    assert len(found) == 1


def test_what_no_queue_takes_is_refused(broker: AmqpBroker, queue: str) -> None:
    items = [
        Publication(message(0), queue),
        Publication(message(1), queue, exchange="amq.direct", routing_key="nobody"),
        Publication(message(2), queue),
        Publication(message(3), queue, exchange="no-such-exchange"),
        Publication(message(4), queue),
    ]
    outcomes = broker.publish(items)
    states = [outcome.state for outcome in outcomes]
    stored, refused = PublishState.STORED, PublishState.REFUSED
    assert states == [stored, refused, stored, refused, stored]
    assert "no queue" in outcomes[1].reason
    assert "no-such-exchange" in outcomes[3].reason
    consumer = broker.consume([queue], options())
    found: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    # Those whose confirm had not come were sent again, and may be there twice.
    while len(found) < 3 and time.monotonic() < deadline:
        found |= {each.message.headers["n"] for each in consumer.fetch(10, AMPLE, 0.5)}
    assert found == {0, 2, 4}


def test_a_full_queue_refuses(broker: AmqpBroker) -> None:
    name = f"full-{uuid.uuid4().hex[:10]}"
    broker.declare([QueueSpec(name, arguments={"x-max-length": 3, "x-overflow": "reject-publish"})])
    states = [outcome.state for outcome in broker.publish([Publication(message(n), name) for n in range(6)])]
    assert states.count(PublishState.STORED) == 3
    assert states.count(PublishState.REFUSED) == 3


def test_an_alarm_blocks_publishing_for_no_longer_than_its_timeout(
    server: RabbitProcess, broker: AmqpBroker, queue: str
) -> None:
    send(broker, queue)
    server.raise_alarm()
    try:
        deadline = time.monotonic() + PATIENCE
        why = ""
        while "takes no messages" not in why and time.monotonic() < deadline:
            try:
                why = broker.publish([Publication(message(), queue)], 0.5)[0].reason
            except errors.OperationalError as exc:
                why = str(exc)
        assert "takes no messages" in why
        # Taking and settling go on.
        consumer = broker.consume([queue], options())
        (delivery,) = take(consumer)
        assert [*consumer.settle([Settlement(delivery, Verdict.ACK)])] == [Settled.DONE]
    finally:
        server.clear_alarm()
    send(broker, queue)


def test_without_confirms_nothing_is_waited_for(server: RabbitProcess, queue: str) -> None:
    broker = make(server, confirm_publish=False)
    try:
        assert {outcome.state for outcome in broker.publish([Publication(message(n), queue) for n in range(50)])} == {
            PublishState.STORED
        }
        server.close_connections()
        time.sleep(0.2)
        send(broker, queue, 10)
        consumer = broker.consume([queue], options())
        assert len(take(consumer, 60)) == 60
    finally:
        broker.close()


def test_wrong_logins_and_hosts_say_what_is_wrong(server: RabbitProcess) -> None:
    wrong = server.url.replace("guest:guest", "guest:secret")
    with pytest.raises(errors.ImproperlyConfigured, match="login") as caught:
        AmqpBroker(BrokerConfig(url=wrong)).open()
    assert "secret" not in str(caught.value)
    with pytest.raises(errors.ImproperlyConfigured, match="virtual host"):
        AmqpBroker(BrokerConfig(url=f"{server.url.rstrip('/')}/nowhere")).open()
    with pytest.raises(errors.OperationalError, match="cannot connect"):
        AmqpBroker(BrokerConfig(url="amqp://127.0.0.1:1//")).open()


def test_the_next_host_takes_over(server: RabbitProcess) -> None:
    broker = AmqpBroker(BrokerConfig(url=f"amqp://127.0.0.1:1//;{server.url}"))
    broker.declare([QueueSpec("failover")])
    send(broker, "failover")
    assert len(take(broker.consume(["failover"], options()), 1)) == 1
    broker.close()


def test_a_crash_of_the_server_loses_nothing_that_was_confirmed(server: RabbitProcess) -> None:
    broker = make(server)
    queue = f"crash-{uuid.uuid4().hex[:10]}"
    broker.declare([QueueSpec(queue)])
    send(broker, queue, 50)
    consumer = broker.consume([queue], options())
    claimed = take(consumer, 10)
    dying = Settlement(claimed[0], Verdict.DEAD, reason="kept over a crash")
    assert [*consumer.settle([dying])] == [Settled.DONE]
    server.kill()
    with pytest.raises(errors.OperationalError):
        broker.publish([Publication(message(), queue)])
    server.start()
    send(broker, queue, 5)
    found = take(consumer, 54)
    assert len(found) == 54
    assert [letter.reason for letter in broker.dead_letters(queue)] == ["kept over a crash"]
    assert dead(queue) != queue
    broker.close()
