"""Broker cases: looking after queues, topics, opening and closing, and many threads at once."""

from __future__ import annotations

import time
from functools import partial

import pytest

from kernel import errors
from kernel.interfaces import broker as api
from kernel.interfaces.broker import Broker, PublishState, QueueSpec, QueueStats, Settled
from kernel.interfaces.setting import Setting
from kernel.message import Message, Publication
from kernel.testing.conformance.broker_kit import AMPLE, BrokerKit, ack, made, make_message, numbers

REFUSED = (NotImplementedError, errors.KernelError)


class AdminCases(BrokerKit):
    def look(self, broker: Broker, queue: str) -> QueueStats:
        (found,) = broker.stats([queue])
        assert found.name == queue
        return found

    def test_stats_count_where_messages_are(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 5))
        consumer = self.consume(broker, queue)
        self.gather(consumer, 2)
        found = self.look(broker, queue)
        assert (found.ready, found.claimed, found.delayed, found.dead) == (3, 2, 0, 0)
        assert found.paused is False
        assert found.consumers >= 1
        if broker.capabilities.glances:
            assert found.oldest is not None
            assert -1 <= found.oldest < 3600
        else:
            assert found.oldest is None

    def test_stats_of_an_empty_queue(self, broker: Broker, queue: str) -> None:
        found = self.look(broker, queue)
        assert (found.ready, found.claimed, found.delayed, found.dead, found.oldest) == (0, 0, 0, 0, None)

    def test_delayed_and_dead_are_counted_apart(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "delays")
        self.needs(broker, "dead_letters")
        broker.publish(made(queue, 2, due=time.time() + 3600))
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        consumer.settle([api.Settlement(self.one(consumer), api.Verdict.DEAD, reason="kit")])
        found = self.look(broker, queue)
        assert (found.ready, found.claimed, found.delayed, found.dead) == (0, 0, 2, 1)

    def test_stats_of_all_queues_are_sorted(self, broker: Broker, queue: str, other: str) -> None:
        broker.publish([*made(queue, 1), *made(other, 1)])
        names = [found.name for found in broker.stats()]
        assert names == sorted(names)
        assert {queue, other} <= {*names}

    def test_peek_shows_what_comes_next_and_takes_nothing(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 5))
        for _ in range(2):
            assert [message.headers["n"] for message in broker.peek(queue, 3)] == [0, 1, 2]
        delivery = self.one(self.consume(broker, queue))
        assert delivery.message.headers["n"] == 0
        if broker.capabilities.glances:
            assert not delivery.seen

    def test_purge_deletes_what_waits_and_nothing_else(self, broker: Broker, queue: str, other: str) -> None:
        broker.publish([*made(queue, 5), *made(other, 1)])
        consumer = self.consume(broker, queue)
        claimed = self.one(consumer)
        waiting = 4
        if broker.capabilities.delays:
            broker.publish(made(queue, 2, due=time.time() + 3600))
            waiting += 2
        assert broker.purge(queue) == waiting
        assert broker.purge(queue) == 0
        assert self.nothing(consumer)
        assert [*consumer.settle(ack([claimed]))] == [Settled.DONE]
        assert len(self.gather(self.consume(broker, other), 1)) == 1

    def test_a_purged_queue_works_on(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 3))
        broker.purge(queue)
        broker.publish(made(queue, 2))
        assert numbers(self.gather(self.consume(broker, queue), 2)) == [0, 1]

    def test_a_paused_queue_hands_out_nothing(self, broker: Broker, queue: str, other: str) -> None:
        self.needs(broker, "pause")
        consumer = self.consume(broker, queue, other)
        broker.pause(queue)
        broker.publish([*made(queue, 2), *made(other, 1)])
        assert [delivery.queue for delivery in self.gather(consumer, 1)] == [other]
        assert self.nothing(consumer)
        assert self.look(broker, queue).paused is True
        waiting = self.in_thread(lambda: consumer.fetch(1, AMPLE, 60))
        time.sleep(0.2)
        broker.resume(queue)
        assert numbers(waiting.result()) == [0]
        assert self.look(broker, queue).paused is False

    def test_a_pause_holds_for_all_processes(self, broker: Broker, twin: Broker, queue: str) -> None:
        self.needs(broker, "pause")
        twin.pause(queue)
        broker.publish(made(queue, 1))
        assert self.nothing(self.consume(broker, queue))
        twin.resume(queue)
        assert len(self.gather(self.consume(broker, queue), 1)) == 1

    def test_without_pause_it_is_refused(self, broker: Broker, queue: str) -> None:
        self.lacks(broker, "pause")
        with pytest.raises(REFUSED, match=r"\w"):
            broker.pause(queue)


