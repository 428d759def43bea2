"""Backend cases: groups, chords, expiry, and the driver's own life."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from kernel import errors
from kernel.interfaces import backend as api
from kernel.interfaces.backend import Backend, ChordPart, ChordState, Growing, StoreState
from kernel.interfaces.setting import Setting
from kernel.testing.conformance.backend_kit import BackendKit, ended, new_id, states


class GroupCases(BackendKit):
    def test_a_group_is_kept_as_it_was_given(self, backend: Backend) -> None:
        self.needs(backend, "groups")
        group, document = new_id(), '{"result": [["žluť", null], [[["a", null], null]]]}'
        assert backend.load_group(group) is None
        backend.save_group(group, document)
        assert backend.load_group(group) == document
        backend.save_group(group, "[]")
        assert backend.load_group(group) == "[]"
        backend.forget_group(group)
        backend.forget_group(group)
        assert backend.load_group(group) is None

    def test_another_process_sees_a_group(self, backend: Backend, twin: Backend) -> None:
        self.needs(backend, "groups")
        group = new_id()
        backend.save_group(group, "[1]")
        assert twin.load_group(group) == "[1]"


class ChordCases(BackendKit):
    def part(self, backend: Backend, chord: str, index: int, size: int = 3, result: bytes | None = None) -> ChordState:
        record = ended(f"{chord}-{index}", result=b"%d" % index if result is None else result)
        (state,) = backend.chord_parts([ChordPart(chord, size, index, record)])
        return state

    def test_the_last_member_completes_with_all_in_order(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        chord = new_id()
        assert [(state.complete, state.arrived, state.size) for state in (self.part(backend, chord, 2),)] == [
            (False, 1, 3)
        ]
        assert not self.part(backend, chord, 0).complete
        last = self.part(backend, chord, 1)
        assert (last.complete, last.arrived, last.size) == (True, 3, 3)
        assert [part.result for part in last.parts] == [b"0", b"1", b"2"]
        assert [part.id for part in last.parts] == [f"{chord}-{index}" for index in range(3)]

    def test_a_member_that_comes_again_changes_nothing(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        chord = new_id()
        self.part(backend, chord, 0)
        again = self.part(backend, chord, 0, result=b"other")
        assert not again.complete
        self.part(backend, chord, 1)
        assert [part.result for part in self.part(backend, chord, 2).parts] == [b"0", b"1", b"2"]

    def test_completion_is_told_again_to_the_same_member_alone(self, backend: Backend) -> None:
        # Its worker may have died before it published the body, and nobody else ever will.
        self.needs(backend, "chords")
        chord = new_id()
        for index in range(3):
            self.part(backend, chord, index)
        again = self.part(backend, chord, 2)
        assert again.complete
        assert [part.result for part in again.parts] == [b"0", b"1", b"2"]
        assert not self.part(backend, chord, 0).complete

    def test_a_chord_of_one(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        assert self.part(backend, new_id(), 0, size=1).complete

    def test_members_of_any_state_and_type_come_back_whole(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        chord = new_id()
        odd = ended(new_id(), "FAILURE", b"\x80\x00", content_type="application/x-kit", content_encoding="binary")
        odd.attempt = 3
        backend.chord_parts([ChordPart(chord, 2, 0, odd)])
        part = self.part(backend, chord, 1, size=2).parts[0]
        assert (part.state, part.result, part.content_type) == ("FAILURE", b"\x80\x00", "application/x-kit")
        assert (part.id, part.attempt, part.content_encoding) == (odd.id, 3, "binary")

    def test_chords_are_apart(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        first, second = new_id(), new_id()
        self.part(backend, first, 0, size=2)
        assert self.part(backend, second, 0, size=2).arrived == 1
        assert self.part(backend, second, 1, size=2).complete

    def test_a_chord_that_was_forgotten_completes_no_more(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        chord = new_id()
        self.part(backend, chord, 0, size=2)
        assert self.part(backend, chord, 1, size=2).complete
        assert backend.begin_body(chord, "copy")
        again = [self.part(backend, chord, index, size=2) for index in (1, 0, 1)]
        assert not any(state.complete or state.parts for state in again)

    def test_the_first_copy_of_a_body_begins_and_no_other(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        chord = new_id()
        self.part(backend, chord, 0, size=2)
        assert self.part(backend, chord, 1, size=2).complete
        first, second = new_id(), new_id()
        assert backend.begin_body(chord, first) is True
        assert [backend.begin_body(chord, copy) for copy in (second, first, second, first)] == [
            False,
            True,
            False,
            True,
        ]
        again = [self.part(backend, chord, index, size=2) for index in (1, 0)]
        assert not any(state.complete or state.parts for state in again), "its body was there: it is forgotten"
        assert not backend.begin_body(chord, second)

    def test_each_task_that_a_body_begins_with_has_its_own_copies(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        chord = new_id()
        for index in (1, 0):
            self.part(backend, chord, index, size=2)
        assert [backend.begin_body(chord, "a", number=number) for number in (0, 2)] == [True, True]
        assert [backend.begin_body(chord, "b", number=number) for number in (0, 1, 2)] == [False, True, False]
        assert [backend.begin_body(chord, "a", number=number) for number in (0, 1, 2)] == [True, False, True]
        # Some of the others may not be published yet.
        again = self.part(backend, chord, 0, size=2)
        assert [part.result for part in again.parts] == [b"0", b"1"]

    def test_a_body_of_a_chord_that_nobody_knows_begins(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        for number in (None, 3):
            chord = new_id()
            assert [backend.begin_body(chord, copy, number=number) for copy in ("a", "b", "a")] == [True, False, True]

    def test_of_many_copies_at_once_one_begins(self, backend: Backend, twin: Backend) -> None:
        self.needs(backend, "chords")
        for number in (None, 0, 1):
            chord = new_id()
            calls = [
                self.in_thread(partial((backend, twin)[n % 2].begin_body, chord, f"copy {n % 8}", number=number))
                for n in range(24)
            ]
            outcomes = [call.result() for call in calls]
            assert len({n % 8 for n, began in enumerate(outcomes) if began}) == 1
            assert sum(outcomes) == 3, "the first copy asked three times"

    def test_parts_of_several_chords_in_one_batch(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        first, second = new_id(), new_id()
        places = [(first, 1), (second, 0), (first, 0), (first, 1), (second, 2), (first, 2), (first, 2)]
        batch = [ChordPart(chord, 3, index, ended(f"{chord}-{index}")) for chord, index in places]
        found = backend.chord_parts(batch)
        assert [state.complete for state in found][:5] == [False] * 5
        assert [part.id for part in found[-1].parts] == [f"{first}-{index}" for index in range(3)]
        assert found[5].complete and found[6].complete
        (last,) = backend.chord_parts([ChordPart(second, 3, 1, ended(f"{second}-1"))])
        assert (last.complete, last.arrived) == (True, 3)
        assert backend.chord_parts([]) == []

    def test_a_member_outside_its_chord_is_refused_with_its_batch(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        chord = new_id()
        for index in (-1, 2):
            with pytest.raises(ValueError, match="outside"):
                backend.chord_parts(
                    [ChordPart(chord, 2, 0, ended(new_id())), ChordPart(chord, 2, index, ended(new_id()))]
                )
        assert self.part(backend, chord, 1, size=2).arrived == 1

    def test_a_chord_that_grows_waits_for_those_who_were_added(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        if not isinstance(backend, Growing):
            pytest.skip("this backend's chords do not grow")

        def added(index: int) -> ChordState:
            part = ChordPart(chord, 2, index, ended(f"{chord}-{index}", result=b"%d" % index), added=True)
            (state,) = backend.chord_parts([part])
            return state

        chord, far = new_id(), (1 << 31) - 1
        backend.grow_chord(chord, 2, far)
        assert not self.part(backend, chord, 0, size=2).complete
        for index in (far, 9, 9):
            backend.grow_chord(chord, 2, index)
        states = [added(9), self.part(backend, chord, 1, size=2), added(9)]
        assert [(state.complete, state.arrived, state.size) for state in states] == [
            (False, 2, 4),
            (False, 3, 4),
            (False, 3, 4),
        ]
        for _ in range(2):
            last = added(far)
            assert [part.result for part in last.parts] == [b"0", b"1", b"9", b"%d" % far]
        assert backend.begin_body(chord, "copy")
        backend.grow_chord(chord, 2, 5)
        assert not added(5).complete

    def test_one_of_many_at_once_completes(self, backend: Backend) -> None:
        self.needs(backend, "chords")
        for _ in range(5):
            chord, size = new_id(), 24
            # Every member comes twice, as it does when a worker dies between the part and its settlement.
            calls = [self.in_thread(partial(self.part, backend, chord, n % size, size)) for n in range(2 * size)]
            outcomes = [call.result() for call in calls]
            winners = {n % size for n, outcome in enumerate(outcomes) if outcome.complete}
            assert len(winners) == 1
            assert all(len(outcome.parts) == size for outcome in outcomes if outcome.complete)

    def test_two_processes_complete_one_chord(self, backend: Backend, twin: Backend) -> None:
        self.needs(backend, "chords")
        chord, size = new_id(), 20
        calls = [self.in_thread(partial(self.part, (backend, twin)[n % 2], chord, n, size)) for n in range(size)]
        outcomes = [call.result() for call in calls]
        assert sum(outcome.complete for outcome in outcomes) == 1


class ExpiryCases(BackendKit):
    def test_what_expires_goes_and_the_rest_stays(self, tmp_path: Path) -> None:
        brief = self.make_backend(tmp_path, expires=1.0)
        brief.open()
        try:
            old, new = new_id(), new_id()
            brief.store([ended(old)])
            self.pass_time(2.1)
            brief.store([ended(new)])
            # None, where the server deletes by itself or the driver did so on the way.
            assert brief.cleanup() >= 0
            assert [record and record.id for record in brief.load([old, new])] == [None, new]
            assert states(brief.store([ended(old)])) == [StoreState.WON]
        finally:
            brief.close()

    def test_nothing_expires_without_a_limit(self, tmp_path: Path) -> None:
        lasting = self.make_backend(tmp_path, expires=None)
        lasting.open()
        try:
            key = new_id()
            lasting.store([ended(key)])
            assert lasting.cleanup() == 0
            assert self.load_one(lasting, key).state == "SUCCESS"
            lasting.forget([key])
        finally:
            lasting.close()

    def test_cleanup_leaves_what_is_in_time(self, backend: Backend) -> None:
        key = new_id()
        backend.store([ended(key)])
        backend.cleanup()
        assert self.load_one(backend, key).state == "SUCCESS"


class LifeCases(BackendKit):
    def test_it_declares_what_it_is(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.interface[0] == api.INTERFACE[0]
        assert backend.interface[1] <= api.INTERFACE[1]
        assert isinstance(backend.capabilities, api.BackendCapabilities)
        assert all(isinstance(setting, Setting) for setting in backend.settings)
        assert backend.transaction_domain is None or backend.transaction_domain

    def test_open_and_close_may_be_called_again(self, backend: Backend) -> None:
        backend.open()
        backend.close()
        backend.close()
        backend.open()
        assert states(backend.store([ended(new_id())])) == [StoreState.WON]

    def test_closing_ends_a_wait(self, backend: Backend) -> None:
        watch = backend.watch([new_id()])

        def wait() -> list[api.Record]:
            try:
                return [*watch.wait(60)]
            except errors.OperationalError:
                return []

        waiting = self.in_thread(wait)
        time.sleep(0.2)
        backend.close()
        assert waiting.result() == []

    def test_what_is_durable_outlives_the_backend(self, backend: Backend) -> None:
        self.needs(backend, "durable")
        heir = self.second(backend)
        if heir is None:
            pytest.fail("a durable backend needs second(self, backend) to prove it")
        key = new_id()
        backend.store([ended(key, result=b"7")])
        backend.close()
        heir.open()
        try:
            assert self.load_one(heir, key).result == b"7"
        finally:
            heir.close()

    def test_another_process_sees_records(self, backend: Backend, twin: Backend) -> None:
        self.keeps(backend)
        key = new_id()
        backend.store([ended(key, result=b"7")])
        assert self.load_one(twin, key).result == b"7"
        twin.forget([key])
        assert [*backend.load([key])] == [None]

    def test_a_cut_connection_heals(self, backend: Backend) -> None:
        key = new_id()
        backend.store([ended(key)])
        if not self.kill_connections(backend):
            pytest.skip("there is no connection to cut")
        deadline = time.monotonic() + 2 * self.patience
        while True:
            try:
                assert self.load_one(backend, key).id == key
                break
            except errors.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
