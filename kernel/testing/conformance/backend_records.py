"""Backend cases: storing records, and which of two stands."""

from __future__ import annotations

import dataclasses
import itertools
import time

import pytest

from kernel.interfaces.backend import Backend, Record, StoreState
from kernel.testing.conformance.backend_kit import BackendKit, ended, new_id, states

WON, STANDING = StoreState.WON, StoreState.STANDING
MEBIBYTE = 1 << 20


class RecordCases(BackendKit):
    def test_what_is_stored_is_loaded(self, backend: Backend) -> None:
        record = ended(new_id(), result=b'{"answer": [42, null, "\xc5\xbelu\xc5\xa5"]}')
        assert states(backend.store([record])) == [WON]
        loaded = self.load_one(backend, record.id)
        assert (loaded.id, loaded.state, loaded.result) == (record.id, "SUCCESS", record.result)
        assert (loaded.content_type, loaded.content_encoding) == ("application/json", "utf-8")
        assert loaded.date_done == pytest.approx(record.date_done, abs=0.001)

    def test_every_field_comes_back(self, backend: Backend) -> None:
        record = Record(
            id=new_id(),
            state="FAILURE",
            result=b'{"exc_type": "ValueError"}',
            content_type="application/x-kit",
            content_encoding="binary",
            traceback="Traceback (most recent call last):\n  žluť\n",
            children='[[["a", null], null]]',
            date_done=1_700_000_000.25,
            group_id="group-1",
            parent_id="parent-1",
            attempt=2,
            reply_to="reply-1",
            name="kit.task",
            args=b'["\xc5\xbe", 1]',
            kwargs=b'{"k": null}',
            worker="kit@host",
            retries=3,
            queue="kit",
            stamps='{"stamped_headers": ["a"], "stamps": {"a": 1}}',
        )
        backend.store([record])
        loaded = self.load_one(backend, record.id)
        for field in dataclasses.fields(Record):
            # The address of a reply is for the store alone: a backend that keeps records has no use for it later.
            if field.name not in ("date_done", "reply_to"):
                assert getattr(loaded, field.name) == getattr(record, field.name), field.name
        assert loaded.date_done == pytest.approx(1_700_000_000.25, abs=0.001)

    def test_what_was_not_given_is_none(self, backend: Backend) -> None:
        record = ended(new_id())
        backend.store([record])
        loaded = self.load_one(backend, record.id)
        for name in ("traceback", "children", "group_id", "parent_id", "name", "args", "kwargs", "worker", "retries"):
            assert getattr(loaded, name) is None, name
        assert (loaded.queue, loaded.stamps, loaded.attempt) == (None, None, 0)

    def test_a_result_is_bytes_that_nobody_reads(self, backend: Backend) -> None:
        records = [
            ended(new_id(), result=bytes(range(256)), content_type="application/x-kit", content_encoding="binary"),
            ended(new_id(), result=b""),
            ended(new_id(), result=b"not json at all", content_type="text/plain"),
            ended(new_id(), result=b"x" * MEBIBYTE),
        ]
        backend.store(records)
        assert [self.load_one(backend, record.id).result for record in records] == [r.result for r in records]

    def test_a_batch_is_answered_and_loaded_in_order(self, backend: Backend) -> None:
        records = [ended(new_id(), result=b"%d" % number) for number in range(700)]
        assert states(backend.store(records)) == [WON] * 700
        ids = [record.id for record in reversed(records)]
        missing = new_id()
        loaded = backend.load([missing, *ids, ids[0]])
        assert loaded[0] is None
        assert [record.result for record in loaded[1:] if record] == [
            *(b"%d" % number for number in reversed(range(700))),
            b"699",
        ]

    def test_empty_batches_are_nothing(self, backend: Backend) -> None:
        assert [*backend.store([])] == []
        assert [*backend.load([])] == []
        backend.forget([])

    def test_ids_may_be_any_text(self, backend: Backend) -> None:
        tail = new_id()
        names = [f"žluť ☃ {tail}", f"it's; -- {tail}", f"a%b_c*{tail}", f"A-{tail}", f"a-{tail}"]
        backend.store([ended(name, result=name.encode()) for name in names])
        assert [self.load_one(backend, name).result.decode() for name in names] == names

    def test_forgotten_records_are_gone(self, backend: Backend) -> None:
        kept, gone = ended(new_id()), ended(new_id(), group_id="g", content_type="application/x-kit")
        backend.store([kept, gone])
        backend.forget([gone.id, new_id()])
        assert [record and record.id for record in backend.load([kept.id, gone.id])] == [kept.id, None]
        # Nothing of the old one may show in a new one under the same id.
        assert states(backend.store([ended(gone.id, "FAILURE")])) == [WON]
        again = self.load_one(backend, gone.id)
        assert (again.state, again.group_id, again.content_type) == ("FAILURE", None, "application/json")

    def test_states_before_the_end_replace_each_other(self, backend: Backend) -> None:
        key = new_id()
        for state in ("PENDING", "RECEIVED", "STARTED", "PROGRESS", "RETRY", "STARTED", "PROGRESS"):
            meta = Record(id=key, state=state, result=f'"{state}"'.encode(), traceback=f"of {state}")
            assert states(backend.store([meta])) == [WON]
            loaded = self.load_one(backend, key)
            assert (loaded.state, loaded.result, loaded.date_done) == (state, meta.result, None)
            assert loaded.traceback == f"of {state}"
        assert states(backend.store([ended(key)])) == [WON]
        final = self.load_one(backend, key)
        assert (final.state, final.traceback) == ("SUCCESS", None)

    def test_one_id_more_than_once_in_a_batch(self, backend: Backend) -> None:
        self.keeps(backend)
        key, other = new_id(), new_id()
        batch = [Record(id=key, state="STARTED"), ended(other), ended(key, result=b"1"), ended(key, "FAILURE", b"2")]
        outcomes = backend.store(batch)
        assert states(outcomes) == [WON, WON, WON, STANDING]
        assert outcomes[3].standing is not None
        assert outcomes[3].standing.result == b"1"
        assert self.load_one(backend, key).result == b"1"

    def test_a_record_may_be_used_again_by_its_maker(self, backend: Backend) -> None:
        record = Record(id=new_id(), state="PROGRESS", result=b"1")
        backend.store([record])
        record.result = b"2"
        assert self.load_one(backend, record.id).result == b"1"


