"""Broker cases: ends that are settled where the task ran, and rows of tasks that run under one claim."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kernel.interfaces.backend import Backend, Record
from kernel.interfaces.broker import Broker, Consumer, Delivery, Settled, Settlement, Verdict
from kernel.interfaces.shortcut import Advanced, Lender, Shortcut, Shortcuts
from kernel.message import Publication
from kernel.testing.conformance.broker_kit import BrokerKit, ack, made, numbers, ready

DONE, STALE = Settled.DONE, Settled.STALE


class Sides:
    """A consumer of one queue, and the shortcut of another process to what it has claimed."""

    def __init__(self, consumer: Consumer, shortcut: Shortcut, backend: Backend) -> None:
        self.consumer = consumer
        self.lender = cast("Lender", consumer)
        self.shortcut = shortcut
        self.backend = backend

    def end(self, delivery: Delivery, *published: Publication) -> Settlement:
        """Its end, with a record, as the process knows it that the engine gave it to."""
        handed = Delivery(delivery.message, delivery.queue, delivery.token, key=self.lender.lend(delivery))
        record = Record(id=delivery.message.id, state="SUCCESS", result=b"1", date_done=1.5e9)
        return Settlement(handed, Verdict.ACK, records=ready(self.backend, record), publications=published)

    def finish(self, delivery: Delivery, *published: Publication) -> Settled:
        return self.shortcut.finish(self.end(delivery, *published))

    def advance(self, delivery: Delivery, following: Publication, *, moves: bool = False) -> Advanced:
        return self.shortcut.advance(self.end(delivery), following, moves=moves)

    def advanced(self, delivery: Delivery, following: Publication, *, moves: bool = False) -> Delivery:
        """What runs next, under the same claim."""
        assert self.advance(delivery, following, moves=moves) is Advanced.DONE
        found = Delivery(following.message, delivery.queue, delivery.token, key=delivery.key)
        found.advanced = True
        return found

    def ended(self, delivery: Delivery) -> bool:
        """Whether its record is stored."""
        self.backend.open()
        (record,) = self.backend.load([delivery.message.id])
        return record is not None and record.state == "SUCCESS"


class ShortcutCases(BrokerKit):
    @pytest.fixture
    def sides(self, broker: Broker, twin: Broker, backend: Backend, queue: str) -> Sides:
        self.needs(broker, "shortcuts")
        assert isinstance(twin, Shortcuts)
        consumer = self.consume(broker, queue)
        assert isinstance(consumer, Lender), "the consumer of a broker with shortcuts lends"
        return Sides(consumer, twin.shortcut([queue]), backend)

    def first(self, broker: Broker, sides: Sides, queue: str) -> Delivery:
        """A claimed message, and nothing else in the queue."""
        broker.publish(made(queue, 1))
        return self.one(sides.consumer)

    def test_an_end_is_settled_with_all_that_belongs_to_it(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery = self.first(broker, sides, queue)
        assert sides.finish(delivery, *made(queue, 3)) is DONE
        assert sides.ended(delivery)
        sides.lender.finished(delivery)
        assert [*sides.consumer.settle(ack([delivery]))] == [STALE]
        taken = self.gather(sides.consumer, 3)
        assert numbers(taken) == [0, 1, 2]
        assert [*sides.consumer.settle(ack(taken))] == [DONE] * 3
        assert self.drained(broker, queue)

    def test_what_follows_runs_under_the_same_claim(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery = self.first(broker, sides, queue)
        for _ in range(5):
            following = sides.advanced(delivery, made(queue, 1)[0])
            assert sides.ended(delivery)
            assert self.nothing(sides.consumer), "it lies in no queue"
            delivery = following
        assert sides.finish(delivery, *made(queue, 1)) is DONE
        sides.lender.finished(delivery)
        last = self.one(sides.consumer)
        assert [*sides.consumer.settle(ack([last]))] == [DONE]
        assert self.drained(broker, queue)

    def test_the_consumer_may_settle_what_was_gone_on_with(self, broker: Broker, sides: Sides, queue: str) -> None:
        following = sides.advanced(self.first(broker, sides, queue), made(queue, 1)[0])
        end = sides.end(following, *made(queue, 1))
        end.delivery = following
        assert [*sides.consumer.settle([end])] == [DONE]
        assert sides.ended(following)
        assert [*sides.consumer.settle(ack([self.one(sides.consumer)]))] == [DONE]
        assert self.drained(broker, queue)

    def test_what_goes_back_is_what_was_gone_on_with(self, broker: Broker, sides: Sides, queue: str) -> None:
        (item,) = made(queue, 1)
        following = sides.advanced(self.first(broker, sides, queue), item)
        assert [*sides.consumer.settle([Settlement(following, Verdict.REQUEUE, charged=True)])] == [DONE]
        again = self.one(sides.consumer)
        assert (again.message.id, again.message.body) == (item.message.id, item.message.body)
        assert (again.message.headers, again.seen, again.starts) == (item.message.headers, True, 1)

    def test_what_is_kept_as_a_dead_letter_is_what_was_gone_on_with(
        self, broker: Broker, sides: Sides, queue: str
    ) -> None:
        self.needs(broker, "dead_letters")
        (item,) = made(queue, 1)
        following = sides.advanced(self.first(broker, sides, queue), item)
        assert [*sides.consumer.settle([Settlement(following, Verdict.DEAD, reason="why")])] == [DONE]
        (letter,) = broker.dead_letters(queue)
        assert (letter.message.id, letter.message.body) == (item.message.id, item.message.body)

    def test_whoever_gets_a_row_again_gets_its_first_message(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery = self.first(broker, sides, queue)
        following = sides.advanced(delivery, made(queue, 1)[0])
        sides.consumer.close()
        again = self.one(self.consume(broker, queue))
        assert (again.message.id, again.seen) == (delivery.message.id, True)
        assert sides.finish(following) is STALE
        assert sides.advance(following, made(queue, 1)[0]) is Advanced.STALE
        assert not sides.ended(following), "he has lost it"

    def test_a_claim_may_be_made_that_of_what_follows(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, following = self.first(broker, sides, queue), made(queue, 1)[0]
        moved = sides.advanced(delivery, following, moves=True)
        assert sides.ended(delivery)
        assert self.nothing(sides.consumer), "it lies in no queue"
        last = sides.advanced(moved, made(queue, 1)[0])
        sides.consumer.close()
        again = self.one(self.consume(broker, queue))
        assert (again.message.id, again.message.body, again.seen) == (moved.message.id, following.message.body, True)
        assert again.starts == 0
        assert sides.finish(last) is STALE

    def test_what_is_to_be_done_meanwhile_is_done_once_at_most(self, broker: Broker, sides: Sides, queue: str) -> None:
        times: list[int] = []
        delivery, (waiting, following) = self.first(broker, sides, queue), made(queue, 2)

        def advance() -> Advanced:
            return sides.shortcut.advance(sides.end(delivery), following, meanwhile=lambda: times.append(1))

        assert advance() is Advanced.DONE
        assert len(times) <= 1
        broker.publish([waiting])
        assert advance() is Advanced.WAITED_FOR
        assert len(times) <= 2

    def test_nobody_goes_on_while_something_else_waits(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery = self.first(broker, sides, queue)
        waiting, following = made(queue, 2)
        broker.publish([waiting])
        assert sides.advance(delivery, following) is Advanced.WAITED_FOR
        assert not sides.ended(delivery), "nothing was done"
        assert sides.finish(delivery, following) is DONE
        taken = self.gather(sides.consumer, 2)
        assert [each.message.id for each in taken] == [waiting.message.id, following.message.id]

    def test_nobody_goes_on_in_a_queue_that_is_paused(self, broker: Broker, sides: Sides, queue: str) -> None:
        self.needs(broker, "pause")
        delivery = self.first(broker, sides, queue)
        broker.pause(queue)
        assert sides.advance(delivery, made(queue, 1)[0]) is Advanced.WAITED_FOR

    @pytest.mark.parametrize("why", ["queue", "due", "expires", "redelivered"])
    def test_nobody_goes_on_with_what_is_not_simply_next(
        self, broker: Broker, sides: Sides, queue: str, other: str, why: str
    ) -> None:
        delivery = self.first(broker, sides, queue)
        (item,) = made(other if why == "queue" else queue, 1)
        if why == "due":
            item.due = 4e9
        values: dict[str, Any] = {"expires": "2100-01-01T00:00:00+00:00", "redelivered": True}
        if why in values:
            item.message.headers[why] = values[why]
        assert sides.advance(delivery, item) is Advanced.WAITED_FOR
        assert not sides.ended(delivery)

    def test_what_is_not_held_any_more_is_stale(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery = self.first(broker, sides, queue)
        assert [*sides.consumer.settle(ack([delivery]))] == [DONE]
        assert sides.finish(delivery, *made(queue, 1)) is STALE
        assert sides.advance(delivery, made(queue, 1)[0]) is Advanced.STALE
        assert not sides.ended(delivery)
        assert self.drained(broker, queue), "nothing was published"

    def drained(self, broker: Broker, queue: str) -> bool:
        (stats,) = broker.stats([queue])
        return self.nothing(self.consume(broker, queue)) and not (stats.ready or stats.claimed or stats.delayed)
