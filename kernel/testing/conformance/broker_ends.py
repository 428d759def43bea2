"""Broker cases: how claims end, the dead letters, and ends that are one transaction."""

from __future__ import annotations

import time

import pytest

from kernel import errors
from kernel.interfaces.backend import Backend, Record
from kernel.interfaces.broker import Broker, DeadLetter, Settled, Settlement, Verdict
from kernel.message import Message, Publication
from kernel.testing.conformance.broker_kit import AMPLE, BrokerKit, ack, made, make_message, numbers, ready


class SettleCases(BrokerKit):
    def test_an_acknowledged_message_is_gone(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 5))
        consumer = self.consume(broker, queue)
        assert [*consumer.settle(ack(self.gather(consumer, 5)))] == [Settled.DONE] * 5
        consumer.close()
        assert self.nothing(self.consume(broker, queue))
        assert self.raw_depth(broker, queue) in (0, None)

    def test_a_requeued_message_is_in_front_again(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 3))
        consumer = self.consume(broker, queue)
        self.give_up(consumer, self.one(consumer))
        again = self.gather(consumer, 3)
        assert numbers(again) == [0, 1, 2]
        assert [(delivery.seen, delivery.starts) for delivery in again] == [(True, 0), (False, 0), (False, 0)]

    def test_a_requeue_may_wait(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "delays")
        broker.publish(made(queue, 2))
        consumer = self.consume(broker, queue)
        first = self.one(consumer)
        due = time.time() + 0.7
        self.give_up(consumer, first, delay=0.7)
        assert numbers(self.gather(consumer, 1)) == [1]
        if self.nothing(consumer):
            self.pass_time(0.4)
            assert numbers(self.gather(consumer, 1)) == [0]
        # On a busy machine it may have been due by the time that was asked.
        assert time.time() >= due - 0.002

    @pytest.mark.parametrize(("recorded", "charged", "starts"), [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)])
    def test_a_requeue_charges_once_or_not_at_all(
        self, broker: Broker, queue: str, recorded: int, charged: int, starts: int
    ) -> None:
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        delivery = self.one(consumer)
        if recorded:
            assert [*consumer.start([delivery])] == [Settled.DONE]
        self.give_up(consumer, delivery, charged=bool(charged))
        again = self.one(consumer)
        assert (again.starts, again.seen) == (starts, True)

    def test_starts_add_up_over_claims(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        for charged, starts in ((True, 0), (False, 1), (True, 1), (False, 2)):
            delivery = self.one(consumer)
            assert delivery.starts == starts
            assert [*consumer.start([delivery])] == [Settled.DONE]
            self.give_up(consumer, delivery, charged=charged)

    def test_settling_twice_is_stale_and_does_nothing(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        delivery = self.one(consumer)
        assert [*consumer.settle(ack([delivery, delivery]))] == [Settled.DONE, Settled.STALE]
        assert [*consumer.settle([Settlement(delivery, Verdict.REQUEUE)])] == [Settled.STALE]
        assert self.nothing(consumer)

    def test_many_ends_of_all_kinds_in_one_batch(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        broker.publish(made(queue, 90))
        consumer = self.consume(broker, queue)
        verdicts = [Verdict.ACK, Verdict.REQUEUE, Verdict.DEAD]
        taken = self.gather(consumer, 90)
        ends = [Settlement(delivery, verdicts[n % 3], reason="kit") for n, delivery in enumerate(taken)]
        assert [*consumer.settle(ends)] == [Settled.DONE] * 90
        assert numbers(self.gather(consumer, 30)) == [*range(1, 90, 3)]
        assert len(broker.dead_letters(queue)) == 30


class DeadLetterCases(BrokerKit):
    def bury(
        self, broker: Broker, queue: str, message: Message, reason: str = "kit", *, charged: bool = False
    ) -> DeadLetter:
        broker.publish([Publication(message, queue)])
        consumer = self.consume(broker, queue)
        ends = [Settlement(self.one(consumer), Verdict.DEAD, reason=reason, charged=charged)]
        assert [*consumer.settle(ends)] == [Settled.DONE]
        consumer.close()
        return broker.dead_letters(queue, 1)[0]

    def test_a_dead_letter_tells_everything(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        message = make_message(b"body", task="kit.dies")
        letter = self.bury(broker, queue, message, "WorkerLostError: it's dead, žluť", charged=True)
        assert (letter.id, letter.task, letter.queue) == (message.id, "kit.dies", queue)
        assert (letter.reason, letter.starts) == ("WorkerLostError: it's dead, žluť", 1)
        assert abs(letter.died_at - time.time()) < 3600
        assert letter.message == message
        assert self.nothing(self.consume(broker, queue))

    def test_newest_first_up_to_the_limit_and_by_queue(self, broker: Broker, queue: str, other: str) -> None:
        self.needs(broker, "dead_letters")
        ids = [self.bury(broker, queue, make_message()).id for _ in range(3)]
        self.bury(broker, other, make_message())
        assert [letter.id for letter in broker.dead_letters(queue)] == ids[::-1]
        assert [letter.id for letter in broker.dead_letters(queue, 2)] == ids[:0:-1]
        assert {queue, other} <= {letter.queue for letter in broker.dead_letters()}

    def test_a_retried_letter_is_a_new_message(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        message = make_message(b"body", extra="kept")
        for times in (1, 2):
            letter = self.bury(broker, queue, message, charged=True)
            assert broker.retry_dead([letter.id, letter.id]) == 1
            assert [*broker.dead_letters(queue)] == []
            consumer = self.consume(broker, queue)
            delivery = self.one(consumer)
            assert delivery.message.headers == {**message.headers, "kernel_replay": times}
            assert delivery.message.body == b"body"
            assert (delivery.starts, delivery.seen) == (0, False)
            assert [*consumer.settle(ack([delivery]))] == [Settled.DONE]
            message = delivery.message

    def test_retrying_ends_a_wait(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        letter = self.bury(broker, queue, make_message())
        consumer = self.consume(broker, queue)
        waiting = self.in_thread(lambda: consumer.fetch(5, AMPLE, 60))
        time.sleep(0.2)
        broker.retry_dead([letter.id])
        assert len(waiting.result()) == 1

    def test_a_dropped_letter_is_gone(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        first, second = (self.bury(broker, queue, make_message()) for _ in range(2))
        assert broker.drop_dead([first.id]) == 1
        assert broker.drop_dead([first.id]) == 0
        assert [letter.id for letter in broker.dead_letters(queue)] == [second.id]

    def test_ids_that_do_not_exist_are_none(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        kept = self.bury(broker, queue, make_message())
        odd = ["nobody", "", "it's; --", "%", "žluť ☃", "x" * 5000]
        assert broker.retry_dead(odd) == 0
        assert broker.drop_dead(odd) == 0
        assert broker.drop_dead([]) == 0
        assert [letter.id for letter in broker.dead_letters(queue)] == [kept.id]

    def test_two_letters_of_one_task_are_both_kept(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        message = make_message()
        self.bury(broker, queue, message, "first")
        self.bury(broker, queue, message, "second")
        letters = broker.dead_letters(queue)
        assert [letter.reason for letter in letters] == ["second", "first"]
        assert broker.retry_dead([letter.id for letter in letters]) == 2

    def test_a_letter_that_cannot_be_read_is_kept_too(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "dead_letters")
        odd = Message({"neither": "id nor task"}, b"\xff\x00", content_type="application/x-odd")
        if broker.publish([Publication(odd, queue)])[0].reason:
            pytest.skip("this broker refuses a message without an id")
        consumer = self.consume(broker, queue)
        assert [*consumer.settle([Settlement(self.one(consumer), Verdict.DEAD, reason="odd")])] == [Settled.DONE]
        (letter,) = broker.dead_letters(queue)
        assert (letter.task, letter.reason, letter.message.body) == ("", "odd", b"\xff\x00")
        assert broker.drop_dead([letter.id]) == 1

    def test_without_dead_letters_none_is_promised(self, broker: Broker, queue: str) -> None:
        self.lacks(broker, "dead_letters")
        with pytest.raises((NotImplementedError, errors.KernelError), match=r"\w"):
            broker.dead_letters(queue)


class EndCases(BrokerKit):
    def test_broker_and_backend_agree_that_they_are_one(self, broker: Broker, backend: Backend) -> None:
        assert broker.transaction_domain
        assert broker.transaction_domain == backend.transaction_domain

    def test_records_and_successors_come_with_the_end(self, broker: Broker, backend: Backend, queue: str) -> None:
        broker.publish(made(queue, 2))
        consumer = self.consume(broker, queue)
        ends = [
            Settlement(
                delivery,
                Verdict.ACK,
                records=ready(backend, Record(id=delivery.message.id, state="SUCCESS", result=b"42", date_done=1.5e9)),
                publications=[Publication(make_message(n=delivery.message.headers["n"] + 10), queue)],
            )
            for delivery in self.gather(consumer, 2)
        ]
        assert [*consumer.settle(ends)] == [Settled.DONE] * 2
        assert numbers(self.gather(consumer, 2)) == [10, 11]
        backend.open()
        loaded = backend.load([end.delivery.message.id for end in ends])
        assert [(record.state, record.result) for record in loaded if record] == [("SUCCESS", b"42")] * 2

    def test_a_settlement_wakes_whoever_waits_for_the_record(
        self, broker: Broker, backend: Backend, queue: str
    ) -> None:
        backend.open()
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        delivery = self.one(consumer)
        watch = backend.watch([delivery.message.id])
        waiting = self.in_thread(lambda: watch.wait(60))
        time.sleep(0.2)
        record = Record(id=delivery.message.id, state="SUCCESS", result=b"1", date_done=1.5e9)
        consumer.settle([Settlement(delivery, Verdict.ACK, records=ready(backend, record))])
        assert [found.id for found in waiting.result()] == [record.id]
        watch.close()

    def test_a_stale_settlement_stores_nothing_of_its_end(self, broker: Broker, backend: Backend, queue: str) -> None:
        backend.open()
        broker.publish(made(queue, 1))
        frozen = self.consume(broker, queue, lease=self.short_lease)
        (lost,) = self.gather(frozen, 1)
        self.pass_time(self.short_lease * 1.2)
        self.one(self.consume(broker, queue))
        record = Record(id=lost.message.id, state="SUCCESS", result=b"0", date_done=1.5e9)
        late = Settlement(lost, Verdict.ACK, records=ready(backend, record), publications=made(queue, 1))
        assert [*frozen.settle([late])] == [Settled.STALE]
        assert [*backend.load([lost.message.id])] == [None]
        assert self.nothing(self.consume(broker, queue))

    def test_the_first_terminal_record_stands_in_a_settlement_too(
        self, broker: Broker, backend: Backend, queue: str
    ) -> None:
        backend.open()
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        delivery = self.one(consumer)
        backend.store([Record(id=delivery.message.id, state="FAILURE", result=b'"first"', date_done=1.5e9)])
        second = Record(id=delivery.message.id, state="SUCCESS", result=b'"second"', date_done=1.6e9)
        assert [*consumer.settle([Settlement(delivery, Verdict.ACK, records=ready(backend, second))])] == [Settled.DONE]
        (standing,) = backend.load([delivery.message.id])
        assert standing is not None
        assert (standing.state, standing.result) == ("FAILURE", b'"first"')

    def test_without_atomic_end_such_ends_are_refused_whole(self, broker: Broker, queue: str) -> None:
        self.lacks(broker, "atomic_end")
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        delivery = self.one(consumer)
        end = Settlement(delivery, Verdict.ACK, records=[Record(id="x", state="SUCCESS")])
        with pytest.raises((NotImplementedError, errors.KernelError), match=r"\w"):
            consumer.settle([end])
        assert [*consumer.settle(ack([delivery]))] == [Settled.DONE]
