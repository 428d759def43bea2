"""What ends mean for chords: which of it goes to the engine with the settlement, and what is done in the child."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kernel import errors, states
from kernel.interfaces.backend import WON, ChordPart, ChordState, Record, StoreOutcome
from kernel.interfaces.broker import Verdict
from kernel.message import Message, Publication
from kernel.worker.assignment import Assignment, Break, Ending, Followed, Join
from kernel.worker.failpoints import Failpoints
from kernel.worker.processes import frames
from kernel.worker.running.outbox import Outbox

MOST = 1000


class FakeApp:
    """What an outbox asks of an app. Its broker cannot be reached as long as there are `failures` left."""

    def __init__(self, backend: Any, deliver: Any) -> None:
        self.backend = backend
        self.opened = SimpleNamespace(preparing=None)
        self.publisher = SimpleNamespace(deliver=deliver)
        self.failures: list[BaseException] = []

    @property
    def broker(self) -> Any:
        if self.failures:
            raise self.failures.pop()
        return SimpleNamespace(capabilities=SimpleNamespace(max_bytes=MOST))


class Bench:
    """An outbox of a worker whose broker brings parts, unless it is told otherwise; and what it has done."""

    def __init__(self, *, atomic: bool = True, atomic_chords: bool = True) -> None:
        self.stored: list[str] = []
        self.brought: list[ChordPart] = []
        self.published: list[str] = []
        self.delivered: list[Ending] = []
        self.refused: set[str] = set()
        self.complete = True
        self.failures: list[BaseException] = []
        backend = SimpleNamespace(
            store=self._store,
            chord_parts=self._bring,
            capabilities=SimpleNamespace(to_caller=False, chords=True),
        )
        self.app = FakeApp(backend, self._publish)
        self.outbox = Outbox(
            self.app,  # type: ignore[arg-type]
            atomic=atomic,
            atomic_chords=atomic_chords,
            deliver=self.delivered.extend,
            resume=lambda _seq, _standing: None,
            valid=lambda: True,
            gives_up=lambda: False,
            failpoints=Failpoints(),
        )

    def _store(self, records: Sequence[Record]) -> list[StoreOutcome]:
        self.stored += [record.id for record in records]
        return [WON] * len(records)

    def _bring(self, parts: Sequence[ChordPart]) -> list[ChordState]:
        if self.failures:
            raise self.failures.pop()
        self.brought += parts
        return [ChordState(self.complete, 1, 1, [part.record] if self.complete else ()) for part in parts]

    def _publish(self, publications: Sequence[Publication]) -> list[BaseException | None]:
        ids = [item.message.id for item in publications]
        self.published += [each for each in ids if each not in self.refused]
        return [errors.PublishRefused("no") if each in self.refused else None for each in ids]

    def add(self, ending: Ending, *, early_ack: bool = False) -> Ending:
        """Add it alone; what was delivered."""
        self.outbox.add(ending, more_soon=False, early_ack=early_ack)
        (delivered,) = self.delivered
        return delivered


def publication(name: str, *, body: bytes = b"", exchange: str = "") -> Publication:
    return Publication(
        Message({"id": name, "task": "t"}, body, content_type="application/json"), "q", exchange=exchange
    )


def names(publications: Sequence[Publication]) -> list[str]:
    return [item.message.id for item in publications]


def member(*, here: bool = False, body: Publication | None = None, publications: Sequence[Publication] = ()) -> Ending:
    """The end of a member; with `here` one whose settlement has brought its part."""
    record = Record(id="member", state=states.SUCCESS)
    join = Join(
        ChordPart("chord", 1, 0, record),
        complete=lambda parts: Followed((), [body or publication("body")], "chord"),
        refuse=lambda error: Followed([Record(id="body", state=states.FAILURE)], [publication("errback")], "chord"),
        here=here,
    )
    records = () if here else (record,)
    return Ending(
        1, Verdict.ACK, state="" if here else states.SUCCESS, records=records, publications=publications, join=join
    )


def broken() -> Ending:
    guard = Record(id="body", state=states.FAILURE, parent_id="member")
    follow = lambda: Followed([Record(id="next", state=states.FAILURE)], [publication("errback")])  # noqa: E731
    records = [Record(id="member", state=states.FAILURE)]
    return Ending(1, Verdict.ACK, state=states.FAILURE, records=records, breaks=[Break(guard, follow)])


def test_a_part_goes_to_the_engine_with_the_end() -> None:
    bench = Bench()
    found = bench.add(member(publications=[publication("link")]))
    assert [part.chord_id for part in found.parts] == ["chord"]
    assert [record.id for record in found.records] == ["member"]
    assert names(found.publications) == ["link"]
    assert not (bench.stored)
    assert not (bench.brought)
    assert not (bench.published)


def test_what_follows_a_complete_chord_goes_with_the_second_settlement() -> None:
    bench = Bench()
    found = bench.add(member(here=True, publications=[publication("link")]))
    assert [part.index for part in bench.brought] == [0]
    assert (names(found.publications), found.completes, found.parts) == (["link", "body"], "chord", ())
    assert not (bench.stored)
    assert not (bench.published)


def test_a_member_whose_record_stood_and_whose_chord_is_not_complete_just_ends() -> None:
    bench = Bench()
    bench.complete = False
    found = bench.add(member(here=True, publications=[publication("link")]))
    assert len(bench.brought) == 1
    assert (names(found.publications), found.completes, found.parts) == (["link"], "", ())


@pytest.mark.parametrize(
    "body", [publication("body", exchange="x"), publication("body", body=b"." * (MOST + 1))], ids=["exchange", "size"]
)
def test_a_body_that_only_publishing_can_tell_of_is_published_here(body: Publication) -> None:
    bench = Bench()
    found = bench.add(member(here=True, body=body, publications=[publication("link")]))
    assert bench.published == ["link", "body"]
    assert not found.has_payload


def test_and_fails_if_it_is_refused() -> None:
    bench = Bench()
    bench.refused = {"body"}
    found = bench.add(member(here=True, body=publication("body", body=b"." * (MOST + 1))))
    assert (bench.stored, bench.published) == (["body"], ["errback"])
    assert found.verdict is Verdict.ACK


def test_what_was_acknowledged_early_has_no_settlement_left_to_go_with() -> None:
    bench = Bench()
    found = bench.add(member(), early_ack=True)
    assert (bench.stored, len(bench.brought), bench.published) == (["member"], 1, ["body"])
    assert not found.has_payload


def test_where_only_records_are_one_with_the_end_chords_are_not() -> None:
    bench = Bench(atomic_chords=False)
    found = bench.add(member())
    assert (bench.stored, len(bench.brought), bench.published) == (["member"], 1, ["body"])
    assert not found.has_payload


def test_what_breaks_a_chord_is_found_out_here_and_what_follows_goes_along() -> None:
    bench = Bench()
    found = bench.add(broken())
    assert bench.stored == ["member", "body"]
    assert ([record.id for record in found.records], names(found.publications)) == (["next"], ["errback"])
    assert not (bench.published)
    assert not (found.completes)


def test_a_broker_that_is_away_is_waited_for() -> None:
    bench = Bench()
    bench.app.failures = [errors.OperationalError("away")]
    found = bench.add(member(here=True))
    assert found.verdict is Verdict.ACK
    assert names(found.publications) == ["body"]


def test_a_try_that_failed_leaves_nothing_behind() -> None:
    bench = Bench()
    bench.failures = [errors.OperationalError("away"), TypeError("odd")]
    found = bench.add(member(here=True))
    assert (found.verdict, "odd" in found.reason) == (Verdict.DEAD, True)
    assert not found.has_payload
    bench.delivered.clear()
    assert names(bench.add(member(here=True)).publications) == ["body"]


def test_parts_and_what_is_completed_survive_the_way_to_the_engine() -> None:
    record = Record(id="m", state=states.SUCCESS, result=b"\x00\xff" * 50, content_type="application/x-any", attempt=2)
    other = Record(id="other", state=states.SUCCESS, result=b"1")
    prepared = Record(id="p", state=states.SUCCESS, prepared=[b"a", b""])
    parts = [
        ChordPart("žluť", 3, 1, record),
        ChordPart("c2", 2, 4, other, added=True),
        ChordPart("c3", 1, 0, prepared),
    ]
    ending = Ending(
        7, Verdict.ACK, records=[record, prepared], parts=parts, completes="č", publications=[publication("b")]
    )
    _, back = frames.unpack_ending(frames.pack_ending(3, ending, with_payload=True))
    assert ([*back.records], [*back.parts], back.completes) == ([record, prepared], parts, "č")
    assert names(back.publications) == ["b"]
    # The result is there once.
    assert frames.pack_ending(3, ending, with_payload=True).count(record.result) == 1
    _, back = frames.unpack_ending(frames.pack_ending(3, ending, with_payload=False))
    assert not back.has_payload


def test_that_it_has_ended_travels_to_the_child() -> None:
    item = Assignment(1, publication("m").message, "q", "token", joined=True)
    packed = [frames.pack_assignment(1, item, joined=joined) for joined in (True, False)]
    _, back = frames.unpack_batch(frames.pack_batch(1, packed))
    assert [each.joined for each in back] == [True, False]
