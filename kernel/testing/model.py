"""What a broker promises about claims, as a model to compare with, and a walk that holds a broker to it.

The model knows each message by where it is and by what was recorded of it, and applies the rules of
`kernel.interfaces.broker` in the plainest way. `LeaseWalk` does one thing after another to a broker and to the model,
and raises `AssertionError` where they differ: tests give it the steps, from Hypothesis or from a seed. The
broker must take its time from a clock that it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kernel.interfaces.broker import Broker, ConsumeOptions, Consumer, Delivery, QueueSpec, Settled, Settlement, Verdict
from kernel.message import Message, Publication

Place = Literal["waiting", "claimed", "dead", "gone"]

QUEUES: Final = ("a", "b", "c")
BODY: Final = b"x" * 100


@dataclass(slots=True, eq=False)
class Kept:
    """A message in the model. `starts` counts as `kernel.interfaces.broker.Delivery` says; `begun` says that it
    counts a start of the current claim."""

    id: str
    queue: str
    priority: int
    number: int
    due: float
    place: Place = "waiting"
    starts: int = 0
    begun: bool = False
    seen: bool = False
    replays: int = 0

    def end_claim(self, *, charged: bool) -> None:
        if self.begun:
            self.starts -= 1
        if charged:
            self.starts += 1
        self.begun = False


@dataclass(slots=True, eq=False)
class Owner:
    """A consumer and its lease, with every delivery it ever got."""

    consumer: Consumer
    queues: tuple[str, ...]
    lease: float
    deadline: float
    claims: dict[str, Kept] = field(default_factory=dict)
    past: list[Delivery] = field(default_factory=list)


class LeaseModel:
    """All messages and owners, and the time."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.kept: dict[str, Kept] = {}
        self.owners: list[Owner] = []
        self.paused: set[str] = set()
        self.tokens: set[str] = set()
        self.numbers = 0

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def expire(self) -> None:
        """Leases that ran out give back what they hold; what `start` recorded counts."""
        for owner in self.owners:
            if owner.deadline <= self.now:
                self.give_back(owner, charge_begun=True)

    def give_back(self, owner: Owner, *, charge_begun: bool) -> None:
        for kept in owner.claims.values():
            kept.end_claim(charged=charge_begun and kept.begun)
            kept.place = "waiting"
        owner.claims.clear()

    def available(self, queues: Iterable[str]) -> dict[str, list[Kept]]:
        """For each queue that is not paused what is due, in the order in which it is to be handed out."""
        return {
            name: sorted(
                (k for k in self.kept.values() if k.queue == name and k.place == "waiting" and k.due <= self.now),
                key=lambda kept: (-kept.priority, kept.number),
            )
            for name in queues
            if name not in self.paused
        }

    def at(self, place: Place) -> list[Kept]:
        return [kept for kept in self.kept.values() if kept.place == place]