class TerminalCases(BackendKit):
    @pytest.mark.parametrize(
        ("first", "second"), [*itertools.product(("SUCCESS", "FAILURE", "REVOKED"), ("SUCCESS", "FAILURE", "REVOKED"))]
    )
    def test_the_first_end_stands(self, backend: Backend, first: str, second: str) -> None:
        self.keeps(backend)
        key = new_id()
        assert states(backend.store([ended(key, first, b"1")])) == [WON]
        (outcome,) = backend.store([ended(key, second, b"2")])
        assert outcome.state is STANDING
        assert outcome.standing is not None
        assert (outcome.standing.id, outcome.standing.state, outcome.standing.result) == (key, first, b"1")
        assert self.load_one(backend, key).result == b"1"

    @pytest.mark.parametrize("late", ["PENDING", "STARTED", "RETRY", "PROGRESS"])
    def test_no_late_state_takes_an_end_away(self, backend: Backend, late: str) -> None:
        self.keeps(backend)
        key = new_id()
        backend.store([ended(key, "FAILURE", b"1")])
        assert states(backend.store([Record(id=key, state=late, result=b"2")])) == [STANDING]
        assert self.load_one(backend, key).state == "FAILURE"

    def test_the_standing_record_comes_whole(self, backend: Backend) -> None:
        self.keeps(backend)
        # A redelivery publishes the successors of the standing record, so that must be all of it.
        first = ended(new_id(), result=b"[1]", children='[[["c", null], null]]', group_id="g", parent_id="p")
        backend.store([first])
        standing = backend.store([ended(first.id)])[0].standing
        assert standing is not None
        assert (standing.children, standing.group_id, standing.parent_id) == (first.children, "g", "p")

    def test_storing_again_after_an_unknown_answer_is_harmless(self, backend: Backend) -> None:
        self.keeps(backend)
        record = ended(new_id())
        backend.store([record])
        standing = backend.store([record])[0].standing
        assert standing is not None
        assert standing.result == record.result

    def test_of_two_ends_at_once_one_stands_and_both_know_which(self, backend: Backend) -> None:
        self.race(backend, backend, 500)

    def test_two_processes_agree_on_the_end(self, backend: Backend, twin: Backend) -> None:
        self.race(backend, twin, 200)

    def race(self, left: Backend, right: Backend, pairs: int) -> None:
        """Each id is ended by both sides at about the same time, in batches of about the same size."""
        self.keeps(left)
        ids = [new_id() for _ in range(pairs)]

        def end(backend: Backend, state: str, order: list[str]) -> dict[str, tuple[StoreState, str]]:
            found = {}
            for start in range(0, pairs, 20):
                batch = [ended(key, state, state.encode()) for key in order[start : start + 20]]
                for record, outcome in zip(batch, backend.store(batch), strict=True):
                    standing = outcome.standing.state if outcome.standing else state
                    found[record.id] = outcome.state, standing
            return found

        # The order differs, so that each side is first for some, and neither waits for the other's locks for ever.
        failing = self.in_thread(lambda: end(left, "FAILURE", ids))
        succeeding = self.in_thread(lambda: end(right, "SUCCESS", ids[::-1]))
        failed, succeeded = failing.result(), succeeding.result()
        loaded = {record.id: record.state for record in left.load(ids) if record}
        assert len(loaded) == pairs
        for key in ids:
            assert {failed[key][0], succeeded[key][0]} == {WON, STANDING}, key
            assert failed[key][1] == succeeded[key][1] == loaded[key], key

    def test_eight_threads_store_and_load(self, backend: Backend) -> None:
        def work() -> int:
            done = 0
            for _ in range(20):
                records = [ended(new_id()) for _ in range(10)]
                assert states(backend.store(records)) == [WON] * 10
                done += sum(record is not None for record in backend.load([record.id for record in records]))
            return done

        assert [worker.result() for worker in [self.in_thread(work) for _ in range(8)]] == [200] * 8


