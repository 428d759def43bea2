"""Broker cases: waiting for messages, owning them, and losing them."""

from __future__ import annotations

import time

import pytest

from kernel.interfaces.broker import Broker, Settled, Settlement, Verdict
from kernel.message import Publication
from kernel.testing.conformance.broker_kit import AMPLE, BrokerKit, ack, made, make_message, numbers


class ClaimCases(BrokerKit):
    def test_an_empty_queue_gives_nothing_in_time(self, broker: Broker, queue: str) -> None:
        consumer = self.consume(broker, queue)
        assert self.in_thread(lambda: [*consumer.fetch(1, AMPLE, 0)]).result() == []
        assert self.in_thread(lambda: [*consumer.fetch(1, AMPLE, 0.2)]).result() == []

    def test_publishing_ends_a_wait(self, broker: Broker, queue: str) -> None:
        consumer = self.consume(broker, queue)
        waiting = self.in_thread(lambda: consumer.fetch(5, AMPLE, 60))
        time.sleep(0.2)
        broker.publish(made(queue, 1))
        assert numbers(waiting.result()) == [0]

    def test_another_process_publishing_ends_a_wait(self, broker: Broker, twin: Broker, queue: str) -> None:
        consumer = self.consume(broker, queue)
        waiting = self.in_thread(lambda: consumer.fetch(5, AMPLE, 60))
        time.sleep(0.2)
        twin.publish(made(queue, 1))
        assert numbers(waiting.result()) == [0]

    def test_giving_back_ends_the_wait_of_another(self, broker: Broker, queue: str) -> None:
        holder, consumer = self.consume(broker, queue), self.consume(broker, queue)
        broker.publish(made(queue, 1))
        self.one(holder)
        waiting = self.in_thread(lambda: consumer.fetch(5, AMPLE, 60))
        time.sleep(0.2)
        holder.close()
        assert numbers(waiting.result()) == [0]

    def test_wake_ends_a_wait(self, broker: Broker, queue: str) -> None:
        consumer = self.consume(broker, queue)
        waiting = self.in_thread(lambda: [*consumer.fetch(5, AMPLE, 60)])
        time.sleep(0.2)
        consumer.wake()
        assert waiting.result() == []

    def test_wake_before_a_wait_ends_that_one(self, broker: Broker, queue: str) -> None:
        consumer = self.consume(broker, queue)
        consumer.wake()
        assert self.in_thread(lambda: [*consumer.fetch(5, AMPLE, 60)]).result() == []

    def test_a_claimed_message_is_nobody_elses(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 2))
        first, second = self.consume(broker, queue), self.consume(broker, queue)
        assert {*numbers(self.gather(first, 1)), *numbers(self.gather(second, 1))} == {0, 1}
        assert self.nothing(first)
        assert self.nothing(second)

    def test_each_claim_has_a_token_of_its_own(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 3))
        consumer = self.consume(broker, queue)
        tokens = [delivery.token for delivery in self.gather(consumer, 3)]
        consumer.close()
        again = self.gather(self.consume(broker, queue), 3)
        tokens += [delivery.token for delivery in again]
        assert len(set(tokens)) == 6
        assert all(isinstance(token, str) and token for token in tokens)

    def test_the_first_claim_is_unseen_and_uncharged(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        delivery = self.one(self.consume(broker, queue))
        assert (delivery.seen, delivery.starts, delivery.queue) == (False, 0, queue)
        assert delivery.size >= len(delivery.message.body)

    def test_a_recorded_start_counts_when_its_owner_dies(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        for starts in range(3):
            since = time.monotonic()
            consumer = self.consume(broker, queue, lease=self.short_lease)
            delivery = self.one(consumer)
            assert (delivery.starts, delivery.seen) == (starts, starts > 0)
            if [*consumer.start([delivery])] != [Settled.DONE]:
                assert not self.in_time(since), "a start within the lease is recorded"
                pytest.skip("this machine stood still for longer than the lease")
            self.pass_time(self.short_lease * 1.2)

    def test_messages_at_the_delivery_limit_are_handed_out_too(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue, limit=2)
        for starts in range(4):
            delivery = self.one(consumer)
            assert delivery.starts == starts
            self.give_up(consumer, delivery, charged=True)


class LeaseCases(BrokerKit):
    def test_an_expired_lease_is_taken_over_seen_and_uncharged(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 2))
        since = time.monotonic()
        dead = self.consume(broker, queue, lease=self.short_lease)
        lost = self.gather(dead, 2)
        taker = self.consume(broker, queue)
        early = taker.fetch(2, AMPLE, 0)
        if self.in_time(since):
            assert not early
        taken = [*early, *self.gather(taker, 2 - len(early))]
        assert sorted(numbers(taken)) == [0, 1]
        assert [(delivery.seen, delivery.starts) for delivery in taken] == [(True, 0)] * 2
        assert not {delivery.token for delivery in lost} & {delivery.token for delivery in taken}

    def test_a_stale_owner_settles_nothing(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 3))
        frozen = self.consume(broker, queue, lease=self.short_lease)
        lost = self.gather(frozen, 3)
        self.pass_time(self.short_lease * 1.2)
        taker = self.consume(broker, queue)
        taken = self.gather(taker, 3)
        assert [*frozen.start(lost)] == [Settled.STALE] * 3
        verdicts = (Verdict.ACK, Verdict.REQUEUE, Verdict.DEAD)
        late = [Settlement(delivery, verdict) for delivery, verdict in zip(lost, verdicts, strict=True)]
        assert [*frozen.settle(late)] == [Settled.STALE] * 3
        assert self.nothing(self.consume(broker, queue))
        assert [*taker.settle(ack(taken))] == [Settled.DONE] * 3
        if broker.capabilities.dead_letters:
            assert [*broker.dead_letters(queue)] == []

    def test_after_a_stale_settlement_the_next_owner_may_die_too(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        frozen = self.consume(broker, queue, lease=self.short_lease)
        lost = self.gather(frozen, 1)
        self.pass_time(self.short_lease * 1.2)
        taker = self.consume(broker, queue, lease=self.short_lease)
        self.one(taker)
        assert [*frozen.settle(ack(lost))] == [Settled.STALE]
        self.pass_time(self.short_lease * 1.2)
        assert self.one(self.consume(broker, queue)).seen

    def test_stale_and_valid_ends_in_one_batch(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 2))
        consumer = self.consume(broker, queue)
        first, second = self.gather(consumer, 2)
        assert [*consumer.settle(ack([first]))] == [Settled.DONE]
        assert [*consumer.settle(ack([first, second]))] == [Settled.STALE, Settled.DONE]
        assert self.nothing(consumer)

    def test_renewal_keeps_what_is_claimed(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        owner, other = self.consume(broker, queue, lease=self.short_lease), self.consume(broker, queue)
        delivery = self.one(owner)
        for _ in range(8):
            since = time.monotonic()
            self.pass_time(self.short_lease / 4)
            if not owner.renew():
                assert not self.in_time(since), "a lease that is renewed in time runs on"
                pytest.skip("this machine stood still for longer than the lease")
        assert self.nothing(other)
        assert [*owner.settle(ack([delivery]))] == [Settled.DONE]

    def test_renewal_tells_that_the_lease_had_run_out(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 2))
        owner, taker = self.consume(broker, queue, lease=self.short_lease), self.consume(broker, queue)
        lost = self.gather(owner, 1)
        self.pass_time(self.short_lease * 1.2)
        taken = self.gather(taker, 2)
        assert owner.renew() is False
        assert [*owner.settle(ack(lost))] == [Settled.STALE]
        taker.close()
        again = self.gather(owner, 2)
        assert sorted(numbers(again)) == sorted(numbers(taken))
        assert owner.renew() is True
        assert [*owner.settle(ack(again))] == [Settled.DONE] * 2

    def test_a_settlement_has_the_worth_of_its_token(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        first = self.one(consumer)
        self.give_up(consumer, first)
        second = self.one(consumer)
        assert [*consumer.settle(ack([first]))] == [Settled.STALE]
        assert [*consumer.settle(ack([second]))] == [Settled.DONE]

    def test_closing_gives_back_at_once_and_uncharged(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 2))
        consumer = self.consume(broker, queue)
        first = self.one(consumer)
        assert [*consumer.start([first])] == [Settled.DONE]
        self.one(consumer)
        consumer.close()
        consumer.close()
        taken = self.gather(self.consume(broker, queue), 2)
        assert sorted(numbers(taken)) == [0, 1]
        assert [(delivery.seen, delivery.starts) for delivery in taken] == [(True, 0)] * 2

    def test_closing_one_consumer_leaves_the_others(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 2))
        first, second = self.consume(broker, queue), self.consume(broker, queue)
        self.one(first)
        kept = self.one(second)
        first.close()
        assert [*second.settle(ack([kept]))] == [Settled.DONE]
        assert len(self.gather(second, 1)) == 1

    def test_mass_death_is_taken_over_in_few_steps(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 200))
        for _ in range(4):
            assert len(self.gather(self.consume(broker, queue, lease=self.short_lease), 50)) == 50
        self.pass_time(self.short_lease * 1.2)
        taken = self.gather(self.consume(broker, queue), 200, at_once=200)
        assert sorted(numbers(taken)) == [*range(200)]

    def test_a_paused_owner_is_no_dead_owner(self, broker: Broker, queue: str) -> None:
        # The claim of a long lease is not touched while shorter ones around it run out.
        broker.publish([Publication(make_message(n=n), queue) for n in range(2)])
        lasting, dying = self.consume(broker, queue, lease=60), self.consume(broker, queue, lease=self.short_lease)
        kept = self.one(lasting)
        lost = self.one(dying)
        self.pass_time(self.short_lease * 1.2)
        assert numbers(self.gather(self.consume(broker, queue), 1)) == numbers([lost])
        assert [*lasting.settle(ack([kept]))] == [Settled.DONE]
