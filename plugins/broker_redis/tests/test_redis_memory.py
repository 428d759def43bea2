"""Servers that know less than their worker: flushed, rolled back to an older state, or answering nonsense."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from kernel_broker_redis import RedisBroker, scripts
from kernel_broker_redis.consumer import RedisConsumer

from kernel import errors
from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Delivery, Settled, Settlement, Verdict
from kernel.message import Message, Publication
from kernel.testing.proxy import ANSWER, Proxy
from kernel.testing.servers import RedisProcess

AMPLE = 1 << 30


def publish(broker: RedisBroker, count: int, **options: Any) -> None:
    body = b'[["\xc3\xa4"], {}, {}]'
    for n in range(count):
        headers = {"id": str(uuid.uuid4()), "task": "t", "n": n}
        broker.publish([Publication(Message(headers, body, content_type="application/json"), "q", **options)])


def consume(broker: RedisBroker, lease: float = 30.0) -> RedisConsumer:
    return broker.consume(["q"], ConsumeOptions(owner="test", lease=lease))


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.message.headers["n"] for delivery in deliveries]


def settle(consumer: RedisConsumer, deliveries: Sequence[Delivery], verdict: Verdict = Verdict.ACK) -> list[Settled]:
    return [*consumer.settle([Settlement(delivery, verdict) for delivery in deliveries])]


def left(broker: RedisBroker) -> tuple[int, int]:
    (stats,) = broker.stats(["q"])
    return stats.ready, stats.claimed


@pytest.mark.case("R1")
class TestFlushed:
    def test_what_is_in_hand_stays_ours(self, broker: RedisBroker, client: Any) -> None:
        """Renewing tells the server again."""
        consumer = consume(broker)
        publish(broker, 4, priority=6)
        taken = consumer.fetch(4, AMPLE, 5)
        client.flushall()
        assert consumer.renew()
        assert left(broker) == (0, 4)
        assert settle(consumer, taken[:2]) == [Settled.DONE] * 2
        assert settle(consumer, taken[2:], Verdict.REQUEUE) == [Settled.DONE] * 2
        again = consumer.fetch(4, AMPLE, 5)
        assert numbers(again) == [2, 3]
        assert [each.message.body for each in again] == [each.message.body for each in taken[2:]]
        assert [each.seen for each in again] == [True, True]

    @pytest.mark.parametrize("verdict", list(Verdict))
    def test_a_settlement_finds_it_out(self, broker: RedisBroker, client: Any, verdict: Verdict) -> None:
        consumer = consume(broker)
        publish(broker, 2)
        taken = consumer.fetch(2, AMPLE, 5)
        client.flushall()
        assert settle(consumer, taken[:1], verdict) == [Settled.DONE]
        assert left(broker) == (1 if verdict is Verdict.REQUEUE else 0, 1)
        assert len(broker.dead_letters("q")) == (verdict is Verdict.DEAD)
        assert consumer.renew()

    def test_a_claim_finds_it_out(self, broker: RedisBroker, client: Any) -> None:
        consumer = consume(broker)
        publish(broker, 3)
        taken = consumer.fetch(3, AMPLE, 5)
        client.flushall()
        publish(broker, 1)
        more = consumer.fetch(1, AMPLE, 5)
        assert consumer.renew()
        assert left(broker) == (0, 4)
        assert settle(consumer, [*taken, *more]) == [Settled.DONE] * 4
        assert left(broker) == (0, 0)

    def test_a_start_finds_it_out(self, broker: RedisBroker, client: Any) -> None:
        consumer = consume(broker)
        publish(broker, 1)
        settle(consumer, consumer.fetch(1, AMPLE, 5), Verdict.REQUEUE)
        taken = consumer.fetch(1, AMPLE, 5)
        client.flushall()
        assert [*consumer.start(taken)] == [Settled.DONE]
        assert settle(consumer, taken) == [Settled.DONE]

    def test_whoever_dies_afterwards_leaves_it_to_others(self, broker: RedisBroker, client: Any) -> None:
        consumer = consume(broker, lease=0.3)
        publish(broker, 2)
        consumer.fetch(2, AMPLE, 5)
        client.flushall()
        assert consumer.renew()
        assert numbers(consume(broker).fetch(2, AMPLE, 5)) == [0, 1]

    def test_a_lease_that_had_run_out_is_lost_all_the_same(self, broker: RedisBroker, client: Any) -> None:
        """Another may have taken it before the server was flushed."""
        consumer = consume(broker, lease=0.1)
        publish(broker, 1)
        taken = consumer.fetch(1, AMPLE, 5)
        time.sleep(0.2)
        other = consume(broker)
        assert numbers(other.fetch(1, AMPLE, 5)) == [0]
        client.flushall()
        assert not consumer.renew()
        assert settle(consumer, taken) == [Settled.STALE]
        assert left(broker) == (0, 0)

    def test_a_takeover_is_no_flush(self, broker: RedisBroker) -> None:
        consumer, other = consume(broker, lease=0.1), consume(broker)
        publish(broker, 1)
        taken = consumer.fetch(1, AMPLE, 5)
        time.sleep(0.2)
        assert numbers(other.fetch(1, AMPLE, 5)) == [0]
        assert settle(consumer, taken) == [Settled.STALE]
        assert consumer.fetch(1, AMPLE, 0) == []
        assert not consumer.renew()
        assert consumer.renew()


@pytest.mark.case("R3")
class TestRolledBack:
    """A replica that had not heard of the last settlements became the primary: its state is put back by hand."""

    @pytest.mark.parametrize("verdict", [Verdict.ACK, Verdict.REQUEUE])
    def test_settlements_are_made_again(self, broker: RedisBroker, client: Any, verdict: Verdict) -> None:
        consumer = consume(broker)
        publish(broker, 3)
        taken = consumer.fetch(3, AMPLE, 5)
        held = next(key for key in client.keys("*held:*"))
        before = client.hgetall(held)
        settle(consumer, taken[:2], verdict)
        client.delete("q")
        client.hset(held, mapping=before)
        client.client_kill_filter(_type="normal", skipme=True)
        found: list[Delivery] = []
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(errors.OperationalError):
                found += consumer.fetch(3, AMPLE, 0.2)
            if left(broker) == (0, 1 + len(found)):
                break
        assert numbers(found) == ([] if verdict is Verdict.ACK else [0, 1])
        assert left(broker) == (0, 1 + len(found))
        assert settle(consumer, [taken[2], *found]) == [Settled.DONE] * (1 + len(found))
        assert left(broker) == (0, 0)


NONSENSE = {
    "a status": b"+OK\r\n",
    "a number": b":7\r\n",
    "nothing": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "a short list": b"*2\r\n:1\r\n:2\r\n",
    "words for numbers": b"*5\r\n+a\r\n+b\r\n+c\r\n+d\r\n+e\r\n",
    "a list that is not there": b"*8\r\n:1\r\n:-1\r\n:0\r\n:1\r\n:1\r\n:99\r\n:-1\r\n+x\r\n",
}


@pytest.mark.case("R6")
@pytest.mark.parametrize("reply", NONSENSE.values(), ids=NONSENSE)
def test_an_answer_of_an_impossible_shape_breaks_the_connection(
    server: RedisProcess, client: Any, reply: bytes
) -> None:
    with Proxy("127.0.0.1", server.port) as proxy:
        broker = RedisBroker(BrokerConfig(url=proxy.url(server.url)))
        broker.open()
        try:
            consumer = consume(broker)
            publish(broker, 2)
            for script, call in (
                (scripts.CLAIM, lambda: consumer.fetch(2, AMPLE, 0)),
                (scripts.RENEW, consumer.renew),
            ):
                trap = proxy.trap(script.sha.encode(), ANSWER, answer=reply)
                with pytest.raises(errors.OperationalError):
                    call()
                assert trap.wait(5)
                proxy.heal()
            taken = consumer.fetch(2, AMPLE, 5)
            assert numbers(taken) == [0, 1]
            trap = proxy.trap(scripts.ACK.sha.encode(), ANSWER, answer=reply)
            with pytest.raises(errors.OperationalError):
                settle(consumer, taken)
            assert trap.wait(5)
            proxy.heal()
            assert settle(consumer, taken) == [Settled.DONE] * 2
            assert left(broker) == (0, 0)
        finally:
            broker.close()
