"""Broker cases: parts of chords that are brought with the settlements of their members, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kernel import errors
from kernel.interfaces.backend import Backend, ChordPart, Record
from kernel.interfaces.broker import Broker, Delivery, Settled, Settlement, Verdict
from kernel.testing.conformance.backend_kit import new_id
from kernel.testing.conformance.broker_kit import BrokerKit, ack, made, numbers, ready, ready_chord, ready_part

DONE, STALE, JOINED, STANDING = Settled.DONE, Settled.STALE, Settled.JOINED, Settled.STANDING


def member_of(
    backend: Backend, delivery: Delivery, chord: str, *, size: int, index: int | None = None, value: bytes | None = None
) -> Settlement:
    """The end of a member, the one of the message's own number unless it is another `index`, which is its value."""
    index = delivery.message.headers["n"] if index is None else index
    record = success(delivery, str(index).encode() if value is None else value)
    part = ready_part(backend, ChordPart(chord, size, index, record))
    return Settlement(delivery, Verdict.ACK, records=ready(backend, record), parts=[part])


def success(delivery: Delivery, value: bytes) -> Record:
    return Record(id=delivery.message.id, state="SUCCESS", result=value, date_done=1.5e9)


class JoinCases(BrokerKit):
    @pytest.fixture
    def chords(self, broker: Broker, backend: Backend) -> Backend:
        """The backend of a broker that brings parts."""
        self.needs(broker, "atomic_chords")
        return backend

    def values(self, backend: Backend, chord: str, delivery: Delivery, *, size: int, index: int) -> Sequence[bytes]:
        """What the chord's parts are worth, as whoever completed it as member `index` is told by the backend."""
        backend.open()
        (state,) = backend.chord_parts([ChordPart(chord, size, index, success(delivery, b"-"))])
        return [part.result for part in state.parts]

    def test_the_last_part_joins_and_the_body_comes_with_the_second_settlement(
        self, broker: Broker, chords: Backend, queue: str, other: str
    ) -> None:
        broker.publish(made(queue, 3))
        consumer, chord = self.consume(broker, queue), new_id()
        taken = sorted(self.gather(consumer, 3), key=lambda delivery: delivery.message.headers["n"])
        for delivery in (taken[2], taken[0]):
            assert [*consumer.settle([member_of(chords, delivery, chord, size=3)])] == [DONE]
        last = member_of(chords, taken[1], chord, size=3)
        last.publications = made(other, 1)
        assert [*consumer.settle([last])] == [JOINED]
        early = self.consume(broker, other)
        assert self.nothing(early), "what follows goes with the second settlement"
        early.close()
        assert self.values(chords, chord, taken[1], size=3, index=1) == [b"0", b"1", b"2"]
        stored = chords.load([delivery.message.id for delivery in taken])
        assert [record.result for record in stored if record] == [b"0", b"1", b"2"]
        body = Settlement(taken[1], Verdict.ACK, publications=made(other, 1), completes=ready_chord(chords, chord))
        assert [*consumer.settle([body])] == [DONE]
        assert numbers(self.gather(self.consume(broker, other), 1)) == [0]
        assert self.values(chords, chord, taken[1], size=3, index=1) == [], "it is forgotten"
        consumer.close()
        assert self.nothing(self.consume(broker, queue))

    def test_a_batch_with_all_parts_of_some_chords_joins_once_for_each(
        self, broker: Broker, chords: Backend, queue: str
    ) -> None:
        broker.publish(made(queue, 12))
        consumer, ids = self.consume(broker, queue), [new_id(), new_id(), new_id()]
        taken = sorted(self.gather(consumer, 12), key=lambda delivery: delivery.message.headers["n"])
        # Four of each, interleaved.
        ends = [member_of(chords, each, ids[n % 3], size=4, index=n // 3) for n, each in enumerate(taken)]
        outcomes = [*consumer.settle(ends)]
        joined = [n for n, outcome in enumerate(outcomes) if outcome is JOINED]
        assert sorted(n % 3 for n in joined) == [0, 1, 2]
        assert outcomes.count(DONE) == 9
        for n in joined:
            found = self.values(chords, ids[n % 3], taken[n], size=4, index=n // 3)
            assert found == [b"0", b"1", b"2", b"3"]
        assert [
            *consumer.settle(
                [Settlement(taken[n], Verdict.ACK, completes=ready_chord(chords, ids[n % 3])) for n in joined]
            )
        ] == [DONE] * 3

    def test_whoever_gets_the_last_member_again_joins_again(self, broker: Broker, chords: Backend, queue: str) -> None:
        broker.publish(made(queue, 2))
        first, chord = self.consume(broker, queue), new_id()
        taken = sorted(self.gather(first, 2), key=lambda delivery: delivery.message.headers["n"])
        ends = [member_of(chords, delivery, chord, size=2) for delivery in taken]
        assert [*first.settle(ends)] == [DONE, JOINED]
        first.close()
        second = self.consume(broker, queue)
        again = self.one(second)
        assert (again.message.id, again.seen) == (taken[1].message.id, True)
        part = ready_part(chords, ChordPart(chord, 2, 1, success(again, b"1")))
        assert [*second.settle([Settlement(again, Verdict.ACK, parts=[part])])] == [JOINED]
        assert [*second.settle([Settlement(again, Verdict.ACK, completes=ready_chord(chords, chord))])] == [DONE]
        # An earlier run may have published the body by itself: of all copies the first that begins runs, and no other.
        assert [chords.begin_body(chord, copy) for copy in ("a", "b", "a")] == [True, False, True]
        assert [chords.begin_body(chord, copy, number=3) for copy in ("a", "b", "a")] == [True, False, True]

    def test_a_stale_settlement_brings_no_part(self, broker: Broker, chords: Backend, queue: str) -> None:
        broker.publish(made(queue, 1))
        frozen, chord = self.consume(broker, queue, lease=self.short_lease), new_id()
        (lost,) = self.gather(frozen, 1)
        self.pass_time(self.short_lease * 1.2)
        owner = self.consume(broker, queue)
        taken = self.one(owner)
        assert [*frozen.settle([member_of(chords, lost, chord, size=1, value=b'"late"')])] == [STALE]
        assert [*owner.settle([member_of(chords, taken, chord, size=1)])] == [JOINED]
        assert self.values(chords, chord, taken, size=1, index=0) == [b"0"]

    def test_a_part_is_of_the_run_whose_record_stands(
        self, broker: Broker, chords: Backend, queue: str, other: str
    ) -> None:
        chords.open()
        broker.publish(made(queue, 2))
        consumer, chord = self.consume(broker, queue), new_id()
        taken = sorted(self.gather(consumer, 2), key=lambda delivery: delivery.message.headers["n"])
        chords.store([success(taken[0], b'"first"')])
        ends = [member_of(chords, delivery, chord, size=2) for delivery in taken]
        ends[0].publications = made(other, 1)
        assert [*consumer.settle(ends)] == [STANDING, DONE]
        assert self.nothing(self.consume(broker, other))
        (state,) = chords.chord_parts([ChordPart(chord, 2, 0, success(taken[0], b'"first"'))])
        assert [part.result for part in state.parts] == [b'"first"', b"1"]
        assert [*consumer.settle(ack(taken))] == [DONE, STALE], "the claim of the first stood"

    def test_the_body_of_a_chord_comes_once(self, broker: Broker, chords: Backend, queue: str, other: str) -> None:
        """Two copies of the last member are in hand, and both have found the chord complete."""
        broker.publish(made(queue, 3))
        consumer, chord = self.consume(broker, queue), new_id()
        taken = self.gather(consumer, 3)
        part = ready_part(chords, ChordPart(chord, 1, 0, success(taken[0], b"0")))
        for delivery in taken:
            assert [*consumer.settle([Settlement(delivery, Verdict.ACK, parts=[part])])] == [JOINED]
        bodies = [
            Settlement(
                delivery,
                Verdict.ACK,
                records=ready(chords, success(delivery, b"1")),
                publications=made(other, 1),
                completes=ready_chord(chords, chord),
            )
            for delivery in taken
        ]
        assert [*consumer.settle(bodies[:2]), *consumer.settle(bodies[2:])] == [DONE] * 3
        assert len(self.gather(self.consume(broker, other), 1)) == 1
        assert self.nothing(self.consume(broker, other))
        chords.open()
        stored = chords.load([delivery.message.id for delivery in taken])
        assert [record is not None for record in stored] == [True, False, False]

    def test_a_body_of_a_chord_that_nobody_knows_comes(
        self, broker: Broker, chords: Backend, queue: str, other: str
    ) -> None:
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        end = Settlement(
            self.one(consumer), Verdict.ACK, publications=made(other, 1), completes=ready_chord(chords, new_id())
        )
        assert [*consumer.settle([end])] == [DONE]
        assert len(self.gather(self.consume(broker, other), 1)) == 1

    def test_parts_of_settlements_and_of_the_backend_are_of_one_chord(
        self, broker: Broker, chords: Backend, queue: str
    ) -> None:
        chords.open()
        broker.publish(made(queue, 2))
        consumer, chord = self.consume(broker, queue), new_id()
        taken = sorted(self.gather(consumer, 2), key=lambda delivery: delivery.message.headers["n"])
        outside = ChordPart(chord, 3, 2, Record(id=new_id(), state="SUCCESS", result=b"2", date_done=1.5e9))
        assert [*consumer.settle([member_of(chords, taken[0], chord, size=3)])] == [DONE]
        assert not chords.chord_parts([outside])[0].complete
        assert [*consumer.settle([member_of(chords, taken[1], chord, size=3)])] == [JOINED]
        assert not chords.chord_parts([outside])[0].complete
        assert self.values(chords, chord, taken[1], size=3, index=1) == [b"0", b"1", b"2"]

    def test_of_two_consumers_one_joins(self, broker: Broker, twin: Broker, chords: Backend, queue: str) -> None:
        broker.publish(made(queue, 40))
        consumers = [self.consume(each, queue) for each in (broker, twin)]
        ids = [new_id(), new_id()]
        shares = [self.gather(consumer, 20) for consumer in consumers]

        def settle(number: int) -> list[tuple[int, Settled]]:
            found: list[tuple[int, Settled]] = []
            for start in range(0, 20, 5):
                batch = shares[number][start : start + 5]
                places = [delivery.message.headers["n"] for delivery in batch]
                ends = [
                    member_of(chords, each, ids[n % 2], size=20, index=n // 2)
                    for each, n in zip(batch, places, strict=True)
                ]
                found += zip((n % 2 for n in places), consumers[number].settle(ends), strict=True)
            return found

        threads = [self.in_thread(lambda number=number: settle(number)) for number in (0, 1)]  # type: ignore[misc]
        outcomes = [pair for thread in threads for pair in thread.result()]
        assert sorted(chord for chord, outcome in outcomes if outcome is JOINED) == [0, 1]
        assert [outcome for _, outcome in outcomes].count(DONE) == 38

    def test_without_atomic_chords_parts_are_refused_whole(self, broker: Broker, queue: str) -> None:
        self.lacks(broker, "atomic_chords")
        broker.publish(made(queue, 1))
        consumer = self.consume(broker, queue)
        delivery = self.one(consumer)
        part = ChordPart(new_id(), 1, 0, success(delivery, b"0"))
        for end in (
            Settlement(delivery, Verdict.ACK, parts=[part]),
            Settlement(delivery, Verdict.ACK, completes=part.chord_id),
        ):
            with pytest.raises((NotImplementedError, errors.KernelError), match=r"\w"):
                consumer.settle([end])
        assert [*consumer.settle(ack([delivery]))] == [DONE]
