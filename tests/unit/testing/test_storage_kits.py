"""The kits for brokers and backends must find what is wrong: each driver here has one fault, and a case sees it."""

from __future__ import annotations

import dataclasses
import heapq
import inspect
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kernel_backend_memory import MemoryBackend
from kernel_backend_memory.backend import MemoryWatch
from kernel_broker_memory import MemoryBroker
from kernel_broker_memory.broker import MemoryConsumer, MemorySubscription
from kernel_broker_memory.store import Entry, Lease, Store

from kernel.interfaces import backend as results
from kernel.interfaces.backend import BackendConfig, ChordPart, Record, StoreOutcome
from kernel.interfaces.broker import (
    BrokerConfig,
    ConsumeOptions,
    Delivery,
    PublishOutcome,
    QueueStats,
    Settled,
    Settlement,
    Verdict,
)
from kernel.message import Message, Publication
from kernel.testing.conformance.backend import BackendConformance
from kernel.testing.conformance.broker import BrokerConformance

FAULTS = (Exception, pytest.fail.Exception)


def run_case(kit: Any, case: str, driver: Any, tmp_path: Path, **arguments: Any) -> None:
    """One case of a kit, as pytest would run it, on a driver that is open."""
    function = getattr(kit, case)
    for name in inspect.signature(function).parameters:
        if name in ("broker", "backend"):
            arguments[name] = driver
        elif name in ("queue", "other"):
            arguments[name] = kit.new_queue(driver)
        elif name == "tmp_path":
            arguments[name] = tmp_path
    function(**arguments)


# brokers ----------------------------------------------------------------------------------------------------


class Rules:
    """Faults in the rules: a store that is put into a memory broker."""

    class LosesOne(Store):
        def add(self, item: Publication) -> None:
            if item.message.headers.get("n") != 24:
                super().add(item)

    class NewestFirst(Store):
        def put(self, entry: Entry) -> None:
            entry.number = -entry.number
            super().put(entry)

    class NoPriorities(Store):
        def put(self, entry: Entry) -> None:
            entry.priority = 0
            super().put(entry)

    class Starves(Store):
        def claim(self, lease: Lease, limit: int, max_bytes: int) -> list[Delivery]:
            queues = lease.queues
            lease.queues = type(queues)([sorted(queues, key=lambda name: -len(self.ready[name]))[0]])
            try:
                return super().claim(lease, limit, max_bytes)
            finally:
                lease.queues = queues

    class Early(Store):
        def put(self, entry: Entry) -> None:
            entry.due -= 0.5
            super().put(entry)

    class NoByteLimit(Store):
        def claim(self, lease: Lease, limit: int, max_bytes: int) -> list[Delivery]:
            return super().claim(lease, limit, 1 << 40)

    class NothingTooLarge(Store):
        def claim(self, lease: Lease, limit: int, max_bytes: int) -> list[Delivery]:
            return super().claim(lease, limit, max_bytes) if max_bytes > 1000 else []

    class OneToken(Store):
        def claim(self, lease: Lease, limit: int, max_bytes: int) -> list[Delivery]:
            taken = super().claim(lease, limit, max_bytes)
            for delivery in taken:
                lease.claims[delivery.message.id] = lease.claims.pop(delivery.token)
                delivery.token = delivery.message.id
            return taken

    class NoFence(Store):
        def settle(self, lease: Lease, item: Settlement) -> Settled:
            for holder in self.leases:
                for token, entry in holder.claims.items():
                    if entry.message.id == item.delivery.message.id:
                        item.delivery.token = token
                        return super().settle(holder, item)
            return Settled.STALE

    class NeverExpires(Store):
        def lease(self, queues: Sequence[str], length: float) -> Lease:
            return super().lease(queues, 3600)

    class ChargesTheInnocent(Store):
        def release(self, lease: Lease, *, charged: bool) -> None:
            for entry in lease.claims.values():
                entry.starts += 1
            super().release(lease, charged=charged)

    class LosesOnClose(Store):
        def release(self, lease: Lease, *, charged: bool) -> None:
            if not charged:
                lease.claims.clear()
            super().release(lease, charged=charged)

    class AlwaysRenewed(Store):
        def renew(self, lease: Lease) -> bool:
            return super().renew(lease) or True

    class ToTheBack(Store):
        def settle(self, lease: Lease, item: Settlement) -> Settled:
            if item.verdict is Verdict.REQUEUE:
                lease.claims[item.delivery.token].number = next(self.numbers)
            return super().settle(lease, item)

    class ChargesTwice(Store):
        def settle(self, lease: Lease, item: Settlement) -> Settled:
            if item.delivery.token in lease.claims:
                lease.claims[item.delivery.token].begun = False
            return super().settle(lease, item)

    class DropsTheDead(Store):
        def bury(self, entry: Entry, reason: str) -> None: ...

    class OneLetterATask(Store):
        def bury(self, entry: Entry, reason: str) -> None:
            self.dead.pop(entry.message.headers.get("id", ""), None)
            super().bury(entry, reason)

    class PurgesTheClaimed(Store):
        def purge(self, queue: str) -> int:
            for lease in self.leases:
                lease.claims.clear()
            return super().purge(queue)

    class AtTheLimitKept(Store):
        def claim(self, lease: Lease, limit: int, max_bytes: int) -> list[Delivery]:
            taken = super().claim(lease, limit, max_bytes)
            for delivery in [each for each in taken if each.starts >= 2]:
                self.bury(lease.claims.pop(delivery.token), "limit")
                taken.remove(delivery)
            return taken


