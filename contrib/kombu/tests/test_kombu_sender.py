"""Connections and producers of kombu's, handed to a call."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import kombu
import kombu.pools
import pytest

from kernel import Exchange, Kernel, Queue, errors

KOMBU: Any = kombu
POOLS: Any = kombu.pools


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("kombus", broker="memory://") as app:

        @app.task(name="t.add")
        def add(x: int, y: int) -> int:
            return x + y

        yield app


@pytest.fixture
def connection() -> Iterator[Any]:
    with KOMBU.Connection("memory://") as connection:
        yield connection


@pytest.fixture
def queue() -> str:
    # kombu's memory transport is one for the process.
    return f"q-{uuid.uuid4().hex}"


def received(connection: Any, queue: str) -> list[Any]:
    simple = connection.SimpleQueue(queue)
    found = [simple.get(block=False) for _ in range(simple.qsize())]
    simple.close()
    return found


def test_a_call_goes_over_a_connection_of_kombus(app: Kernel, connection: Any, queue: str) -> None:
    result = app.tasks["t.add"].apply_async(
        (1, 2), connection=connection, queue=queue, priority=3, expires=60, headers={"own": "yes"}, countdown=5
    )
    (message,) = received(connection, queue)
    assert message.payload == [[1, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    assert message.headers["id"] == result.id == message.properties["correlation_id"]
    assert message.headers["task"] == "t.add"
    assert message.headers["own"] == "yes"
    assert message.headers["eta"] is not None
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    properties = message.properties
    assert (properties["priority"], properties["delivery_mode"]) == (3, 2)
    assert properties["expiration"] == "60000"
    assert properties["reply_to"] == app.oid
    assert message.delivery_info["routing_key"] == queue
    assert app.broker.stats() == []


@pytest.mark.parametrize("option", ["producer", "publisher"])
def test_many_calls_go_over_one_producer_of_kombus(app: Kernel, connection: Any, queue: str, option: str) -> None:
    add: Any = app.tasks["t.add"]
    with connection.Producer() as producer:
        ids = [add.apply_async((n, n), queue=queue, **{option: producer}).id for n in range(3)]
        ids += [result.id for result in add.map_delay([(1, 2), (3, 4)], queue=queue, **{option: producer})]
    assert [message.headers["id"] for message in received(connection, queue)] == ids
    assert connection.connected


def test_producers_of_kombus_pools_are_taken(app: Kernel, connection: Any, queue: str) -> None:
    with POOLS.producers[connection].acquire(block=True) as producer:
        app.tasks["t.add"].apply_async((1, 2), producer=producer, queue=queue)
    assert len(received(connection, queue)) == 1


@pytest.mark.parametrize("kind", ["topic", "fanout"])
def test_exchanges_are_kombus(app: Kernel, connection: Any, queue: str, kind: str) -> None:
    exchange = Exchange(f"{queue}-exchange", kind)
    app.conf.task_queues = [Queue(f"{queue}-{n}", exchange, "a.*") for n in range(2)]
    app.tasks["t.add"].apply_async((1, 2), connection=connection, queue=f"{queue}-0", routing_key="a.b")
    assert [len(received(connection, f"{queue}-{n}")) for n in range(2)] == [1, 1]


def test_a_queue_that_is_there_is_left_as_it_is(app: Kernel, connection: Any, queue: str) -> None:
    app.tasks["t.add"].apply_async((1, 2), connection=connection, queue=queue)
    assert f"kernel:{queue}" in connection.declared_entities
    app.tasks["t.add"].apply_async((1, 2), connection=connection, queue=queue)
    assert len(received(connection, queue)) == 2


def test_a_server_that_is_away_is_an_operational_error(app: Kernel) -> None:
    with (
        KOMBU.Connection("redis://127.0.0.1:1/0") as connection,
        pytest.raises(errors.OperationalError, match=r"kombu's connection redis://.* failed"),
    ):
        app.tasks["t.add"].apply_async((1, 2), connection=connection, retry=False)


def test_an_error_in_the_middle_is_a_message_of_unknown_fate(app: Kernel, connection: Any, queue: str) -> None:
    with connection.Producer() as producer:
        sent: list[Any] = []

        def fail(*args: Any, **kwargs: Any) -> None:
            sent.append(kwargs["headers"])
            raise connection.connection_errors[0]("cut")

        whole, producer.publish = producer.publish, fail
        with pytest.raises(errors.PublishUnknown, match="may or may not be stored at the broker of producer="):
            app.tasks["t.add"].apply_async((1, 2), producer=producer, queue=queue, retry=False)
        with pytest.raises(errors.PublishUnknown):
            app.tasks["t.add"].apply_async(
                (1, 2), producer=producer, queue=queue, retry_policy={"max_retries": 1, "interval_step": 0}
            )
        # The second attempt says that there was a first one.
        assert [headers.get("redelivered") for headers in sent] == [None, None, True]
        producer.publish = whole
        app.tasks["t.add"].apply_async((1, 2), producer=producer, queue=queue)
    assert len(received(connection, queue)) == 1
