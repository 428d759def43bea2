"""Answers that never come, servers that forget or die, and what waiting costs."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis
from kernel_broker_redis import RedisBroker
from kernel_broker_redis.consumer import RedisConsumer

from kernel import errors
from kernel.interfaces.broker import (
    BrokerConfig,
    ConsumeOptions,
    Delivery,
    PublishState,
    Settled,
    Settlement,
    Verdict,
)
from kernel.message import Message, Publication
from kernel.testing.servers import redis_server

AMPLE = 1 << 30


def made(count: int, queue: str = "q", **options: Any) -> list[Publication]:
    return [
        Publication(
            Message({"id": str(uuid.uuid4()), "task": "t", "n": n}, b"[[], {}, {}]", content_type="application/json"),
            queue,
            **options,
        )
        for n in range(count)
    ]


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.message.headers["n"] for delivery in deliveries]


def ack(deliveries: Sequence[Delivery]) -> list[Settlement]:
    return [Settlement(delivery, Verdict.ACK) for delivery in deliveries]


def consume(broker: RedisBroker, *queues: str, lease: float = 30.0) -> RedisConsumer:
    return broker.consume(queues or ["q"], ConsumeOptions(owner="test", lease=lease))


def drain(consumer: RedisConsumer, count: int) -> list[Delivery]:
    """`count` deliveries, through errors; fewer when twenty seconds are over."""
    taken: list[Delivery] = []
    deadline = time.monotonic() + 20
    while len(taken) < count and time.monotonic() < deadline:
        try:
            taken += consumer.fetch(100, AMPLE, 0.5)
        except errors.OperationalError:
            time.sleep(0.05)
    return taken


class LosesReplies:
    """Lets a server carry out a script, and then loses its answer."""

    def __init__(self, consumer: RedisConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
        self._run: Callable[..., Any] = consumer.owner.run
        self.losing = 0
        monkeypatch.setattr(consumer.owner, "run", self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        reply = self._run(*args, **options)
        if self.losing:
            self.losing -= 1
            raise errors.OperationalError("the answer was lost")
        return reply


class TestAnswersThatNeverCome:
    @pytest.mark.case("F1")
    def test_a_claim_that_was_never_heard_of_comes_again(
        self, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        consumer = consume(broker)
        broker.publish(made(5))
        line = LosesReplies(consumer, monkeypatch)
        for _ in range(2):
            line.losing = 1
            with pytest.raises(errors.OperationalError):
                consumer.fetch(3, AMPLE, 0)
        taken = consumer.fetch(10, AMPLE, 5)
        assert numbers(taken) == [0, 1, 2, 3, 4]
        assert [*consumer.settle(ack(taken))] == [Settled.DONE] * 5

    def test_what_was_heard_of_before_stays_claimed(self, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        consumer = consume(broker)
        broker.publish(made(5))
        known = consumer.fetch(2, AMPLE, 5)
        line = LosesReplies(consumer, monkeypatch)
        line.losing = 1
        with pytest.raises(errors.OperationalError):
            consumer.fetch(2, AMPLE, 0)
        again = consumer.fetch(10, AMPLE, 5)
        assert numbers(again) == [2, 3, 4]
        assert [*consumer.settle(ack([*known, *again]))] == [Settled.DONE] * 5

    def test_a_claim_that_comes_late_takes_nothing(self, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        # The first call lay in a dead connection's buffer, and is carried out after the one that gave it up.
        consumer = consume(broker)
        calls: list[tuple[Any, ...]] = []
        run = consumer.owner.run

        def hold(*args: Any, **options: Any) -> Any:
            calls.append(args)
            raise errors.OperationalError("no answer")

        monkeypatch.setattr(consumer.owner, "run", hold)
        with pytest.raises(errors.OperationalError):
            consumer.fetch(3, AMPLE, 0)
        monkeypatch.setattr(consumer.owner, "run", run)
        assert not consumer.fetch(3, AMPLE, 0)
        broker.publish(made(3))
        assert run(*calls[0])[5:] == []
        assert numbers(consumer.fetch(10, AMPLE, 5)) == [0, 1, 2]

    @pytest.mark.parametrize("verdict", [Verdict.ACK, Verdict.DEAD])
    def test_a_settlement_whose_answer_was_lost_is_done(
        self, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
    ) -> None:
        consumer = consume(broker)
        broker.publish(made(2))
        ends = [Settlement(delivery, verdict) for delivery in consumer.fetch(2, AMPLE, 5)]
        line = LosesReplies(consumer, monkeypatch)
        line.losing = 1
        with pytest.raises(errors.OperationalError):
            consumer.settle(ends)
        assert [*consumer.settle(ends)] == [Settled.DONE] * 2
        assert [*consumer.settle(ends)] == [Settled.STALE] * 2
        assert len(broker.dead_letters("q")) == (2 if verdict is Verdict.DEAD else 0)


class TestServersThatForgetOrDie:
    @pytest.mark.case("R1")
    def test_everything_is_flushed_while_running(self, broker: RedisBroker, client: Any) -> None:
        consumer = consume(broker)
        broker.publish(made(3))
        ours = consumer.fetch(2, AMPLE, 5)
        client.flushall()
        assert [*consumer.settle(ack(ours))] == [Settled.DONE] * 2
        broker.publish(made(4))
        taken = drain(consumer, 4)
        assert numbers(taken) == [0, 1, 2, 3]
        assert [*consumer.settle(ack(taken))] == [Settled.DONE] * 4
        assert consumer.renew() is True
        assert broker.stats()[0].consumers == 1

    @pytest.mark.case("R5", "F12")
    def test_scripts_are_flushed_and_connections_cut_all_the_time(self, broker: RedisBroker, client: Any) -> None:
        consumer = consume(broker)
        stop = threading.Event()

        def disturb() -> None:
            while not stop.wait(0.03):
                client.script_flush()
                for kind in ("normal", "pubsub"):
                    client.client_kill_filter(skipme=True, _type=kind)

        disturber = threading.Thread(target=disturb)
        disturber.start()
        stored: set[int] = set()
        got: set[int] = set()
        deadline = time.monotonic() + 30
        batch = made(100)
        try:
            while got != set(range(100)) and time.monotonic() < deadline:
                try:
                    missing = [item for n, item in enumerate(batch) if n not in stored][:5]
                    outcomes = broker.publish(missing)
                    # What is unknown is sent again, and may then come twice.
                    for item, outcome in zip(missing, outcomes, strict=True):
                        if outcome.state is PublishState.STORED:
                            stored.add(item.message.headers["n"])
                    taken = consumer.fetch(10, AMPLE, 0)
                    settle(consumer, taken, deadline)
                    got.update(numbers(taken))
                except errors.OperationalError:
                    continue
        finally:
            stop.set()
            disturber.join(10)
        assert got == set(range(100))
        assert client.llen("q") == 0
        assert client.hlen(f"kernel:{{q}}:held:{consumer.owner.id}") == 0

    @pytest.mark.case("R2")
    def test_a_killed_server_that_syncs_always_has_it_all(self) -> None:
        with redis_server(fsync="always") as server:
            broker = RedisBroker(BrokerConfig(url=server.url))
            broker.open()
            broker.publish(made(50))
            consumer = consume(broker)
            held = consumer.fetch(10, AMPLE, 5)
            consumer.settle(ack(held[:5]))
            consumer.settle([Settlement(held[5], Verdict.DEAD, reason="kit")])
            server.kill()
            with pytest.raises(errors.OperationalError):
                broker.publish(made(1))
            server.start()
            assert [*consumer.settle(ack(held[6:8]))] == [Settled.DONE] * 2
            assert sorted(numbers(drain(consumer, 40))) == [*range(10, 50)]
            assert len(broker.dead_letters("q")) == 1
            heir = consume(broker)
            consumer.close()
            assert len(drain(heir, 42)) == 42
            broker.close()

    @pytest.mark.case("P4")
    def test_a_full_server_refuses_messages_and_lets_them_be_settled(self) -> None:
        with redis_server("--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as server:
            broker = RedisBroker(BrokerConfig(url=server.url))
            broker.open()
            message = Message({"id": "x", "task": "t", "n": 0}, b"x" * 300_000, content_type="application/json")
            stored = 0
            why = ""
            while not why and stored < 100:
                try:
                    stored += broker.publish([Publication(message, "q")])[0].state is PublishState.STORED
                except errors.OperationalError as exc:
                    why = str(exc)
            assert "no memory left" in why
            assert 5 < stored < 100
            client = redis.Redis.from_url(server.url)
            client.config_set("maxmemory", "64mb")
            consumer = consume(broker)
            client.config_set("maxmemory", "1mb")
            taken = consumer.fetch(100, AMPLE, 0)
            assert len(taken) == stored
            assert [*consumer.settle(ack(taken))] == [Settled.DONE] * stored
            client.close()
            broker.close()


class TestWhatWaitingCosts:
    def test_an_idle_consumer_of_many_queues_asks_about_once_a_second(self, broker: RedisBroker, client: Any) -> None:
        consumer = consume(broker, *(f"q{n}" for n in range(60)))
        scripts = calls(client)
        since = time.monotonic()
        assert not consumer.fetch(1, AMPLE, 3)
        assert calls(client) - scripts <= 2 * (time.monotonic() - since) + 1

    def test_it_is_woken_on_any_queue_and_step(self, broker: RedisBroker) -> None:
        names = [f"q{n}" for n in range(20)]
        consumer = consume(broker, *names)
        for number, name in enumerate(names):
            found: list[Delivery] = []
            waiting = threading.Thread(target=lambda into=found: into.extend(consumer.fetch(1, AMPLE, 20)))
            waiting.start()
            time.sleep(0.02)
            broker.publish(made(1, name, priority=number % 10))
            waiting.join(20)
            assert [delivery.queue for delivery in found] == [name]

    def test_what_was_remembered_of_messages_that_others_took_goes(self, broker: RedisBroker, client: Any) -> None:
        consumer = consume(broker)
        broker.publish(made(3))
        back = consumer.fetch(3, AMPLE, 5)
        consumer.settle([Settlement(delivery, Verdict.REQUEUE, charged=True) for delivery in back])
        assert client.hlen("kernel:{q}:seen") == 3
        client.rpop("q")
        taken = consumer.fetch(3, AMPLE, 5)
        assert [(delivery.seen, delivery.starts) for delivery in taken] == [(True, 1)] * 2
        consumer.settle(ack(taken))
        consumer.fetch(1, AMPLE, 0)
        consumer.close()
        assert sorted(client.keys("kernel:*")) == [b"kernel:epoch", b"kernel:queues"]


def settle(consumer: RedisConsumer, taken: Sequence[Delivery], deadline: float) -> None:
    while time.monotonic() < deadline:
        try:
            assert [*consumer.settle(ack(taken))] == [Settled.DONE] * len(taken)
        except errors.OperationalError:
            continue
        return


def calls(client: Any) -> int:
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))
