"""Putting back for Celery what lies in keys of ours."""

from __future__ import annotations

import time
from typing import Any

from kernel_broker_redis import RedisBroker, envelope

from kernel.interfaces.broker import ConsumeOptions, Released, Releases
from kernel.message import Message, Publication


def message(name: str, **options: Any) -> Publication:
    return Publication(
        Message({"id": name, "task": "shop.add"}, b"[[], {}, null]", content_type="application/json"),
        "celery",
        **options,
    )


def names(client: Any, key: str = "celery") -> list[str]:
    """In the order in which they would be taken."""
    return [envelope.decode(raw).headers["id"] for raw in reversed(client.lrange(key, 0, -1))]


def test_delayed_messages_follow_those_that_wait_the_earliest_first(broker: RedisBroker, client: Any) -> None:
    now = time.time()
    broker.publish([message("second", due=now + 200), message("third", due=now + 300), message("first", due=now + 100)])
    broker.publish([message("waiting"), message("low", due=now + 50, priority=9)])
    assert isinstance(broker, Releases)
    assert broker.release("celery") == Released("celery", delayed=4)
    assert names(client) == ["waiting", "first", "second", "third"]
    assert names(client, "celery\x06\x169") == ["low"]
    assert broker.release("celery") == Released("celery")


def test_more_than_one_step_moves(broker: RedisBroker, client: Any) -> None:
    broker.publish([message(f"{number}", due=time.time() + 100 + number) for number in range(2500)])
    assert broker.release("celery") == Released("celery", delayed=2500)
    assert names(client) == [str(number) for number in range(2500)]


def test_what_a_dead_owner_held_comes_back_and_nothing_while_one_lives(broker: RedisBroker, client: Any) -> None:
    broker.publish([message("held"), message("later", due=time.time() + 100)])
    consumer = broker.consume(["celery"], ConsumeOptions(owner="somebody", lease=1.0))
    assert len(consumer.fetch(10, 1 << 20, 5)) == 1
    assert broker.release("celery") == Released("celery", owners=1)
    assert names(client) == []
    deadline = time.monotonic() + 20
    while (found := broker.release("celery")).owners:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found == Released("celery", delayed=1, claimed=1)
    assert sorted(names(client)) == ["held", "later"]


def test_keys_of_ours_are_gone_from_the_queue(broker: RedisBroker, client: Any) -> None:
    broker.publish([message("one"), message("later", due=time.time() + 100)])
    consumer = broker.consume(["celery"], ConsumeOptions(owner="somebody"))
    consumer.fetch(10, 1 << 20, 5)
    consumer.close()
    broker.release("celery")
    left = {key.decode().rpartition(":")[2] for key in client.keys("kernel:{celery}:*")}
    assert left <= {"n", "idle"}
