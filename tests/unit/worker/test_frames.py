"""Assignments and endings survive the way between engine and child, whatever is in them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel import errors
from kernel.interfaces.backend import Record
from kernel.interfaces.broker import Verdict
from kernel.message import Message, Publication
from kernel.worker.assignment import Assignment, Ending, Obituary, Step
from kernel.worker.processes import frames

TEXT = st.text(max_size=40)


def message(body: bytes = b"[[],{},{}]") -> Message:
    return Message(
        {"id": "1", "task": "t", "eta": None},
        body,
        content_type="application/json",
        properties={"priority": 3, "reply_to": "x"},
    )


@given(st.lists(st.tuples(st.integers(1, 2**60), st.binary(max_size=200), TEXT, st.booleans()), max_size=20))
def test_assignments_come_out_as_they_went_in(rows: list[tuple[int, bytes, str, bool]]) -> None:
    items = [
        Assignment(seq, message(body), queue, "tok", starts=2, seen=flag, early_ack=not flag)
        for seq, body, queue, flag in rows
    ]
    packed = [frames.pack_assignment(item.seq, item, early_ack=item.early_ack) for item in items]
    epoch, back = frames.unpack_batch(frames.pack_batch(7, packed))
    assert epoch == 7
    assert [(a.seq, a.message, a.queue, a.token, a.starts, a.seen, a.early_ack) for a in back] == [
        (a.seq, a.message, a.queue, a.token, a.starts, a.seen, a.early_ack) for a in items
    ]


def test_a_message_travels_as_it_is_at_hand() -> None:
    headers, properties = b'{"id":"1","task":"t"}', b'{"priority":3}'
    text = Message(headers, b"x", content_type="c", content_encoding="e", properties=properties)
    known = Message({"id": "1", "task": "t"}, b"x", content_type="c", content_encoding="e", properties={"priority": 3})
    packed = [frames.pack_assignment(at, Assignment(at, each, "q", "t")) for at, each in enumerate((text, known))]
    frame = frames.pack_batch(0, packed)
    assert frames.numbers(frame) == [0, 1]
    _, back = frames.unpack_batch(frame)
    assert [each.message.at_hand for each in back] == [(headers, properties), (known.headers, known.properties)]
    assert [each.message for each in back] == [text, text]


def test_a_message_of_other_types_travels_where_json_knows_them() -> None:
    class Name(str):
        __slots__ = ()

    odd = Message(
        {"id": Name("1"), "deep": [Name("x")]}, b"x", content_type=Name("c"), properties={"reply_to": Name("r")}
    )
    _, (back,) = frames.unpack_batch(
        frames.pack_batch(0, [frames.pack_assignment(1, Assignment(1, odd, Name("q"), "t"))])
    )
    assert (back.message, back.queue, type(back.queue)) == (odd, "q", str)
    worse = Message({"id": object()}, b"x", content_type="c")
    with pytest.raises(errors.InvalidTaskError, match="cannot be handed to a child"):
        frames.pack_batch(0, [frames.pack_assignment(1, Assignment(1, worse, "q", "t"))])


def test_an_obituary_travels() -> None:
    end = Obituary("FAILURE", "WorkerLostError", "died ☠", Verdict.DEAD)
    packed = frames.pack_assignment(1, Assignment(1, message(), "q", "t"), obituary=end)
    _, (back,) = frames.unpack_batch(frames.pack_batch(0, [packed]))
    assert back.obituary == end


@given(result=st.binary(max_size=300), args=st.none() | st.binary(max_size=20), reason=TEXT, state=TEXT)
def test_endings_come_out_as_they_went_in(result: bytes, args: bytes | None, reason: str, state: str) -> None:
    record = Record(id="1", state="SUCCESS", result=result, args=args, kwargs=b"", children="[]", date_done=1.5)
    publication = Publication(message(), "q2", priority=9, due=12.5, exchange="e", routing_key="r")
    ending = Ending(
        99,
        Verdict.REQUEUE,
        state=state,
        delay=1.25,
        charged=True,
        reason=reason,
        records=[record],
        publications=[publication],
        runtime=0.5,
        task="näme",
    )
    child, back = frames.unpack_ending(frames.pack_ending(3, ending, with_payload=True))
    assert child == 3
    assert (back.seq, back.verdict, back.state, back.delay, back.charged) == (99, Verdict.REQUEUE, state, 1.25, True)
    assert (back.reason, back.runtime, back.task) == (reason, 0.5, "näme")
    assert list(back.records) == [record]
    (out,) = back.publications
    assert (out.message, out.queue, out.priority, out.due) == (publication.message, "q2", 9, 12.5)
    assert (out.exchange, out.routing_key, out.persistent) == ("e", "r", True)


def stored(seq: int, *, words: int = 3, state: str = "SUCCESS") -> Ending:
    record = Record(id=f"ï-{seq}", state=state, prepared=[b"%d" % seq, *[b""] * (words - 1)])
    return Ending(seq, Verdict.ACK, state="SUCCESS", records=[record], runtime=seq / 8, task="näme")


def test_ends_that_store_alike_travel_together() -> None:
    endings = [stored(seq) for seq in range(1, 5)]
    frame = frames.pack_endings(3, endings, with_payload=True)
    assert frame[:1] == frames.KIND_STORED
    task, ends, records = frames.unpack_done(frame)
    assert (task, ends) == ("näme", [(seq, seq / 8) for seq in range(1, 5)])
    assert records == [ending.records[0] for ending in endings]
    plain = frames.pack_endings(3, endings, with_payload=False)
    assert plain[:1] == frames.KIND_DONE
    assert frames.unpack_done(plain) == (task, ends, [])


@pytest.mark.parametrize("odd", ["words", "state", "unsure", "publications", "verdict", "none"])
def test_ends_that_differ_travel_each_as_it_is(odd: str) -> None:
    other = stored(2, words=2 if odd == "words" else 3, state="FAILURE" if odd == "state" else "SUCCESS")
    other.unsure = odd == "unsure"
    other.publications = [Publication(message(), "q")] if odd == "publications" else ()
    other.verdict = Verdict.DEAD if odd == "verdict" else Verdict.ACK
    other.records = () if odd == "none" else other.records
    for endings in ([stored(1), other], [other, stored(1)]):
        frame = frames.pack_endings(3, endings, with_payload=True)
        assert frame[:1] == frames.KIND_ENDS
        back = [frames.unpack_ending(single)[1] for single in frames.unpack_endings(frame)]
        assert [(each.seq, each.verdict, each.unsure, [*each.records]) for each in back] == [
            (each.seq, each.verdict, each.unsure, [*each.records]) for each in endings
        ]


def test_ends_that_store_and_are_cut_off_or_longer_are_damaged() -> None:
    frame = frames.pack_endings(3, [stored(1), stored(2)], with_payload=True)
    for damaged in (*(frame[:at] for at in range(1, len(frame))), frame + b"x"):
        with pytest.raises(ValueError, match=r"damaged|frame of"):
            frames.unpack_done(damaged)


def test_without_payload_an_ending_is_only_its_verdict() -> None:
    ending = Ending(1, Verdict.ACK, records=[Record(id="1", state="SUCCESS")])
    _, back = frames.unpack_ending(frames.pack_ending(0, ending, with_payload=False))
    assert not back.records


@given(st.binary(max_size=80))
def test_damage_never_passes_for_something_else(noise: bytes) -> None:
    with contextlib.suppress(ValueError, LookupError, errors.InvalidTaskError):
        assert frames.unpack_ending(noise) is not None


def test_a_report_is_bounded() -> None:
    assert frames.unpack_report(frames.pack_report(2, "topic", {"a": [1]})) == (2, "topic", {"a": [1]})
    with pytest.raises(ValueError, match="32 KiB"):
        frames.pack_report(2, "topic", {"a": "x" * 40_000})


@pytest.mark.parametrize("with_heads", [True, False])
def test_steps_come_out_as_they_went_in_but_for_bodies_of_what_has_ended(with_heads: bool) -> None:
    messages = [Message({"id": str(n), "task": "t"}, b"body", content_type="c") for n in range(2)]
    steps = [Step(Ending(n, Verdict.ACK, state="SUCCESS", task="t", runtime=0.5), messages[n]) for n in range(2)]
    back = frames.unpack_own(frames.pack_own(3, steps, with_heads=with_heads))
    assert [(step.ending.seq, step.ending.runtime) for step in back] == [(0, 0.5), (1, 0.5)]
    first, last = (step.following for step in back)
    assert last == messages[1]
    if with_heads:
        assert first is not None
        assert (first.id, first.body) == ("0", b"")
    else:
        assert first is None
    (end,) = frames.unpack_own(frames.pack_own(3, [Step(steps[0].ending, None)], with_heads=with_heads))
    assert end.following is None
