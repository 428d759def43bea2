"""What the messages in the queue of a chord come to, and that it is the same whenever more of them are read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_backend_rpc import gathered
from kernel_backend_rpc.gathered import Gathered

from kernel.interfaces.backend import ChordPart, Record

SIZE = 3


def part(index: int, value: int = 0) -> bytes:
    record = Record(id=f"t{index}", state="SUCCESS", result=b"%d" % value, attempt=1)
    return gathered.part(ChordPart("c", SIZE, index, record, added=index >= SIZE))


def read(messages: list[bytes]) -> tuple[Gathered, list[bytes]]:
    """And those that changed something."""
    found = Gathered(SIZE)
    return found, [message for message in messages if found.take(message)]


def values(found: Gathered) -> list[tuple[str, bytes]]:
    return [(record.id, record.result) for record in found.records]


def test_a_part_of_each_member_completes_it() -> None:
    found, kept = read([part(2), part(0), part(2, 9)])
    assert (found.complete, len(kept)) == (False, 2)
    assert found.take(part(1))
    assert found.complete
    assert values(found) == [("t0", b"0"), ("t1", b"0"), ("t2", b"0")]
    assert found.records[0].attempt == 1


def test_those_that_were_added_are_waited_for() -> None:
    found, _ = read([part(0), part(1), gathered.added(7), gathered.added(7), part(2)])
    assert (found.complete, found.added) == (False, 1)
    found.take(part(7, 5))
    assert found.complete
    assert values(found)[-1] == ("t7", b"5")


def test_one_is_added_before_or_after_its_part() -> None:
    """The note is confirmed before the member is sent; where a note was lost and is written again, it counts."""
    found, _ = read([part(7, 5), part(0), gathered.added(7), part(1), part(2)])
    assert found.complete
    assert len(values(found)) == 4


def test_a_part_of_nobody_is_no_value() -> None:
    found, _ = read([part(7), part(0), part(1), part(2)])
    assert found.complete
    assert len(values(found)) == SIZE


def test_what_comes_behind_changes_nothing() -> None:
    found, kept = read([part(0), part(1), part(2), gathered.added(4), part(4), part(0, 8), gathered.last(2)])
    assert found.complete
    assert (len(values(found)), len(kept), found.last) == (SIZE, SIZE + 1, 2)
    assert found.take(gathered.DONE)
    assert found.done


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=30))
def test_once_complete_it_stays_as_it_is(steps: list[tuple[bool, int]]) -> None:
    messages = [
        gathered.added(index) if is_note and index >= SIZE else part(index, at)
        for at, (is_note, index) in enumerate(steps)
    ]
    after: list[tuple[str, bytes]] | None = None
    for length in range(len(messages) + 1):
        found, kept = read(messages[:length])
        again, all_kept = read(kept)
        assert (values(again), again.complete) == (values(found), found.complete)
        assert all_kept == kept, "what is dropped is not missed"
        if found.complete:
            after = values(found) if after is None else after
            assert values(found) == after
    assert after is None or len(after) >= SIZE
