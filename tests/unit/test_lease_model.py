"""The rules of claim, lease, settlement and redelivery against the model, on a clock that the tests turn.

Hypothesis finds the short stories in which they differ; the seeded walk goes a hundred thousand steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from kernel_broker_memory import MemoryBroker
from kernel_broker_memory.store import Lease, Store

from kernel.interfaces.broker import Broker, BrokerConfig, Delivery, Settled, Settlement, Verdict
from kernel.testing.model import QUEUES, LeaseWalk, random_step

STEPS = 100_000


def make_broker(clock: Callable[[], float]) -> MemoryBroker:
    return MemoryBroker(BrokerConfig(url="memory://", options={"clock": clock}))


def census(broker: Broker) -> list[str]:
    """The id of every message in every place of the memory broker, one for each copy."""
    assert isinstance(broker, MemoryBroker)
    store = broker.store
    places = [
        *(item[-1] for heap in store.ready.values() for item in heap),
        *(item[-1] for item in store.delayed),
        *(entry for lease in store.leases for entry in lease.claims.values()),
        *(entry for _, entry in store.dead.values()),
    ]
    return [entry.message.id for entry in places]


queues = st.sampled_from(QUEUES)
small = st.integers(0, 7)
delays = st.sampled_from((0.0, 0.0, 0.5, 5.0, 50.0))


class LeaseMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.walk = LeaseWalk(make_broker, census)

    @initialize()
    def two_owners(self) -> None:
        self.walk.open_consumer(QUEUES, 10)
        self.walk.open_consumer(QUEUES[:1], 1)

    @rule(queue=queues, priority=st.sampled_from((0, 0, 9, 255)), delay=delays)
    def publish(self, queue: str, priority: int, delay: float) -> None:
        self.walk.publish(queue, priority, delay)

    @rule(names=st.lists(queues, min_size=1, unique=True), lease=st.sampled_from((1.0, 10.0, 30.0)))
    def open_consumer(self, names: list[str], lease: float) -> None:
        self.walk.open_consumer(names, lease)

    @rule(index=small, limit=st.integers(0, 5), max_bytes=st.sampled_from((1 << 30, 1 << 30, 100, 400)))
    def fetch(self, index: int, limit: int, max_bytes: int) -> None:
        self.walk.fetch(index, limit, max_bytes)

    @rule(index=small, which=small)
    def start(self, index: int, which: int) -> None:
        self.walk.start(index, which)

    @rule(index=small, which=small, verdict=st.sampled_from(Verdict), charged=st.booleans(), delay=delays)
    def settle(self, index: int, which: int, verdict: Verdict, charged: bool, delay: float) -> None:
        self.walk.settle(index, which, verdict, charged=charged, delay=delay)

    @rule(index=small)
    def renew(self, index: int) -> None:
        self.walk.renew(index)

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.0, 5.0, 10.0, 31.0)))
    def pass_time(self, seconds: float) -> None:
        self.walk.pass_time(seconds)

    @rule(index=small)
    def die(self, index: int) -> None:
        self.walk.die(index)

    @rule(index=small)
    def close(self, index: int) -> None:
        self.walk.close(index)

    @rule(queue=queues, on=st.booleans())
    def pause(self, queue: str, on: bool) -> None:
        self.walk.pause(queue, on)

    @rule(queue=queues)
    def purge(self, queue: str) -> None:
        self.walk.purge(queue)

    @rule(which=small)
    def retry_dead(self, which: int) -> None:
        self.walk.retry_dead(which)

    @rule(which=small)
    def drop_dead(self, which: int) -> None:
        self.walk.drop_dead(which)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.walk.check()

    def teardown(self) -> None:
        self.walk.finish()


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(max_examples=250, stateful_step_count=60, deadline=None, derandomize=True)


def walk_on(make: Callable[[Callable[[], float]], Broker], seed: int, steps: int) -> int:
    """A walk of that many steps, begun anew every thousand so that it stays small; how many messages it saw."""
    seen = 0
    for lap in range(steps // 1000):
        dice = random.Random(f"{seed}-{lap}")
        walk = LeaseWalk(make, census)
        walk.open_consumer(QUEUES, 10)
        for number in range(1000):
            random_step(walk, dice)
            if number % 20 == 0:
                walk.check()
        walk.finish()
        seen += len(walk.model.kept)
    return seen


def test_a_hundred_thousand_steps() -> None:
    assert walk_on(make_broker, seed=2026, steps=STEPS) > STEPS // 5


# The model must find what is wrong: each of these rules has one fault.


class NoFence(Store):
    """Settles by message and not by token, so that a stale owner ends the next one's claim."""

    def settle(self, lease: Lease, item: Settlement) -> Settled:
        for holder in self.leases:
            for token, entry in holder.claims.items():
                if entry.message.id == item.delivery.message.id:
                    item.delivery.token = token
                    return super().settle(holder, item)
        return Settled.STALE


class LosesOnClose(Store):
    def release(self, lease: Lease, *, charged: bool) -> None:
        if not charged:
            lease.claims.clear()
        super().release(lease, charged=charged)


class ChargesEveryone(Store):
    def release(self, lease: Lease, *, charged: bool) -> None:
        for entry in lease.claims.values():
            entry.starts += 1
        super().release(lease, charged=charged)


class Early(Store):
    def advance(self) -> float:
        return super().advance() if not self.delayed else self._hasten()

    def _hasten(self) -> float:
        clock, self.clock = self.clock, lambda: clock() + 1
        try:
            super().advance()
        finally:
            self.clock = clock
        return clock()


class Backwards(Store):
    def claim(self, lease: Lease, limit: int, max_bytes: int) -> list[Delivery]:
        for heap in self.ready.values():
            heap.sort(key=lambda item: -item[1])
        return super().claim(lease, limit, max_bytes)


class ForgetsStarts(Store):
    def start(self, lease: Lease, delivery: Delivery) -> Settled:
        return Settled.DONE if delivery.token in lease.claims else Settled.STALE


@pytest.mark.parametrize("store", [NoFence, LosesOnClose, ChargesEveryone, Early, Backwards, ForgetsStarts])
def test_the_model_sees_a_fault(store: type[Store]) -> None:
    def make(clock: Callable[[], float]) -> MemoryBroker:
        broker = make_broker(clock)
        broker.store = store(clock, clock)
        return broker

    with pytest.raises(AssertionError):
        walk_on(make, seed=1, steps=10_000)
