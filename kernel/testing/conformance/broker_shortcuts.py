"""Broker cases: ends that are settled where the task ran, and claims that go with them."""

from __future__ import annotations

from typing import cast

import pytest

from kernel.interfaces.backend import Backend, Record
from kernel.interfaces.broker import Broker, Consumer, Delivery, Settled, Settlement, Verdict
from kernel.interfaces.shortcut import Finished, Lender, Permit, Shortcut, Shortcuts
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

    def lent(self, delivery: Delivery) -> Permit:
        permit = self.lender.lend(delivery)
        assert permit is not None
        return permit

    def finish(self, delivery: Delivery, permit: Permit, *published: Publication, claims: bool = True) -> Finished:
        """End it, with a record, as the process would that knows of the claim what the engine told it."""
        handed = Delivery(delivery.message, delivery.queue, delivery.token)
        record = Record(id=delivery.message.id, state="SUCCESS", result=b"1", date_done=1.5e9)
        records = ready(self.backend, record)
        settlement = Settlement(handed, Verdict.ACK, records=records, publications=published)
        return self.shortcut.finish(settlement, permit, claims=claims)

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

    def first(self, broker: Broker, sides: Sides, queue: str) -> tuple[Delivery, Permit]:
        """A claimed message, and nothing else in the queue."""
        broker.publish(made(queue, 1))
        delivery = self.one(sides.consumer)
        return delivery, sides.lent(delivery)

    def test_an_end_is_settled_and_what_it_publishes_is_claimed(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        (following,) = made(queue, 1)
        finished = sides.finish(delivery, permit, following)
        assert finished.settled is DONE
        assert sides.ended(delivery)
        claimed = finished.following
        assert claimed is not None
        assert (claimed.message.id, claimed.message.body) == (following.message.id, following.message.body)
        assert (claimed.queue, claimed.starts, claimed.seen) == (queue, 0, False)
        assert self.nothing(sides.consumer), "it is claimed"
        told = sides.lender.take_over(delivery, finished.note)
        assert told is not None
        assert (told[0].token, told[1]) == (claimed.token, finished.permit)
        assert [*sides.consumer.settle(ack([told[0]]))] == [DONE]
        assert [*sides.consumer.settle(ack([told[0]]))] == [STALE]
        assert self.drained(broker, queue)

    def test_a_chain_goes_on_under_one_permit(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        for _ in range(20):
            finished = sides.finish(delivery, permit, *made(queue, 1))
            assert finished.following is not None
            assert finished.permit is not None
            told = sides.lender.take_over(delivery, finished.note)
            assert told is not None
            delivery, permit = told
            assert permit == finished.permit
        assert sides.finish(delivery, permit).settled is DONE
        assert sides.lender.take_over(delivery, b"") is None
        sides.lender.hand_in(permit)
        assert self.drained(broker, queue)

    def test_a_permit_comes_to_its_end(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        for _ in range(2000):
            finished = sides.finish(delivery, permit, *made(queue, 1))
            if finished.following is None:
                break
            assert finished.permit is not None
            sides.lender.take_over(delivery, finished.note)
            delivery, permit = finished.following, finished.permit
        else:
            pytest.fail("a permit goes on for ever")
        assert finished.settled is DONE
        assert numbers(self.gather(sides.consumer, 1)) == [0], "the last one waits in its queue"

    def test_nothing_is_claimed_unless_it_is_wanted(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        finished = sides.finish(delivery, permit, *made(queue, 1), claims=False)
        assert (finished.settled, finished.following, finished.note) == (DONE, None, b"")
        assert sides.lender.take_over(delivery, b"") is None
        assert numbers(self.gather(sides.consumer, 1)) == [0]

    def test_nothing_is_claimed_while_something_else_waits(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        waiting, following = made(queue, 2)
        broker.publish([waiting])
        finished = sides.finish(delivery, permit, following)
        assert (finished.settled, finished.following) == (DONE, None)
        taken = self.gather(sides.consumer, 2)
        assert [each.message.id for each in taken] == [waiting.message.id, following.message.id]

    def test_nothing_is_claimed_of_a_queue_that_is_paused(self, broker: Broker, sides: Sides, queue: str) -> None:
        self.needs(broker, "pause")
        delivery, permit = self.first(broker, sides, queue)
        broker.pause(queue)
        assert sides.finish(delivery, permit, *made(queue, 1)).following is None
        assert self.nothing(sides.consumer)
        broker.resume(queue)
        assert numbers(self.gather(sides.consumer, 1)) == [0]

    def test_nothing_is_claimed_of_another_queue(self, broker: Broker, sides: Sides, queue: str, other: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        assert sides.finish(delivery, permit, *made(other, 1)).following is None
        assert numbers(self.gather(self.consume(broker, other), 1)) == [0]

    def test_several_messages_are_published(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        assert sides.finish(delivery, permit, *made(queue, 3)).following is None
        assert numbers(self.gather(sides.consumer, 3)) == [0, 1, 2]

    def test_what_is_not_held_any_more_is_stale(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        assert [*sides.consumer.settle(ack([delivery]))] == [DONE]
        finished = sides.finish(delivery, permit, *made(queue, 1))
        assert (finished.settled, finished.following) == (STALE, None)
        assert not sides.ended(delivery)
        sides.lender.call_in(permit)
        assert self.drained(broker, queue), "nothing was published, and nothing claimed"

    def test_the_consumer_finds_settled_what_was_settled_elsewhere(
        self, broker: Broker, sides: Sides, queue: str
    ) -> None:
        delivery, permit = self.first(broker, sides, queue)
        assert sides.finish(delivery, permit).settled is DONE
        assert [*sides.consumer.settle(ack([delivery]))] == [STALE]

    def test_a_claim_that_nobody_told_of_comes_back(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        (following,) = made(queue, 1)
        assert sides.finish(delivery, permit, following).following is not None
        # Its process died here. The end of what it held is settled first, as after any death.
        assert [*sides.consumer.settle([Settlement(delivery, Verdict.REQUEUE)])] == [STALE]
        sides.lender.call_in(permit)
        again = self.one(sides.consumer)
        assert (again.message.id, again.starts) == (following.message.id, 0)
        assert again.token != delivery.token
        assert [*sides.consumer.settle(ack([again]))] == [DONE]
        assert self.drained(broker, queue)

    def test_a_permit_that_was_not_used_leaves_nothing(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        assert [*sides.consumer.settle([Settlement(delivery, Verdict.REQUEUE)])] == [DONE]
        sides.lender.call_in(permit)
        again = self.one(sides.consumer)
        second = sides.lent(again)
        assert second.following != permit.following, "no number is lent twice"
        assert [*sides.consumer.settle(ack([again]))] == [DONE]
        sides.lender.hand_in(second)
        assert self.drained(broker, queue)

    def test_what_was_claimed_goes_back_with_its_consumer(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, permit = self.first(broker, sides, queue)
        (following,) = made(queue, 1)
        assert sides.finish(delivery, permit, following).following is not None
        sides.consumer.close()
        assert self.one(self.consume(broker, queue)).message.id == following.message.id

    def test_a_note_that_is_none_is_refused(self, broker: Broker, sides: Sides, queue: str) -> None:
        delivery, _ = self.first(broker, sides, queue)
        with pytest.raises(ValueError, match="parts"):
            sides.lender.take_over(delivery, b"no note")

    def drained(self, broker: Broker, queue: str) -> bool:
        (stats,) = broker.stats([queue])
        return self.nothing(self.consume(broker, queue)) and not (stats.ready or stats.claimed or stats.delayed)