class LeaseWalk:
    """One broker, the model beside it, and the steps.

    `make_broker` is given the clock (a callable, seconds). `census`, where a broker can be looked into, lists
    the ids of all messages that it has in any place, one for each copy; it is compared after every step.
    """

    def __init__(
        self,
        make_broker: Callable[[Callable[[], float]], Broker],
        census: Callable[[Broker], list[str]] | None = None,
    ) -> None:
        self.model = LeaseModel()
        self.broker = make_broker(lambda: self.model.now)
        self._census = census
        self._published = 0
        self.broker.open()
        self.broker.declare([QueueSpec(name) for name in QUEUES])

    # --- the steps ----------------------------------------------------------------------------------------------

    def publish(self, queue: str, priority: int = 0, delay: float = 0.0) -> None:
        self._published += 1
        message = Message({"id": f"m{self._published}", "task": "model"}, BODY, content_type="application/json")
        due = self.model.now + delay if delay else None
        self.broker.publish([Publication(message, queue, priority=priority, due=due)])
        number = self.model.next_number()
        self.model.kept[message.id] = Kept(message.id, queue, priority, number, due or self.model.now)

    def open_consumer(self, queues: Sequence[str], lease: float) -> None:
        name = f"owner-{len(self.model.tokens)}-{len(self.model.owners)}"
        consumer = self.broker.consume(queues, ConsumeOptions(owner=name, lease=lease))
        self.model.owners.append(Owner(consumer, tuple(queues), lease, self.model.now + lease))

    def fetch(self, index: int, limit: int, max_bytes: int = 1 << 30) -> None:
        owner = self._owner(index)
        if owner is None:
            return
        self.model.expire()
        if owner.deadline <= self.model.now:
            owner.deadline = self.model.now + owner.lease
        available = self.model.available(owner.queues)
        taken = owner.consumer.fetch(limit, max_bytes, 0)
        self._check_amount(taken, available, limit, max_bytes)
        for name, expected in available.items():
            got = [delivery for delivery in taken if delivery.queue == name]
            assert [d.message.id for d in got] == [kept.id for kept in expected[: len(got)]], f"order of {name}"
        for delivery in taken:
            self._claim(owner, delivery)

    def start(self, index: int, which: int) -> None:
        owner, delivery = self._delivery(index, which)
        if owner is None or delivery is None:
            return
        kept = owner.claims.get(delivery.token)
        expected = Settled.STALE if kept is None else Settled.DONE
        assert [*owner.consumer.start([delivery])] == [expected]
        if kept is not None and not kept.begun:
            kept.starts, kept.begun = kept.starts + 1, True

    def settle(self, index: int, which: int, verdict: Verdict, *, charged: bool = False, delay: float = 0.0) -> None:
        owner, delivery = self._delivery(index, which)
        if owner is None or delivery is None:
            return
        kept = owner.claims.pop(delivery.token, None)
        item = Settlement(delivery, verdict, charged=charged, delay=delay, reason="model")
        expected = Settled.STALE if kept is None else Settled.DONE
        assert [*owner.consumer.settle([item])] == [expected], f"{verdict} of {delivery.message.id}"
        if kept is None:
            return
        if verdict is Verdict.ACK:
            kept.place = "gone"
            return
        kept.end_claim(charged=charged)
        kept.place = "dead" if verdict is Verdict.DEAD else "waiting"
        kept.due = self.model.now + delay

    def renew(self, index: int) -> None:
        owner = self._owner(index)
        if owner is None:
            return
        self.model.expire()
        alive = owner.deadline > self.model.now
        owner.deadline = self.model.now + owner.lease
        assert owner.consumer.renew() is alive

    def pass_time(self, seconds: float) -> None:
        self.model.now += seconds

    def die(self, index: int) -> None:
        """The owner is never heard of again; its lease is what frees its messages."""
        owner = self._owner(index)
        if owner is not None:
            owner.past.clear()
            owner.queues = ()

    def close(self, index: int) -> None:
        owner = self._owner(index)
        if owner is not None:
            owner.consumer.close()
            self.model.give_back(owner, charge_begun=False)
            self.model.owners.remove(owner)

    def pause(self, queue: str, on: bool) -> None:
        (self.broker.pause if on else self.broker.resume)(queue)
        (self.model.paused.add if on else self.model.paused.discard)(queue)

    def purge(self, queue: str) -> None:
        waiting = [kept for kept in self.model.at("waiting") if kept.queue == queue]
        assert self.broker.purge(queue) == len(waiting)
        for kept in waiting:
            kept.place = "gone"

    def retry_dead(self, which: int) -> None:
        kept = self._letter(which)
        if kept is not None:
            assert self.broker.retry_dead([kept.id]) == 1
            kept.place, kept.starts, kept.seen = "waiting", 0, False
            kept.number, kept.due = self.model.next_number(), self.model.now
            kept.replays += 1

    def drop_dead(self, which: int) -> None:
        kept = self._letter(which)
        if kept is not None:
            assert self.broker.drop_dead([kept.id]) == 1
            kept.place = "gone"

    def check(self) -> None:
        """Compare what can be seen without changing anything."""
        letters = {letter.id: letter for letter in self.broker.dead_letters(limit=1 << 20)}
        assert {*letters} == {kept.id for kept in self.model.at("dead")}
        assert all(letters[kept.id].starts == kept.starts for kept in self.model.at("dead"))
        if self._census is not None:
            alive = [kept.id for kept in self.model.kept.values() if kept.place != "gone"]
            assert sorted(self._census(self.broker)) == sorted(alive), "a message is lost, or is in two places"

    def finish(self) -> None:
        """Let every lease run out and fetch everything: what was not ended is there, each message once."""
        for queue in QUEUES:
            self.pause(queue, False)
        self.pass_time(1e6)
        self.open_consumer(QUEUES, 1e6)
        self.model.expire()
        waiting = len(self.model.at("waiting"))
        self.fetch(-1, waiting + 1)
        assert not self.model.at("waiting")
        assert len(self.model.owners[-1].claims) == waiting
        self.check()
        self.broker.close()

    # --- helpers ------------------------------------------------------------------------------------------------

    def _check_amount(
        self, taken: Sequence[Delivery], available: dict[str, list[Kept]], limit: int, max_bytes: int
    ) -> None:
        total = sum(map(len, available.values()))
        size = sum(delivery.message.size for delivery in taken)
        if size <= max_bytes and max_bytes >= 1 << 30:
            assert len(taken) == min(limit, total), "a fetch takes what is due, up to its limit"
        else:
            assert len(taken) <= limit
            assert size <= max_bytes or len(taken) == 1
            assert taken or not total or not limit
        counts = {name: sum(delivery.queue == name for delivery in taken) for name in available}
        for name, count in counts.items():
            if count < len(available[name]):
                assert count >= max(counts.values()) - 1, f"{name} did not have its turn"

    def _claim(self, owner: Owner, delivery: Delivery) -> None:
        kept = self.model.kept[delivery.message.id]
        assert kept.place == "waiting", f"{kept.id} was {kept.place} and is handed out"
        assert kept.due <= self.model.now, f"{kept.id} is early"
        assert delivery.token not in self.model.tokens, "a token is used again"
        assert (delivery.starts, delivery.seen) == (kept.starts, kept.seen), kept.id
        assert delivery.message.headers.get("kernel_replay", 0) == kept.replays
        self.model.tokens.add(delivery.token)
        kept.place, kept.seen = "claimed", True
        owner.claims[delivery.token] = kept
        owner.past.append(delivery)

    def _owner(self, index: int) -> Owner | None:
        living = [owner for owner in self.model.owners if owner.queues]
        return living[index % len(living)] if living else None

    def _delivery(self, index: int, which: int) -> tuple[Owner | None, Delivery | None]:
        """Any delivery that the owner ever got: most of the old ones are stale by now. The newest come first."""
        owner = self._owner(index)
        if owner is None or not owner.past:
            return owner, None
        return owner, owner.past[-1 - which % min(len(owner.past), 30)]

    def _letter(self, which: int) -> Kept | None:
        letters = self.model.at("dead")
        return letters[which % len(letters)] if letters else None


