"""Copies of one chord's body: which of them runs, what becomes of the others, and how they are told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from kernel import errors, group, states
from kernel.app import Kernel
from kernel.call import Call
from kernel.interfaces.backend import Record
from kernel.interfaces.broker import STORED, PublishOutcome, PublishState, Verdict
from kernel.message import Message, Publication
from kernel.task import Task
from kernel.worker.assignment import Ending, Obituary
from tests.unit.executing import Bench

CHORD = "c"


@pytest.fixture
def app() -> Iterator[Kernel]:
    policy = {"max_retries": 1, "interval_step": 0.001}
    with Kernel("bodies", broker="memory://", backend="memory://", task_publish_retry_policy=policy) as made:

        @made.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        @made.task(name="fails")
        def fails(values: list[int]) -> None:
            raise ValueError(values)

        @made.task(name="swap", bind=True)
        def swap(self: Task[..., Any], values: list[int]) -> Any:
            return self.replace(total.s(values))

        @made.task(name="again", bind=True)
        def again(self: Task[..., Any], values: list[int]) -> int:
            if self.request.retries < 2:
                raise self.retry(countdown=0)
            return sum(values)

        @made.task(name="coroutine")
        async def coroutine(values: list[int]) -> int:
            return sum(values)

        @made.task(name="member")
        def member(x: int) -> int:
            return x

        yield made


@pytest.fixture
def bench(app: Kernel) -> Bench:
    return Bench(app)


def copy_of(bench: Bench, task: str, copy: str, number: int | None = None, **options: Any) -> Message:
    message = bench.message(task, [1, 2], task_id="x", **options)
    which = {} if number is None else {"kernel_body_task": number}
    return message.replace_headers(kernel_chord=CHORD, kernel_copy=copy, **which)


def gave_way(ending: Ending) -> bool:
    nothing = not (ending.records or ending.publications or ending.for_chords)
    return (ending.verdict, ending.state) == (Verdict.ACK, "") and nothing


# --- which of them runs -------------------------------------------------------------------------------------


def test_the_first_runs_and_another_gives_way(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "kernel.worker"):
        first = bench.run_message(copy_of(bench, "total", "a"))
        other = bench.run_message(copy_of(bench, "total", "b", redelivered=True))
    assert first.state == states.SUCCESS, "nothing of it was stored yet when the other came"
    assert gave_way(other)
    assert bench.started_seqs == [first.seq]
    assert [entry.message for entry in caplog.records if "gives way" in entry.message]


def test_the_same_copy_runs_again_when_its_worker_died(bench: Bench) -> None:
    for _ in range(2):
        assert bench.run_message(copy_of(bench, "total", "a"), seen=True).state == states.SUCCESS
    assert gave_way(bench.run_message(copy_of(bench, "total", "b"), seen=True))


def test_the_other_gives_way_after_the_end_too_and_publishes_nothing_again(bench: Bench) -> None:
    sent = copy_of(bench, "total", "a", link=bench.app.signature("member"))
    bench.carry_out(bench.run_message(sent))
    assert gave_way(bench.run_message(copy_of(bench, "total", "b", link=bench.app.signature("member")), seen=True))
    assert len(bench.run_message(sent, seen=True).publications) == 1, "the copy that ran sees to its link"


def test_each_task_of_a_body_has_its_own_copies(bench: Bench) -> None:
    endings = [bench.run_message(copy_of(bench, "total", copy, n)) for copy in "ab" for n in (0, 1)]
    assert [gave_way(ending) for ending in endings] == [False, False, True, True]


def test_retries_of_the_copy_that_runs_are_that_copy(bench: Bench) -> None:
    sent = copy_of(bench, "again", "a")
    for _ in range(2):
        [following] = bench.run_message(sent).publications
        assert gave_way(bench.run_message(copy_of(bench, "again", "b")))
        sent = following.message
    assert bench.value(bench.run_message(sent).records[0]) == 3


def test_what_takes_the_place_of_the_body_runs(bench: Bench) -> None:
    [replacement] = bench.run_message(copy_of(bench, "swap", "a")).publications
    assert gave_way(bench.run_message(copy_of(bench, "swap", "b")))
    assert bench.value(bench.run_message(replacement.message).records[0]) == 3


def test_a_replay_from_the_dead_letters_runs(bench: Bench) -> None:
    sent = copy_of(bench, "fails", "a")
    bench.carry_out(bench.run_message(sent))
    again = bench.run_message(sent.replayed(), seen=True)
    assert (again.state, again.records[0].attempt) == (states.FAILURE, 1)
    assert gave_way(bench.run_message(copy_of(bench, "fails", "b")))


def test_the_obituary_of_a_copy_that_gives_way_tells_nobody(bench: Bench) -> None:
    revoked = Obituary(states.REVOKED, "TaskRevokedError", "revoked")
    bench.run_message(copy_of(bench, "total", "a"))
    assert gave_way(bench.run_message(copy_of(bench, "total", "b"), obituary=revoked))
    buried = bench.run_message(copy_of(bench, "total", "a"), obituary=revoked)
    assert [record.state for record in buried.records] == [states.REVOKED]


def test_a_body_that_cannot_be_run_is_kept_once(bench: Bench) -> None:
    endings = [bench.run_message(copy_of(bench, "nowhere", copy)) for copy in "ab"]
    assert endings[0].verdict is Verdict.DEAD
    assert gave_way(endings[1])


def test_coroutines_give_way(bench: Bench) -> None:
    async def run(copy: str) -> Ending:
        await bench.executor.job(bench.assignment(copy_of(bench, "coroutine", copy))).arun()
        return bench.endings[-1]

    async def both() -> list[Ending]:
        return [await run("a"), await run("b")]

    endings = asyncio.run(both())
    assert [gave_way(ending) for ending in endings] == [False, True]


# --- who pays for it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"kernel_chord": CHORD}, {"kernel_copy": "a"}, {"kernel_copy": ""}])
def test_nobody_else_asks_the_backend(bench: Bench, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.app.backend, "begin_body", lambda *_, **__: pytest.fail("it asked"))
    sent = bench.message("total", [1], task_id="x").replace_headers(**headers)
    assert bench.run_message(sent).state == states.SUCCESS


def test_a_backend_that_is_away_sends_the_body_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.worker.running.execute._LOOK_PAUSE", 0.001)
    asked = []

    def away(*_: Any, **__: Any) -> bool:
        asked.append(1)
        raise errors.OperationalError("away")

    monkeypatch.setattr(bench.app.backend, "begin_body", away)
    ending = bench.run_message(copy_of(bench, "total", "a"))
    assert (ending.verdict, ending.charged, ending.state) == (Verdict.REQUEUE, False, "")
    assert ending.delay > 0
    assert 1 < len(asked) < 10
    assert bench.started_seqs == []
    # There is no message that could go back.
    assert bench.run_message(copy_of(bench, "total", "a"), early_ack=True).state == states.SUCCESS
    lost = Obituary(states.FAILURE, "WorkerLostError", "gone", Verdict.DEAD)
    assert bench.run_message(copy_of(bench, "total", "a"), obituary=lost).verdict is Verdict.DEAD


# --- how they are told apart --------------------------------------------------------------------------------


def completed(bench: Bench, body: Any, **chord: Any) -> Sequence[Publication]:
    """What is published when the only member of a chord has come, and its end is settled by itself."""
    sent = bench.message("member", 7, group_id=CHORD, group_index=0, chord={**dict(body), "chord_size": 1, **chord})
    join = bench.run_message(sent).join
    assert join is not None
    followed = join.complete([Record(id="m", state=states.SUCCESS, result=b"7")])
    assert marks(followed.publications) == [(None, None, None)] * len(followed.publications)
    assert followed.apart is not None
    followed.apart()
    return followed.publications


def marks(publications: Sequence[Publication]) -> list[tuple[Any, ...]]:
    names = ("kernel_chord", "kernel_copy", "kernel_body_task")
    return [tuple(item.message.headers.get(name) for name in names) for item in publications]


def test_a_body_says_whose_it_is_and_which_copy(bench: Bench) -> None:
    total = bench.app.tasks["total"]
    [(chord, copy, number)] = marks(completed(bench, total.s().set(task_id="b")))
    assert (chord, number) == (CHORD, None)
    [(_, other, _)] = marks(completed(bench, total.s().set(task_id="b")))
    assert copy
    assert other
    assert copy != other


def test_a_body_of_several_tasks_numbers_them(bench: Bench) -> None:
    total = bench.app.tasks["total"]
    found = marks(completed(bench, group(total.s(), total.s())))
    assert [(chord, number) for chord, _, number in found] == [(CHORD, 0), (CHORD, 1)]


def test_an_end_that_comes_again_is_one_copy_more_however_it_is_sent(bench: Bench) -> None:
    """The run before may have published the body apart, and not have been settled."""
    body = bench.app.tasks["total"].s().set(task_id="b")
    sent = bench.message("member", 7, group_id=CHORD, group_index=0, chord={**dict(body), "chord_size": 1})
    join = bench.run_message(sent, seen=True).join
    assert join is not None
    followed = join.complete([Record(id="m", state=states.SUCCESS, result=b"7")])
    [(chord, copy, number)] = marks(followed.publications)
    assert (chord, number) == (CHORD, None)
    assert followed.apart is not None
    followed.apart()
    [(_, other, _)] = marks(followed.publications)
    assert copy
    assert other not in (None, copy)


def test_what_celery_made_is_not_deleted_by_us(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    able = type("Able", (), {"foreign_chords": True, "chords": True})
    monkeypatch.setattr(type(bench.app.opened), "joins", property(lambda _: able))
    [(chord, copy, number)] = marks(completed(bench, bench.app.tasks["total"].s(), chord_size=None))
    assert (chord, number) == (CHORD, 0)
    assert copy


class Unsure:
    """A broker that does not know what became of the first messages."""

    def __init__(self, unknown: int) -> None:
        self.left = unknown
        self.sent: list[Message] = []

    def declare(self, queues: Sequence[Any]) -> None: ...

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        self.sent += [item.message for item in batch]
        self.left -= 1
        return [STORED if self.left < 0 else PublishOutcome(PublishState.UNKNOWN, "cut")] * len(batch)

    def close(self) -> None: ...


@pytest.mark.parametrize("unknown", [0, 1, 5])
def test_each_publication_is_another_copy(app: Kernel, unknown: int) -> None:
    broker = Unsure(unknown)
    app.opened._broker = broker  # type: ignore[assignment]
    body = app.publisher.prepare(Call("total", ([1],)))
    body.message = body.message.replace_headers(kernel_chord=CHORD, kernel_copy="a")
    plain = app.publisher.prepare(Call("total", ([1],)))
    for _ in range(4):
        answers = app.publisher.deliver([body, plain])
        if answers == [None, None]:
            break
    assert answers == [None, None]
    copies = [message.headers["kernel_copy"] for message in broker.sent[::2]]
    assert len(set(copies)) == len(copies) == unknown + 1
    assert [bool(message.headers.get("redelivered")) for message in broker.sent[1::2]] == [False, *[True] * unknown]
    assert not any("kernel_copy" in message.headers for message in broker.sent[1::2])
