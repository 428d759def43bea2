"""Every end that is added to an outbox is delivered, whatever the backend and the broker do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kernel import errors, states
from kernel.interfaces.backend import WON, Record, StoreOutcome, StoreState
from kernel.interfaces.broker import Verdict
from kernel.message import Message, Publication
from kernel.worker.assignment import Ending
from kernel.worker.failpoints import Failpoints
from kernel.worker.running.outbox import Outbox


class Bench:
    """An outbox with a backend and a publisher that do as they are told."""

    def __init__(self) -> None:
        self.stored: list[Record] = []
        self.published: list[Publication] = []
        self.delivered: list[Ending] = []
        self.valid = True
        self.gives_up = False
        self.standing: dict[str, Record] = {}
        self.store_error: Callable[[Sequence[Record]], BaseException | None] = lambda _: None
        self.publish_answer: Callable[[Publication], BaseException | None] = lambda _: None
        self.resumed: list[int] = []
        app: Any = SimpleNamespace(
            backend=SimpleNamespace(store=self._store), publisher=SimpleNamespace(deliver=self._publish)
        )
        self.outbox = Outbox(
            app,
            atomic=False,
            deliver=self.delivered.extend,
            resume=self._resume,
            valid=lambda: self.valid,
            gives_up=lambda: self.gives_up,
            failpoints=Failpoints(),
        )

    def _store(self, records: Sequence[Record]) -> list[StoreOutcome]:
        error = self.store_error(records)
        if error is not None:
            raise error
        self.stored += records
        return [
            StoreOutcome(StoreState.STANDING, self.standing[record.id]) if record.id in self.standing else WON
            for record in records
        ]

    def _publish(self, publications: Sequence[Publication]) -> list[BaseException | None]:
        answers = [self.publish_answer(item) for item in publications]
        self.published += [item for item, answer in zip(publications, answers, strict=True) if answer is None]
        return answers

    def _resume(self, seq: int, standing: Record) -> Ending:
        self.resumed.append(seq)
        return Ending(seq, Verdict.ACK)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def publication(name: str) -> Publication:
    return Publication(Message({"id": name, "task": "t"}, b"", content_type="application/json"), "q")


def ending(seq: int, state: str = states.SUCCESS, **fields: Any) -> Ending:
    return Ending(seq, Verdict.ACK, records=[Record(id=f"id{seq}", state=state)], **fields)


def add(bench: Bench, *endings: Ending) -> None:
    """Together, as one batch."""
    for item in endings[:-1]:
        bench.outbox._pending.append(SimpleNamespace(ending=item, early=False, direct=False))  # type: ignore[arg-type]
    bench.outbox.add(endings[-1], more_soon=False)


def keep_for_company(bench: Bench) -> None:
    """Have the next record wait for others, as it does right after another one."""
    bench.outbox._recorded = time.monotonic() + 60


def test_a_record_that_comes_after_none_for_a_while_is_stored_at_once_with_what_waits(bench: Bench) -> None:
    bench.outbox._oldest = time.monotonic() + 60  # what waits has just come, however slow this machine is
    bench.outbox._pending.append(SimpleNamespace(ending=Ending(1, Verdict.ACK), early=False, direct=True))  # type: ignore[arg-type]
    bench.outbox.add(ending(2), more_soon=True)
    assert [record.id for record in bench.stored] == ["id2"]
    assert [item.seq for item in bench.delivered] == [1, 2]
    keep_for_company(bench)
    bench.outbox.add(ending(3), more_soon=True)
    bench.outbox.close()
    assert [record.id for record in bench.stored] == ["id2", "id3"]


def test_a_retry_that_meets_a_terminal_record_is_not_published(bench: Bench) -> None:
    bench.standing["id1"] = Record(id="id1", state=states.SUCCESS)
    add(bench, ending(1, states.RETRY, publications=[publication("again")]))
    assert bench.resumed == [1]
    assert not bench.published
    assert [item.verdict for item in bench.delivered] == [Verdict.ACK]


def test_a_standing_record_that_is_not_terminal_resumes_nothing(bench: Bench) -> None:
    bench.standing["id1"] = Record(id="id1", state=states.STARTED, attempt=2)
    add(bench, ending(1, publications=[publication("next")]))
    assert not bench.resumed
    assert len(bench.published) == 1


def test_an_end_that_outlived_its_lease_is_handed_back_and_frees_its_slot(bench: Bench) -> None:
    bench.valid = False
    bench.store_error = lambda _: errors.OperationalError("away")
    add(bench, ending(1), ending(2))
    assert [(item.seq, item.verdict) for item in bench.delivered] == [(1, Verdict.REQUEUE), (2, Verdict.REQUEUE)]


def test_one_that_was_acknowledged_early_is_never_given_up(bench: Bench) -> None:
    """There is no message left that could be handed back."""
    bench.valid = False
    failures = iter([errors.OperationalError("away"), errors.OperationalError("away"), None])
    bench.store_error = lambda _: next(failures)
    bench.outbox.add(ending(1), more_soon=False, early_ack=True)
    assert [item.verdict for item in bench.delivered] == [Verdict.ACK]
    assert [record.id for record in bench.stored] == ["id1"]


def test_a_worker_that_is_to_end_hands_back_what_it_cannot_store(bench: Bench) -> None:
    tries: list[int] = []

    def fail(records: Sequence[Record]) -> BaseException:
        tries.append(len(records))
        bench.gives_up = len(tries) > 2
        return errors.OperationalError("away")

    bench.store_error = fail
    add(bench, ending(1))
    assert [item.verdict for item in bench.delivered] == [Verdict.REQUEUE]
    assert len(tries) == 3


def test_and_ends_without_the_record_of_what_was_acknowledged_early(bench: Bench) -> None:
    bench.gives_up = True
    bench.store_error = lambda _: errors.OperationalError("away")
    bench.outbox.add(ending(1), more_soon=False, early_ack=True)
    assert [item.verdict for item in bench.delivered] == [Verdict.ACK]
    assert not bench.stored


def test_a_login_that_is_refused_for_a_while_makes_no_dead_letters(bench: Bench) -> None:
    failures = iter([errors.ImproperlyConfigured("refused the login"), None])
    bench.store_error = lambda _: next(failures)
    add(bench, ending(1))
    assert [item.verdict for item in bench.delivered] == [Verdict.ACK]
    assert [record.id for record in bench.stored] == ["id1"]


def test_one_that_cannot_be_stored_takes_no_other_with_it(bench: Bench) -> None:
    bench.store_error = lambda records: TypeError("odd") if any(item.id == "id2" for item in records) else None
    add(bench, ending(1), ending(2), ending(3))
    assert [(item.seq, item.verdict) for item in bench.delivered] == [
        (1, Verdict.ACK),
        (2, Verdict.DEAD),
        (3, Verdict.ACK),
    ]
    assert "odd" in bench.delivered[1].reason


def test_a_refused_successor_keeps_its_parent_and_is_not_tried_for_ever(bench: Bench) -> None:
    bench.publish_answer = lambda item: errors.PublishRefused("too large") if item.message.id == "big" else None
    add(bench, ending(1, publications=[publication("big")]), ending(2, publications=[publication("small")]))
    assert [(item.seq, item.verdict) for item in bench.delivered] == [(1, Verdict.DEAD), (2, Verdict.ACK)]
    assert [item.message.id for item in bench.published] == ["small"]


def test_only_what_was_not_published_is_published_again(bench: Bench) -> None:
    tries: dict[str, list[BaseException | None]] = {"a": [None], "b": [errors.OperationalError("away"), None]}
    bench.publish_answer = lambda item: tries[item.message.id].pop(0)
    add(bench, ending(1, publications=[publication("a"), publication("b")]))
    assert [item.message.id for item in bench.published] == ["a", "b"]
    assert [item.verdict for item in bench.delivered] == [Verdict.ACK]


def test_a_flush_for_a_loop_is_done_on_a_thread(bench: Bench) -> None:
    done = threading.Event()
    where: list[str] = []

    def note(_: Sequence[Record]) -> None:
        where.append(threading.current_thread().name)
        done.set()

    bench.store_error = note
    keep_for_company(bench)
    bench.outbox.add(ending(1), more_soon=True)
    bench.outbox.flush_soon()
    assert done.wait(5)
    bench.outbox.close()
    assert where == ["kernel-outbox"]
    assert len(bench.delivered) == 1


def test_short_ends_leave_together_and_no_slot_counts_as_running() -> None:
    delivered: list[list[int]] = []
    held: list[int] = []
    outbox = Outbox(
        SimpleNamespace(),  # type: ignore[arg-type]
        atomic=True,
        deliver=lambda endings: delivered.append([ending.seq for ending in endings]),
        resume=lambda _seq, _record: None,
        valid=lambda: True,
        gives_up=lambda: False,
        failpoints=Failpoints(),
        held=held.append,
    )
    outbox.add(Ending(1, Verdict.ACK), more_soon=False)
    assert (delivered, held) == ([[1]], [])
    outbox.add(Ending(2, Verdict.ACK), more_soon=True)
    outbox.add(Ending(3, Verdict.ACK), more_soon=False)
    assert [seq for batch in delivered for seq in batch] == [1, 2, 3]
    assert held[0] == 2
    outbox.close()


def test_who_looks_for_a_record_waits_for_the_one_that_is_being_stored(bench: Bench) -> None:
    """What ended in this process stands when `flush_now` is over, whoever is at it."""
    storing, go_on = threading.Event(), threading.Event()

    def held(_: Sequence[Record]) -> None:
        storing.set()
        assert go_on.wait(10)

    bench.store_error = held
    keep_for_company(bench)
    bench.outbox.add(ending(1), more_soon=True)
    other = threading.Thread(target=bench.outbox.flush)
    other.start()
    assert storing.wait(10)
    assert not bench.stored
    threading.Timer(0.05, go_on.set).start()
    bench.outbox.flush_now()
    assert [record.id for record in bench.stored] == ["id1"]
    other.join(10)


def test_and_for_those_that_came_while_others_were_being_stored(bench: Bench) -> None:
    """Whoever has the lock need not be the one who stores them, and may not have begun with them when it is free."""
    keep_for_company(bench)
    bench.outbox._flushing.acquire()
    bench.outbox.add(ending(1), more_soon=True)
    threading.Timer(0.05, bench.outbox._flushing.release).start()
    bench.outbox.flush_now()
    assert [record.id for record in bench.stored] == ["id1"]
    bench.outbox.close()