class TopicCases(BrokerKit):
    def test_everyone_who_listens_hears_it_once_in_order(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "broadcast")
        broker.broadcast(queue, made_messages(-1, 0))
        listeners = [broker.subscribe(queue) for _ in range(2)]
        stranger = broker.subscribe(f"{queue}.else")
        broker.broadcast(queue, made_messages(0, 3))
        broker.broadcast(queue, made_messages(3, 5))
        for listener in listeners:
            heard: list[int] = []
            deadline = time.monotonic() + self.patience
            while len(heard) < 5 and time.monotonic() < deadline:
                heard += [message.headers["n"] for message in listener.read(2, 0.5)]
            assert heard == [0, 1, 2, 3, 4]
            assert [*listener.read(10, 0.05)] == []
        assert [*stranger.read(10, 0.05)] == []

    def test_a_broadcast_ends_a_wait(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "broadcast")
        listener = broker.subscribe(queue)
        waiting = self.in_thread(lambda: listener.read(5, 60))
        time.sleep(0.2)
        broker.broadcast(queue, made_messages(0, 1))
        assert [message.headers["n"] for message in waiting.result()] == [0]

    def test_another_process_hears_it(self, broker: Broker, twin: Broker, queue: str) -> None:
        self.needs(broker, "broadcast")
        listener = twin.subscribe(queue)
        waiting = self.in_thread(lambda: listener.read(5, 60))
        time.sleep(0.2)
        broker.broadcast(queue, made_messages(0, 1))
        assert [message.headers["n"] for message in waiting.result()] == [0]

    def test_a_closed_subscription_holds_up_nobody(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "broadcast")
        listener, other = broker.subscribe(queue), broker.subscribe(queue)
        listener.close()
        listener.close()
        broker.broadcast(queue, made_messages(0, 1))
        assert len(other.read(5, self.patience)) == 1

    def test_without_broadcast_it_is_refused(self, broker: Broker, queue: str) -> None:
        self.lacks(broker, "broadcast")
        with pytest.raises(REFUSED, match=r"\w"):
            broker.subscribe(queue)


def made_messages(first: int, end: int) -> list[Message]:
    return [make_message(n=number) for number in range(first, end)]