class AttemptCases(BackendKit):
    @pytest.mark.parametrize("first", ["FAILURE", "REVOKED"])
    def test_a_replay_may_replace_an_end_that_was_no_success(self, backend: Backend, first: str) -> None:
        key = new_id()
        backend.store([ended(key, first, b"0")])
        assert states(backend.store([Record(id=key, state="STARTED", attempt=1)])) == [WON]
        assert states(backend.store([ended(key, "SUCCESS", b"1", attempt=1)])) == [WON]
        loaded = self.load_one(backend, key)
        assert (loaded.state, loaded.result, loaded.attempt) == ("SUCCESS", b"1", 1)

    def test_success_is_replaced_by_nothing(self, backend: Backend) -> None:
        self.keeps(backend)
        key = new_id()
        backend.store([ended(key, "SUCCESS", b"0")])
        for state, attempt in itertools.product(("STARTED", "FAILURE", "SUCCESS"), (0, 1, 7)):
            assert states(backend.store([ended(key, state, b"9", attempt=attempt)])) == [STANDING]
        assert self.load_one(backend, key).result == b"0"

    def test_an_earlier_attempt_replaces_nothing(self, backend: Backend) -> None:
        self.keeps(backend)
        key = new_id()
        backend.store([Record(id=key, state="STARTED", result=b"2", attempt=2)])
        for state in ("STARTED", "FAILURE", "SUCCESS"):
            (outcome,) = backend.store([ended(key, state, b"1", attempt=1)])
            assert outcome.state is STANDING
            assert outcome.standing is not None
            assert outcome.standing.attempt == 2
        assert self.load_one(backend, key).result == b"2"

    def test_each_attempt_has_one_end(self, backend: Backend) -> None:
        self.keeps(backend)
        key = new_id()
        for attempt in range(3):
            assert states(backend.store([ended(key, "FAILURE", b"a", attempt=attempt)])) == [WON]
            assert states(backend.store([ended(key, "FAILURE", b"b", attempt=attempt)])) == [STANDING]
        loaded = self.load_one(backend, key)
        assert (loaded.result, loaded.attempt) == (b"a", 2)
        assert loaded.date_done is not None
        assert loaded.date_done <= time.time() + 1
