"""Broker cases: what is stored, in which order it comes out, and when."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from kernel import errors
from kernel.interfaces.broker import Broker, PublishState, QueueSpec
from kernel.message import Message, Publication
from kernel.testing.conformance.broker_kit import AMPLE, BrokerKit, ack, made, make_message, numbers

MEBIBYTE = 1 << 20


class PublishCases(BrokerKit):
    def test_publish_answers_for_each(self, broker: Broker, queue: str) -> None:
        outcomes = broker.publish(made(queue, 25))
        assert [outcome.state for outcome in outcomes] == [PublishState.STORED] * 25
        assert numbers(self.gather(self.consume(broker, queue), 25)) == [*range(25)]

    def test_a_batch_is_there_wholly_or_not_at_all(self, broker: Broker, queue: str, other: str) -> None:
        self.needs(broker, "atomic_batches")
        count, rounds, over = 1500, 3, threading.Event()

        def look() -> set[int]:
            found: set[int] = set()
            while not over.is_set():
                # Each by itself: a broker need not count two queues at one moment.
                found.update(stats.ready for stats in broker.stats([queue, other]))
            return found

        looking = self.in_thread(look)
        try:
            for _ in range(rounds):
                pairs = zip(made(queue, count), made(other, count), strict=True)
                broker.publish([item for pair in pairs for item in pair])
        finally:
            over.set()
        assert looking.result() <= {count * done for done in range(rounds + 1)}
        assert [stats.ready for stats in broker.stats([queue, other])] == [count * rounds] * 2

    def test_empty_batches_are_nothing(self, broker: Broker, queue: str) -> None:
        consumer = self.consume(broker, queue)
        assert [*broker.publish([])] == []
        assert [*consumer.settle([])] == []
        assert [*consumer.start([])] == []

    def test_a_message_comes_back_as_it_was(self, broker: Broker, queue: str) -> None:
        sent = Message(
            {"id": "id-1", "task": "kit.task", "nested": {"list": [], "none": None, "text": "žluť ☃ \u0000"}},
            bytes(range(256)),
            content_type="application/x-kit",
            content_encoding="binary",
            properties={"correlation_id": "id-1", "reply_to": "somewhere"},
        )
        broker.publish([Publication(sent, queue)])
        got = self.one(self.consume(broker, queue)).message
        assert got.headers == sent.headers
        assert got.body == sent.body
        assert (got.content_type, got.content_encoding) == ("application/x-kit", "binary")
        assert {name: got.properties.get(name) for name in sent.properties} == sent.properties

    def test_numbers_and_empty_lists_survive(self, broker: Broker, queue: str) -> None:
        # A store that decodes and encodes JSON on the way rounds the first two and turns [] into {}.
        headers: dict[str, Any] = {"big": 2**53 + 1, "huge": 10**30, "small": 1e-300, "empty": [], "object": {}}
        broker.publish([Publication(make_message(**headers), queue)])
        got = self.one(self.consume(broker, queue)).message.headers
        assert {name: got[name] for name in headers} == headers

    def test_unreadable_headers_are_refused_or_kept_as_they_are(self, broker: Broker, queue: str) -> None:
        odd = Message(b"\xff not json", b"body", content_type="application/json")
        outcome, good = broker.publish([Publication(odd, queue), Publication(make_message(), queue)])
        assert good.state is PublishState.STORED
        consumer = self.consume(broker, queue)
        if outcome.state is PublishState.REFUSED:
            assert outcome.reason
            assert len(self.gather(consumer, 1)) == 1
        else:
            first, _ = self.gather(consumer, 2)
            assert first.message.raw_headers == b"\xff not json"
            assert first.message.body == b"body"

    def test_names_may_be_any_text(self, broker: Broker) -> None:
        for prefix in ("žluťoučký ☃", 'it\'s; DROP TABLE "x" --', "a.b/c:d*e", "UPPER lower"):
            queue = self.new_queue(broker, prefix)
            broker.publish([Publication(make_message(id=f"{prefix}-id"), queue)])
            delivery = self.one(self.consume(broker, queue))
            assert (delivery.queue, delivery.message.id) == (queue, f"{prefix}-id")

    def test_queues_are_apart(self, broker: Broker, queue: str, other: str) -> None:
        broker.publish([*made(queue, 1), *made(other, 2)])
        assert len(self.gather(self.consume(broker, other), 2)) == 2
        assert len(self.gather(self.consume(broker, queue), 1)) == 1

    def test_declaring_again_changes_nothing(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 3))
        broker.declare([QueueSpec(queue)])
        assert len(self.gather(self.consume(broker, queue), 3)) == 3

    def test_an_id_published_twice_is_never_less_than_once(self, broker: Broker, queue: str) -> None:
        # Whoever does not know whether a message was stored sends it again under the same id.
        item = Publication(make_message(), queue)
        broker.publish([item])
        broker.publish([item])
        consumer = self.consume(broker, queue)
        taken = self.gather(consumer, 1)
        taken += consumer.fetch(10, AMPLE, 0.1)
        assert 1 <= len(taken) <= 2
        assert all(outcome.name == "DONE" for outcome in consumer.settle(ack(taken)))
        assert self.nothing(consumer)

    def test_a_large_body_comes_back(self, broker: Broker, queue: str) -> None:
        limit = broker.capabilities.max_bytes
        body = bytes(range(256)) * (min(MEBIBYTE, (limit or AMPLE) // 2) // 256)
        broker.publish([Publication(make_message(body), queue)])
        assert self.one(self.consume(broker, queue)).message.body == body

    def test_what_is_too_large_is_refused_alone(self, broker: Broker, queue: str) -> None:
        limit = broker.capabilities.max_bytes
        if limit is None or limit > 64 * MEBIBYTE:
            pytest.skip("this broker has no limit that a test could reach")
        batch = made(queue, 3)
        batch[1] = Publication(make_message(b"x" * (limit + 1)), queue)
        states = [outcome.state for outcome in broker.publish(batch)]
        assert states == [PublishState.STORED, PublishState.REFUSED, PublishState.STORED]
        assert numbers(self.gather(self.consume(broker, queue), 2)) == [0, 2]


class OrderCases(BrokerKit):
    def test_oldest_first(self, broker: Broker, queue: str) -> None:
        for item in made(queue, 30):
            broker.publish([item])
        assert numbers(self.gather(self.consume(broker, queue), 30, at_once=7)) == [*range(30)]

    def test_higher_priority_first_then_oldest(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "priorities")
        self.lacks(broker, "low_first")
        levels = [0, 9, 5, 255, 9, 0]
        broker.publish([Publication(make_message(n=n), queue, priority=level) for n, level in enumerate(levels)])
        assert numbers(self.gather(self.consume(broker, queue), 6)) == [3, 1, 4, 2, 0, 5]

    def test_lower_priority_first_where_it_is_so_declared(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "low_first")
        levels = [9, 0, 4, 9, 0]
        broker.publish([Publication(make_message(n=n), queue, priority=level) for n, level in enumerate(levels)])
        assert numbers(self.gather(self.consume(broker, queue), 5)) == [1, 4, 2, 0, 3]

    def test_without_priorities_a_priority_does_no_harm(self, broker: Broker, queue: str) -> None:
        self.lacks(broker, "priorities")
        broker.publish([Publication(make_message(n=0), queue, priority=9)])
        assert numbers(self.gather(self.consume(broker, queue), 1)) == [0]

    def test_a_long_queue_starves_no_other(self, broker: Broker, queue: str, other: str) -> None:
        broker.publish(made(queue, 200))
        broker.publish(made(other, 5))
        consumer = self.consume(broker, queue, other)
        first = self.gather(consumer, 40, at_once=10)
        assert sum(delivery.queue == other for delivery in first) == 5

    def test_queues_take_turns_one_by_one(self, broker: Broker, queue: str, other: str) -> None:
        broker.publish(made(queue, 50))
        broker.publish(made(other, 5))
        consumer = self.consume(broker, queue, other)
        first = self.gather(consumer, 20, at_once=1)
        assert sum(delivery.queue == other for delivery in first) == 5

    def test_a_fetch_takes_no_more_than_its_limit(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 10))
        consumer = self.consume(broker, queue)
        assert 1 <= len(consumer.fetch(3, AMPLE, self.patience)) <= 3

    def test_a_fetch_takes_no_more_bytes_than_asked(self, broker: Broker, queue: str) -> None:
        broker.publish([Publication(make_message(b"x" * 10_000, n=n), queue) for n in range(4)])
        consumer = self.consume(broker, queue)
        taken = consumer.fetch(10, 25_000, self.patience)
        assert 1 <= len(taken) <= 2
        # A message larger than all the credit there is must not stay for ever.
        assert len(consumer.fetch(10, 10, self.patience)) == 1


class DelayCases(BrokerKit):
    def test_never_early_and_not_much_later(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "delays")
        due = time.time() + 0.7
        broker.publish([Publication(make_message(), queue, due=due)])
        consumer = self.consume(broker, queue)
        assert self.nothing(consumer)
        self.pass_time(0.2)
        # One wait for all of it: the broker ends the wait when the message comes due.
        taken = consumer.fetch(1, AMPLE, self.patience)
        assert len(taken) == 1
        # Clocks of a server on this host may be rounded to milliseconds.
        assert due - 0.002 <= time.time() <= due + self.patience / 2

    def test_a_time_in_the_past_is_now(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "delays")
        broker.publish([Publication(make_message(), queue, due=time.time() - 3600)])
        assert len(self.gather(self.consume(broker, queue), 1)) == 1

    def test_a_delayed_message_holds_up_nobody(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "delays")
        broker.publish([Publication(make_message(n=0), queue, due=time.time() + 3600, priority=9)])
        broker.publish([Publication(make_message(n=1), queue)])
        consumer = self.consume(broker, queue)
        assert numbers(self.gather(consumer, 1)) == [1]
        assert self.nothing(consumer)

    def test_delayed_messages_come_in_the_order_of_their_time(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "delays")
        now = time.time()
        delays = (0.9, 0.3, 0.6)
        broker.publish([Publication(make_message(n=n), queue, due=now + delay) for n, delay in enumerate(delays)])
        consumer = self.consume(broker, queue)
        assert numbers(self.gather(consumer, 3, at_once=1)) == [1, 2, 0]

    def test_without_delays_a_due_time_is_refused(self, broker: Broker, queue: str) -> None:
        self.lacks(broker, "delays")
        item = Publication(make_message(), queue, due=time.time() + 3600)
        try:
            outcome = broker.publish([item])[0]
        except (NotImplementedError, errors.KernelError) as exc:
            assert str(exc)
        else:
            assert outcome.state is PublishState.REFUSED
            assert outcome.reason
