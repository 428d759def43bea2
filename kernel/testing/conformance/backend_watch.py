"""Backend cases: being told of records."""

from __future__ import annotations

import time

import pytest

from kernel import errors
from kernel.interfaces.backend import Backend, Record
from kernel.testing.conformance.backend_kit import BackendKit, ended, new_id


class WatchCases(BackendKit):
    def test_a_record_that_exists_counts_as_new(self, backend: Backend) -> None:
        done, open_, missing = new_id(), new_id(), new_id()
        backend.store([ended(done), Record(id=open_, state="STARTED")])
        watch = backend.watch([done, open_, missing])
        seen = self.collect(watch, lambda seen: len(seen) >= 2)
        assert {(record.id, record.state) for record in seen} == {(done, "SUCCESS"), (open_, "STARTED")}
        assert [*watch.wait(0.1)] == []
        watch.close()

    def test_a_store_ends_a_wait(self, backend: Backend) -> None:
        key = new_id()
        watch = backend.watch([key])
        waiting = self.in_thread(lambda: watch.wait(60))
        time.sleep(0.2)
        backend.store([ended(key, result=b"1")])
        assert [(record.id, record.result) for record in waiting.result()] == [(key, b"1")]
        watch.close()

    def test_a_push_comes_within_a_second(self, backend: Backend) -> None:
        self.needs(backend, "push")
        watch = backend.watch([])
        for _ in range(3):
            key = new_id()
            watch.add([key])
            waiting = self.in_thread(lambda: self.stamped(watch.wait(60)))
            time.sleep(0.05)
            stored = time.monotonic()
            backend.store([ended(key)])
            records, returned = waiting.result()
            assert [record.id for record in records] == [key]
            assert returned - stored < 1
        watch.close()

    def stamped(self, records: object) -> tuple[object, float]:
        return records, time.monotonic()

    def test_another_process_ends_a_wait(self, backend: Backend, twin: Backend) -> None:
        key = new_id()
        watch = backend.watch([key])
        waiting = self.in_thread(lambda: watch.wait(60))
        time.sleep(0.2)
        twin.store([ended(key)])
        assert [record.id for record in waiting.result()] == [key]
        watch.close()

    def test_nothing_new_is_nothing_in_time(self, backend: Backend) -> None:
        watch = backend.watch([new_id()])
        assert self.in_thread(lambda: [*watch.wait(0)]).result() == []
        assert self.in_thread(lambda: [*watch.wait(0.2)]).result() == []
        watch.close()

    def test_other_ids_are_not_told(self, backend: Backend) -> None:
        mine = new_id()
        watch = backend.watch([mine])
        backend.store([ended(new_id()) for _ in range(5)])
        assert [*watch.wait(0.2)] == []
        backend.store([ended(mine)])
        assert [record.id for record in self.collect(watch, bool)] == [mine]
        watch.close()

    def test_what_was_told_is_not_told_again(self, backend: Backend) -> None:
        first, second = new_id(), new_id()
        watch = backend.watch([first, second])
        backend.store([ended(first)])
        assert [record.id for record in self.collect(watch, bool)] == [first]
        backend.store([ended(first), ended(second)])
        assert [record.id for record in self.collect(watch, bool)] == [second]
        watch.close()

    def test_the_way_through_the_states_ends_with_the_last(self, backend: Backend) -> None:
        key = new_id()
        watch = backend.watch([key])
        told = []
        for state in ("STARTED", "PROGRESS", "RETRY", "STARTED"):
            backend.store([Record(id=key, state=state)])
            told += [record.state for record in self.collect(watch, bool)]
        backend.store([ended(key)])
        told += [record.state for record in self.collect(watch, bool)]
        assert told == ["STARTED", "PROGRESS", "RETRY", "STARTED", "SUCCESS"]
        watch.close()

    def test_every_state_is_told_however_fast(self, backend: Backend) -> None:
        self.needs(backend, "every_state")
        key = new_id()
        watch = backend.watch([key])
        for percent in range(20):
            backend.store([Record(id=key, state="PROGRESS", result=b"%d" % percent)])
        backend.store([ended(key)])
        seen = self.collect(watch, lambda seen: len(seen) >= 21)
        assert [record.result for record in seen[:-1]] == [b"%d" % percent for percent in range(20)]
        assert seen[-1].state == "SUCCESS"
        watch.close()

    def test_ids_are_added_from_another_thread_while_it_waits(self, backend: Backend) -> None:
        existing, coming = new_id(), new_id()
        backend.store([ended(existing)])
        watch = backend.watch([new_id()])
        waiting = self.in_thread(lambda: self.collect(watch, lambda seen: len(seen) >= 2))
        time.sleep(0.2)
        watch.add([existing])
        watch.add([coming])
        time.sleep(0.1)
        backend.store([ended(coming)])
        assert [record.id for record in waiting.result()] == [existing, coming]
        watch.close()

    def test_discarded_ids_are_not_told(self, backend: Backend) -> None:
        gone, kept = new_id(), new_id()
        watch = backend.watch([gone, kept])
        watch.discard([gone, new_id()])
        backend.store([ended(gone), ended(kept)])
        assert [record.id for record in self.collect(watch, bool)] == [kept]
        assert [*watch.wait(0.1)] == []
        watch.close()

    def test_an_id_may_be_discarded_and_added_again(self, backend: Backend) -> None:
        key = new_id()
        backend.store([ended(key)])
        watch = backend.watch([key])
        assert len(self.collect(watch, bool)) == 1
        watch.discard([key])
        watch.add([key])
        assert len(self.collect(watch, bool)) == 1
        watch.close()

    def test_wake_ends_a_wait_and_the_watch_goes_on(self, backend: Backend) -> None:
        key = new_id()
        watch = backend.watch([key])
        waiting = self.in_thread(lambda: [*watch.wait(60)])
        time.sleep(0.2)
        watch.wake()
        assert waiting.result() == []
        backend.store([ended(key)])
        assert [record.id for record in self.collect(watch, bool)] == [key]
        watch.close()

    def test_wake_before_a_wait_ends_that_one(self, backend: Backend) -> None:
        watch = backend.watch([new_id()])
        watch.wake()
        assert self.in_thread(lambda: [*watch.wait(60)]).result() == []
        watch.close()

    def test_two_watches_are_both_told(self, backend: Backend) -> None:
        key = new_id()
        watches = [backend.watch([key]) for _ in range(2)]
        backend.store([ended(key)])
        assert [[record.id for record in self.collect(watch, bool)] for watch in watches] == [[key], [key]]
        for watch in watches:
            watch.close()

    def test_a_closed_watch_holds_up_nobody(self, backend: Backend) -> None:
        key = new_id()
        watch, other = backend.watch([key]), backend.watch([key])
        watch.close()
        watch.close()
        backend.store([ended(key)])
        assert len(self.collect(other, bool)) == 1
        other.close()

    def test_a_thousand_ids(self, backend: Backend) -> None:
        ids = [new_id() for _ in range(1000)]
        watch = backend.watch(ids[:500])
        watch.add(ids[500:])

        def store() -> None:
            for start in range(0, 1000, 50):
                backend.store([ended(key) for key in ids[start : start + 50]])

        storing = self.in_thread(store)
        seen = self.collect(watch, lambda seen: len(seen) >= 1000)
        storing.result()
        assert sorted(record.id for record in seen) == sorted(ids)
        watch.discard(ids)
        watch.close()

    def test_a_watch_outlives_a_cut_connection(self, backend: Backend) -> None:
        before, after = new_id(), new_id()
        watch = backend.watch([before, after])
        assert [*watch.wait(0)] == []
        if not self.kill_connections(backend):
            pytest.skip("there is no connection to cut")
        told: set[str] = set()
        stored: set[str] = set()
        deadline = time.monotonic() + 2 * self.patience
        while told != {before, after} and time.monotonic() < deadline:
            # Whoever waits may be told of the cut, once or a few times, and goes on with the same watch.
            try:
                for key in {before, after} - stored:
                    backend.store([ended(key)])
                    stored.add(key)
                told.update(record.id for record in watch.wait(0.5))
            except errors.OperationalError:
                time.sleep(0.05)
        assert told == {before, after}
        watch.close()