def random_step(walk: LeaseWalk, dice: random.Random) -> None:
    """One step of a walk, as `dice` say; the same dice give the same walk."""
    queue = dice.choice(QUEUES)
    index, which = dice.randrange(8), dice.randrange(30)
    roll = dice.random()
    steps: list[tuple[float, Callable[[], Any]]] = [
        (0.26, lambda: walk.publish(queue, dice.choice((0, 0, 0, 5, 255)), dice.choice((0, 0, 0, 0.5, 3, 40)))),
        (0.18, lambda: walk.fetch(index, dice.randrange(6), dice.choice((1 << 30, 1 << 30, 400)))),
        (0.08, lambda: walk.start(index, which)),
        (0.13, lambda: walk.settle(index, which, Verdict.ACK)),
        (0.07, lambda: walk.settle(index, which, Verdict.REQUEUE, charged=dice.random() < 0.5)),
        (0.03, lambda: walk.settle(index, which, Verdict.REQUEUE, delay=dice.choice((0.5, 20)))),
        (0.06, lambda: walk.settle(index, which, Verdict.DEAD, charged=dice.random() < 0.5)),
        (0.04, lambda: walk.renew(index)),
        (0.06, lambda: walk.pass_time(dice.choice((0.1, 1, 4, 11, 35)))),
        (0.02, lambda: walk.open_consumer(dice.sample(QUEUES, dice.randint(1, 3)), dice.choice((1.0, 10.0, 30.0)))),
        (0.01, lambda: walk.close(index)),
        (0.01, lambda: walk.die(index)),
        (0.01, lambda: walk.pause(queue, dice.random() < 0.4)),
        (0.01, lambda: walk.purge(queue) if dice.random() < 0.1 else None),
        (0.02, lambda: walk.retry_dead(which)),
        (0.01, lambda: walk.drop_dead(which)),
    ]
    for weight, step in steps:
        roll -= weight
        if roll < 0:
            step()
            break