class LifeCases(BrokerKit):
    def test_it_declares_what_it_is(self, broker: Broker) -> None:
        assert isinstance(broker, Broker)
        assert broker.interface[0] == api.INTERFACE[0]
        assert broker.interface[1] <= api.INTERFACE[1]
        assert isinstance(broker.capabilities, api.BrokerCapabilities)
        assert all(isinstance(setting, Setting) for setting in broker.settings)
        assert broker.transaction_domain is None or broker.transaction_domain

    def test_open_and_close_may_be_called_again(self, broker: Broker, queue: str) -> None:
        broker.open()
        broker.publish(made(queue, 1))
        broker.close()
        broker.close()
        broker.open()
        broker.declare([QueueSpec(queue)])
        assert broker.publish(made(queue, 1))[0].state is PublishState.STORED

    def test_closing_the_broker_gives_back_what_its_consumers_hold(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 2))
        consumer = self.consume(broker, queue)
        delivery = self.one(consumer)
        broker.close()
        assert consumer_refuses(consumer, delivery)
        broker.open()
        taken = self.gather(self.consume(broker, queue), 2)
        assert [(*numbers([delivery]), delivery.seen, delivery.starts) for delivery in taken] == [
            (0, True, 0),
            (1, False, 0),
        ]

    def test_closing_ends_a_wait(self, broker: Broker, queue: str) -> None:
        consumer = self.consume(broker, queue)

        def wait() -> list[api.Delivery]:
            try:
                return [*consumer.fetch(1, AMPLE, 60)]
            except errors.OperationalError:
                return []

        waiting = self.in_thread(wait)
        time.sleep(0.2)
        broker.close()
        assert waiting.result() == []

    def test_what_is_durable_outlives_the_broker(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "durable")
        heir = self.second(broker)
        if heir is None:
            pytest.fail("a durable broker needs second(self, broker) to prove it")
        broker.publish(made(queue, 3))
        broker.close()
        heir.open()
        try:
            assert numbers(self.gather(self.consume(heir, queue), 3)) == [0, 1, 2]
        finally:
            heir.close()

    def test_two_brokers_of_different_urls_do_not_meet(
        self, broker: Broker, queue: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        stranger = self.make_broker(tmp_path_factory.mktemp("stranger"))
        if stranger.transaction_domain is not None and stranger.transaction_domain == broker.transaction_domain:
            pytest.skip("make_broker gives brokers of one server; unique names keep them apart")
        stranger.open()
        try:
            stranger.declare([QueueSpec(queue)])
            stranger.publish(made(queue, 1))
            assert self.nothing(self.consume(broker, queue))
        finally:
            stranger.close()

    def test_four_threads_claim_each_message_once(self, broker: Broker, queue: str) -> None:
        total = 2000
        broker.publish(made(queue, total))

        def work() -> list[int]:
            consumer, got = self.consume(broker, queue), list[int]()
            deadline = time.monotonic() + 5 * self.patience
            while time.monotonic() < deadline and (taken := consumer.fetch(50, AMPLE, 0.5)):
                got += numbers(taken)
                assert [*consumer.settle(ack(taken))] == [Settled.DONE] * len(taken)
            consumer.close()
            return got

        workers = [self.in_thread(work) for _ in range(4)]
        claimed = [number for worker in workers for number in worker.result()]
        assert len(claimed) == total
        assert sorted(claimed) == [*range(total)]

    def test_four_threads_publish_while_one_claims(self, broker: Broker, queue: str) -> None:
        def publish(first: int) -> None:
            for start in range(first, first + 250, 25):
                batch = [Publication(make_message(n=n), queue) for n in range(start, start + 25)]
                assert all(outcome.state is PublishState.STORED for outcome in broker.publish(batch))

        publishers = [self.in_thread(partial(publish, first)) for first in range(0, 1000, 250)]
        taken = self.gather(self.consume(broker, queue), 1000)
        for publisher in publishers:
            publisher.result()
        assert sorted(numbers(taken)) == [*range(1000)]

    def test_a_cut_connection_heals(self, broker: Broker, queue: str) -> None:
        broker.publish(made(queue, 1))
        if not self.kill_connections(broker):
            pytest.skip("there is no connection to cut")
        deadline = time.monotonic() + 2 * self.patience
        while time.monotonic() < deadline:
            try:
                outcome = broker.publish([Publication(make_message(n=1), queue)])[0]
            except errors.OperationalError:
                time.sleep(0.1)
            else:
                if outcome.state is PublishState.STORED:
                    break
        else:
            pytest.fail("publishing did not come back")
        assert {0, 1} <= {*numbers(self.gather(self.consume(broker, queue), 2))}


def consumer_refuses(consumer: api.Consumer, delivery: api.Delivery) -> bool:
    """Whether a settlement on a closed consumer has no effect, by outcome or by error."""
    try:
        return [*consumer.settle(ack([delivery]))] == [Settled.STALE]
    except errors.OperationalError:
        return True