class SilentPublisher(MemoryBroker):
    """Wakes nobody."""

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        self.changed, changed = type(self.changed)(self.changed._lock), self.changed  # type: ignore[attr-defined]
        try:
            return super().publish(batch, timeout)
        finally:
            self.changed = changed


class ShortAnswer(MemoryBroker):
    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        return super().publish(batch, timeout)[:1]


class InPieces(MemoryBroker):
    """Claims that a batch is stored at once; whoever looks in between sees that it is not."""

    capabilities = dataclasses.replace(MemoryBroker.capabilities, atomic_batches=True)
    looks = 0

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        half = len(batch) // 2
        outcomes = [*super().publish(batch[:half], timeout)]
        before, deadline = self.looks, time.monotonic() + 5
        while self.looks < before + 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        return [*outcomes, *super().publish(batch[half:], timeout)]

    def stats(self, queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        found = super().stats(queues)
        self.looks += 1
        return found


class Rewrites(MemoryBroker):
    """Stores JSON as another language would write it."""

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        for item in batch:
            empty = {name: {} for name, value in item.message.headers.items() if value == []}
            item.message = item.message.replace_headers(**empty)
        return super().publish(batch, timeout)


class PeekTakes(MemoryBroker):
    def peek(self, queue: str, limit: int) -> Sequence[Message]:
        found = super().peek(queue, limit)
        heapq.heappop(self.store.ready[queue])
        return found


class NeverPauses(MemoryBroker):
    def pause(self, queue: str) -> None: ...


class ReplaysForNothing(MemoryBroker):
    def retry_dead(self, ids: Any) -> int:
        for name in ids:
            if name in self.store.dead:
                self.store.put(self.store.dead.pop(name)[1])
        return 1


class TellsEveryone(MemoryBroker):
    def broadcast(self, topic: str, batch: Sequence[Message]) -> None:
        for name in {holder.topic for holder in self.holders if isinstance(holder, MemorySubscription)}:
            super().broadcast(name, batch)


class Careless(MemoryConsumer):
    """Drops what it was given to store with the end."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        for item in settlements:
            item.records = item.publications = ()
        return super().settle(settlements)


class Deaf(MemoryConsumer):
    def wake(self) -> None: ...


class WithConsumer(MemoryBroker):
    kind: type[MemoryConsumer]

    def consume(self, queues: Sequence[str], options: ConsumeOptions) -> MemoryConsumer:
        consumer = self.kind(self, queues, options)
        self.holders.append(consumer)
        return consumer


class CarelessBroker(WithConsumer):
    kind = Careless


class DeafBroker(WithConsumer):
    kind = Deaf


class HastyBrokerKit(BrokerConformance):
    short_lease = 0.5
    patience = 1.0


@pytest.mark.parametrize(
    ("fault", "case", "arguments"),
    [
        (Rules.LosesOne, "test_publish_answers_for_each", {}),
        (ShortAnswer, "test_publish_answers_for_each", {}),
        (InPieces, "test_a_batch_is_there_wholly_or_not_at_all", {}),
        (Rewrites, "test_numbers_and_empty_lists_survive", {}),
        (Rules.NewestFirst, "test_oldest_first", {}),
        (Rules.NoPriorities, "test_higher_priority_first_then_oldest", {}),
        (Rules.Starves, "test_a_long_queue_starves_no_other", {}),
        (Rules.Starves, "test_queues_take_turns_one_by_one", {}),
        (Rules.Early, "test_never_early_and_not_much_later", {}),
        (Rules.Early, "test_a_requeue_may_wait", {}),
        (Rules.NoByteLimit, "test_a_fetch_takes_no_more_bytes_than_asked", {}),
        (Rules.NothingTooLarge, "test_a_fetch_takes_no_more_bytes_than_asked", {}),
        (SilentPublisher, "test_publishing_ends_a_wait", {}),
        (DeafBroker, "test_wake_ends_a_wait", {}),
        (DeafBroker, "test_wake_before_a_wait_ends_that_one", {}),
        (Rules.OneToken, "test_each_claim_has_a_token_of_its_own", {}),
        (Rules.OneToken, "test_a_settlement_has_the_worth_of_its_token", {}),
        (Rules.NoFence, "test_a_stale_owner_settles_nothing", {}),
        (Rules.NoFence, "test_after_a_stale_settlement_the_next_owner_may_die_too", {}),
        (Rules.NeverExpires, "test_an_expired_lease_is_taken_over_seen_and_uncharged", {}),
        (Rules.NeverExpires, "test_mass_death_is_taken_over_in_few_steps", {}),
        (Rules.ChargesTheInnocent, "test_an_expired_lease_is_taken_over_seen_and_uncharged", {}),
        (Rules.ChargesTheInnocent, "test_closing_gives_back_at_once_and_uncharged", {}),
        (Rules.LosesOnClose, "test_closing_gives_back_at_once_and_uncharged", {}),
        (Rules.LosesOnClose, "test_closing_the_broker_gives_back_what_its_consumers_hold", {}),
        (Rules.AlwaysRenewed, "test_renewal_tells_that_the_lease_had_run_out", {}),
        (Rules.AtTheLimitKept, "test_messages_at_the_delivery_limit_are_handed_out_too", {}),
        (Rules.ToTheBack, "test_a_requeued_message_is_in_front_again", {}),
        (Rules.ChargesTwice, "test_a_requeue_charges_once_or_not_at_all", {"recorded": 1, "charged": 1, "starts": 1}),
        (Rules.ChargesTwice, "test_starts_add_up_over_claims", {}),
        (Rules.DropsTheDead, "test_a_dead_letter_tells_everything", {}),
        (Rules.DropsTheDead, "test_many_ends_of_all_kinds_in_one_batch", {}),
        (Rules.OneLetterATask, "test_two_letters_of_one_task_are_both_kept", {}),
        (ReplaysForNothing, "test_a_retried_letter_is_a_new_message", {}),
        (ReplaysForNothing, "test_ids_that_do_not_exist_are_none", {}),
        (CarelessBroker, "test_without_atomic_end_such_ends_are_refused_whole", {}),
        (Rules.PurgesTheClaimed, "test_purge_deletes_what_waits_and_nothing_else", {}),
        (PeekTakes, "test_peek_shows_what_comes_next_and_takes_nothing", {}),
        (NeverPauses, "test_a_paused_queue_hands_out_nothing", {}),
        (TellsEveryone, "test_everyone_who_listens_hears_it_once_in_order", {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_broker_kit_sees(fault: type, case: str, arguments: dict[str, int], tmp_path: Path) -> None:
    run_case(HastyBrokerKit(), case, MemoryBroker(BrokerConfig("memory://")), tmp_path, **arguments)
    if issubclass(fault, Store):
        broker = MemoryBroker(BrokerConfig("memory://"))
        broker.store = fault(time.monotonic, time.time)
    else:
        broker = fault(BrokerConfig("memory://"))
    with pytest.raises(FAULTS):
        run_case(HastyBrokerKit(), case, broker, tmp_path, **arguments)
    broker.close()


# backends ---------------------------------------------------------------------------------------------------


class LastWins(MemoryBackend):
    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        self.forget([record.id for record in batch])
        return super().store(batch)


class AttemptsBeatSuccess(MemoryBackend):
    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        self.forget([record.id for record in batch if record.attempt])
        return super().store(batch)


class NoAttempts(MemoryBackend):
    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        for record in batch:
            record.attempt = 0
        return super().store(batch)


class HidesTheStanding(MemoryBackend):
    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        return [StoreOutcome(outcome.state) for outcome in super().store(batch)]


class KeepsTheCallersRecord(MemoryBackend):
    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        outcomes = super().store(batch)
        for record in batch:
            self._records[record.id] = self._records[record.id][0], record
        return outcomes


class Unordered(MemoryBackend):
    def load(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return sorted(super().load(ids), key=lambda record: record.id if record else "")


class NeverForgets(MemoryBackend):
    def forget(self, ids: Sequence[str]) -> None: ...


class NeverExpires(MemoryBackend):
    def __init__(self, config: BackendConfig) -> None:
        super().__init__(BackendConfig("memory://", expires=None))


class ForgetsAtOnce(MemoryBackend):
    def cleanup(self) -> int:
        self._records.clear()
        return 0


class CompletesForAll(MemoryBackend):
    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[results.ChordState]:
        states = super().chord_parts(batch)
        return [results.ChordState(state.arrived == state.size, state.arrived, state.size) for state in states]


class CompletesOnce(MemoryBackend):
    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[results.ChordState]:
        (part,) = batch
        before = len(self._chords[part.chord_id].parts) if part.chord_id in self._chords else 0
        (state,) = super().chord_parts(batch)
        return [state if state.arrived != before else results.ChordState(False, state.arrived, state.size)]


class CountsCalls(MemoryBackend):
    calls = 0

    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[results.ChordState]:
        self.calls += 1
        return super().chord_parts([dataclasses.replace(part, index=self.calls - 1) for part in batch])


class ForgetsWholly(MemoryBackend):
    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        first = super().begin_body(chord_id, copy, number=number)
        self._chords.pop(chord_id, None)
        return first


class EveryCopyBegins(MemoryBackend):
    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        super().begin_body(chord_id, copy, number=number)
        return True


class BeginsOnce(MemoryBackend):
    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        before = self._chords[chord_id].copies.get(number or 0) if chord_id in self._chords else None
        return super().begin_body(chord_id, copy, number=number) and before is None


class OneCopyForAll(MemoryBackend):
    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        return super().begin_body(chord_id, copy, number=number if number is None else 0)


class ForgetsForEach(MemoryBackend):
    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        first = super().begin_body(chord_id, copy, number=number)
        chord = self._chords[chord_id]
        chord.parts, chord.forgotten = {}, True
        return first


class KeepsTheParts(MemoryBackend):
    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        return super().begin_body(chord_id, copy, number=number or 0)


class LooksAtTheFirst(MemoryBackend):
    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[results.ChordState]:
        return [*super().chord_parts(batch[:1]), *[results.ChordState(False, 0, part.size) for part in batch[1:]]]


class WithWatch(MemoryBackend):
    kind: type[MemoryWatch]

    def watch(self, ids: Sequence[str] = ()) -> MemoryWatch:
        watch = self.kind(self)
        watch.add(ids)
        return watch


class OnlyNews(MemoryWatch):
    def add(self, ids: Sequence[str]) -> None:
        super().add(ids)
        self.news.clear()


class Repeats(MemoryWatch):
    def wait(self, timeout: float) -> Sequence[Record]:
        found = super().wait(timeout)
        self.news.extend(found)
        return found


class NewestOnly(MemoryWatch):
    def wait(self, timeout: float) -> Sequence[Record]:
        return [*{record.id: record for record in super().wait(timeout)}.values()]


class Sleepy(MemoryWatch):
    def wake(self) -> None: ...


class Clings(MemoryWatch):
    def discard(self, ids: Sequence[str]) -> None: ...


def watching(watch: type[MemoryWatch]) -> type[MemoryBackend]:
    return type(watch.__name__, (WithWatch,), {"kind": watch})


class HastyBackendKit(BackendConformance):
    patience = 1.0
    kind: type[MemoryBackend] = MemoryBackend
    now = 0.0

    def make_backend(self, tmp_path: Path, expires: float | None = 86400.0) -> MemoryBackend:
        return self.kind(BackendConfig("memory://", expires=expires, options={"clock": lambda: self.now}))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("fault", "case", "arguments"),
    [
        (LastWins, "test_the_first_end_stands", {"first": "FAILURE", "second": "SUCCESS"}),
        (LastWins, "test_no_late_state_takes_an_end_away", {"late": "STARTED"}),
        (LastWins, "test_of_two_ends_at_once_one_stands_and_both_know_which", {}),
        (AttemptsBeatSuccess, "test_success_is_replaced_by_nothing", {}),
        (AttemptsBeatSuccess, "test_each_attempt_has_one_end", {}),
        (NoAttempts, "test_a_replay_may_replace_an_end_that_was_no_success", {"first": "FAILURE"}),
        (HidesTheStanding, "test_the_standing_record_comes_whole", {}),
        (KeepsTheCallersRecord, "test_a_record_may_be_used_again_by_its_maker", {}),
        (Unordered, "test_a_batch_is_answered_and_loaded_in_order", {}),
        (NeverForgets, "test_forgotten_records_are_gone", {}),
        (NeverExpires, "test_what_expires_goes_and_the_rest_stays", {}),
        (ForgetsAtOnce, "test_cleanup_leaves_what_is_in_time", {}),
        (ForgetsAtOnce, "test_nothing_expires_without_a_limit", {}),
        (CompletesForAll, "test_completion_is_told_again_to_the_same_member_alone", {}),
        (CompletesForAll, "test_one_of_many_at_once_completes", {}),
        (CompletesOnce, "test_completion_is_told_again_to_the_same_member_alone", {}),
        (ForgetsWholly, "test_a_chord_that_was_forgotten_completes_no_more", {}),
        (EveryCopyBegins, "test_the_first_copy_of_a_body_begins_and_no_other", {}),
        (BeginsOnce, "test_the_first_copy_of_a_body_begins_and_no_other", {}),
        (KeepsTheParts, "test_the_first_copy_of_a_body_begins_and_no_other", {}),
        (OneCopyForAll, "test_each_task_that_a_body_begins_with_has_its_own_copies", {}),
        (ForgetsForEach, "test_each_task_that_a_body_begins_with_has_its_own_copies", {}),
        (EveryCopyBegins, "test_a_body_of_a_chord_that_nobody_knows_begins", {}),
        (LooksAtTheFirst, "test_parts_of_several_chords_in_one_batch", {}),
        (CountsCalls, "test_a_member_that_comes_again_changes_nothing", {}),
        (watching(OnlyNews), "test_a_record_that_exists_counts_as_new", {}),
        (watching(OnlyNews), "test_ids_are_added_from_another_thread_while_it_waits", {}),
        (watching(Repeats), "test_what_was_told_is_not_told_again", {}),
        (watching(NewestOnly), "test_every_state_is_told_however_fast", {}),
        (watching(Sleepy), "test_wake_ends_a_wait_and_the_watch_goes_on", {}),
        (watching(Sleepy), "test_closing_ends_a_wait", {}),
        (watching(Clings), "test_discarded_ids_are_not_told", {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_backend_kit_sees(fault: type[MemoryBackend], case: str, arguments: dict[str, str], tmp_path: Path) -> None:
    sound, broken = HastyBackendKit(), HastyBackendKit()
    broken.kind = fault
    run_case(sound, case, sound.make_backend(tmp_path), tmp_path, **arguments)
    with pytest.raises(FAULTS):
        run_case(broken, case, broken.make_backend(tmp_path), tmp_path, **arguments)
