"""Waiting at the first list of the first queue, where anybody's push ends the wait."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from kernel_broker_redis import RedisBroker, claims, consumer, envelope
from kernel_broker_redis.consumer import RedisConsumer
from kernel_broker_redis.door import Door
from kernel_lib_redis import Script

from kernel import errors
from kernel.interfaces.broker import ConsumeOptions, Delivery, Settled, Settlement, Verdict
from kernel.message import Message
from kernel.testing.servers import RedisProcess

AMPLE = 1 << 20
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found here is found at the door."""
    monkeypatch.setattr(claims, "_LOOK_EVERY", 600.0)


def foreign(task_id: str) -> bytes:
    """As a producer writes that knows nothing of us."""
    return envelope.encode(Message({"id": task_id, "task": "t"}, b"[]", content_type="application/json"), "q")


def consume(broker: RedisBroker, *queues: str, lease: float = 30.0) -> RedisConsumer:
    return broker.consume(queues or ["q"], ConsumeOptions(owner="test", lease=lease))


class Fetching:
    """A fetch on a thread of its own; the block goes on when it waits at the door."""

    def __init__(self, consumer: RedisConsumer, limit: int = 5, timeout: float = PATIENCE) -> None:
        self.found: list[Delivery] = []
        self.error: BaseException | None = None
        self._consumer = consumer
        self._thread = threading.Thread(target=self._run, args=(limit, timeout), daemon=True)

    def _run(self, limit: int, timeout: float) -> None:
        try:
            self.found.extend(self._consumer.fetch(limit, AMPLE, timeout))
        except errors.OperationalError as exc:
            self.error = exc

    def __enter__(self) -> Fetching:
        self._thread.start()
        deadline = time.monotonic() + PATIENCE
        while not self._consumer._door.waits:
            assert time.monotonic() < deadline, "it never came to the door"
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()

    @property
    def ids(self) -> list[str]:
        return [delivery.message.id for delivery in self.found]


def test_a_plain_push_ends_the_wait(broker: RedisBroker, client: Any) -> None:
    consumer = consume(broker)
    for number in range(3):
        with Fetching(consumer) as fetching:
            client.lpush("q", foreign(f"id-{number}"))
        assert fetching.ids == [f"id-{number}"]
        settled = consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in fetching.found])
        assert [*settled] == [Settled.DONE]
    consumer.close()
    assert sorted(client.keys("kernel:*")) == [b"kernel:epoch", b"kernel:queues"]


def test_of_two_that_wait_each_gets_one(broker: RedisBroker, client: Any) -> None:
    with Fetching(consume(broker)) as one, Fetching(consume(broker)) as other:
        client.lpush("q", foreign("a"))
        client.lpush("q", foreign("b"))
    assert sorted([*one.ids, *other.ids]) == ["a", "b"]
    assert len(one.ids) == len(other.ids) == 1


def test_what_came_while_nobody_fetched_goes_back(
    broker: RedisBroker, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_UNATTENDED", 0.0)
    stopping = consume(broker)
    with Fetching(stopping) as fetching:
        stopping.wake()
    assert fetching.ids == []
    client.lpush("q", foreign("later"))
    # Its worker claims no more, and renews for the tasks that still run.
    assert stopping.renew()
    assert client.llen("q") == 1
    client.lpush("q", foreign("after"))
    assert client.llen("q") == 2
    taken = consume(broker).fetch(5, AMPLE, PATIENCE)
    assert [(delivery.message.id, delivery.starts) for delivery in taken] == [("later", 0), ("after", 0)]


def test_the_next_fetch_has_what_came_since_the_last(broker: RedisBroker, client: Any) -> None:
    consumer = consume(broker)
    with Fetching(consumer) as fetching:
        consumer.wake()
    assert fetching.ids == []
    client.lpush("q", foreign("since"))
    assert [delivery.message.id for delivery in consumer.fetch(5, AMPLE, PATIENCE)] == ["since"]


def test_a_message_for_later_is_put_where_it_belongs(broker: RedisBroker, client: Any) -> None:
    message = Message(
        {"id": "eta", "task": "t", "eta": "2099-01-01T00:00:00+00:00"}, b"[]", content_type="application/json"
    )
    with Fetching(consumer := consume(broker)) as fetching:
        client.lpush("q", envelope.encode(message, "q"))
        client.lpush("q", foreign("now"))
    assert fetching.ids == ["now"]
    (stats,) = broker.stats(["q"])
    assert (stats.ready, stats.delayed, stats.claimed) == (0, 1, 1)
    consumer.close()


def test_a_paused_queue_is_left_alone(broker: RedisBroker, client: Any) -> None:
    consumer = consume(broker)
    with Fetching(consumer, timeout=1.0) as fetching:
        broker.pause("q")
        client.lpush("q", foreign("paused"))
    assert fetching.ids == []
    assert client.llen("q") == 1
    broker.resume("q")
    assert [delivery.message.id for delivery in consumer.fetch(5, AMPLE, PATIENCE)] == ["paused"]


def test_what_was_moved_aside_for_a_dead_consumer_comes_back(broker: RedisBroker, client: Any) -> None:
    dead = consume(broker, lease=0.2)
    # It died between the move and the claim behind it.
    client.lpush(f"kernel:{{q}}:aside:{dead.owner.id}", foreign("orphan"))
    other = consume(broker)
    deadline = time.monotonic() + PATIENCE
    found: list[Delivery] = []
    while not found and time.monotonic() < deadline:
        found += other.fetch(5, AMPLE, 0.3)
    assert [(delivery.message.id, delivery.starts) for delivery in found] == [("orphan", 0)]


def test_what_was_moved_aside_is_found_by_the_next_claim(broker: RedisBroker, client: Any) -> None:
    consumer = consume(broker)
    client.lpush(f"kernel:{{q}}:aside:{consumer.owner.id}", foreign("aside"))
    assert [delivery.message.id for delivery in consumer.fetch(5, AMPLE, 0)] == ["aside"]


def test_a_wait_that_is_cut_begins_again(broker: RedisBroker, client: Any) -> None:
    consumer = consume(broker)
    with Fetching(consumer) as fetching:
        client.client_kill_filter(_type="normal", skipme=True)
    assert isinstance(fetching.error, errors.OperationalError) or fetching.ids == []
    with Fetching(consumer) as fetching:
        client.lpush("q", foreign("again"))
    assert fetching.ids == ["again"]


def test_a_server_that_says_nothing_is_told_from_one_that_has_nothing(
    broker: RedisBroker, client: Any, server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.server.timeout = 0.3
    monkeypatch.setattr(claims, "_LOOK_EVERY", 0.3)
    waiting = consume(broker)
    # Idle: the server answers that there is nothing, again and again.
    assert waiting.fetch(1, AMPLE, 1.5) == []
    with Fetching(waiting) as fetching:
        server.pause()
        deadline = time.monotonic() + PATIENCE
        while fetching.error is None and time.monotonic() < deadline:
            time.sleep(0.02)
        server.resume()
    assert isinstance(fetching.error, errors.OperationalError)


def test_whoever_leaves_before_the_server_heard_him_wait_does_not_stand_there(broker: RedisBroker, client: Any) -> None:
    """The word that ends the wait goes over another connection, and may be ahead of the wait itself."""
    door = Door(broker.server, "q", "aside")
    try:
        began = time.monotonic()
        for _ in range(300):
            door.wait(PATIENCE, Script("return 7"))
            door.leave()
        assert not door.waits
        assert time.monotonic() - began < PATIENCE
    finally:
        door.close()
