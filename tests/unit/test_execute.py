"""The executor: from bytes to exactly one ending, whatever the bytes and whatever the body."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kernel import errors, states
from kernel.app import Kernel
from kernel.hooks import hookimpl
from kernel.interfaces.backend import Record
from kernel.interfaces.broker import Verdict
from kernel.interfaces.outcome import Outcome
from kernel.message import Message
from kernel.request import Request, current_request
from kernel.task import Task
from kernel.worker.assignment import Ending, Obituary
from tests.unit.executing import Bench

LIMIT = 20.0


class Diary:
    """A plugin that notes how tasks begin and end."""

    def __init__(self) -> None:
        self.starts: list[str | None] = []
        self.ends: list[tuple[str | None, str]] = []

    @hookimpl
    def kernel_task_start(self, request: Request) -> None:
        self.starts.append(request.id)

    @hookimpl
    def kernel_task_end(self, request: Request, outcome: Outcome) -> None:
        self.ends.append((request.id, outcome.state))


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def app(diary: Diary) -> Iterator[Kernel]:
    with Kernel("test_execute", broker="memory://", backend="memory://", plugins=[diary]) as made:
        yield made


@pytest.fixture
def bench(app: Kernel) -> Bench:
    return Bench(app)


@pytest.fixture
def add(app: Kernel) -> Task[..., Any]:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


def test_a_task_runs_and_its_record_is_handed_on(bench: Bench, add: Any, diary: Diary) -> None:
    ending = bench.run(add, 2, 3, task_id="one")
    assert (ending.verdict, ending.state, ending.task, ending.charged) == (Verdict.ACK, states.SUCCESS, "add", False)
    assert ending.runtime > 0
    [record] = ending.records
    assert (record.id, record.state, bench.value(record), record.worker) == ("one", states.SUCCESS, 5, None)
    assert record.date_done is not None
    assert bench.started_seqs == [ending.seq]
    assert diary.starts == ["one"]
    assert diary.ends == [("one", states.SUCCESS)]


def test_a_job_says_what_it_is(bench: Bench, add: Any, app: Kernel) -> None:
    @app.task
    async def wait() -> None: ...

    job = bench.job(add, 1, 2)
    assert (job.seq, job.task_name, job.is_coroutine, job.thread_id) == (1, "add", False, None)
    assert bench.job(wait).is_coroutine
    strange = bench.executor.job(bench.assignment(Message(b"nonsense", b"", content_type="application/json")))
    assert (strange.task_name, strange.is_coroutine) == ("", False)
    job.run()
    assert job.thread_id == threading.get_ident()


def test_nothing_of_a_task_is_left_on_its_thread(bench: Bench, app: Kernel) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("left", default="clean")

    @app.task
    def leave() -> str:
        found = variable.get()
        variable.set("dirty")
        return found

    values = [bench.value(bench.run(leave).records[0]) for _ in range(2)]
    assert values == ["clean", "clean"]
    assert current_request.get() is None


# --- messages that are no tasks -----------------------------------------------------------------------------


def message(headers: Any, body: bytes = b"[[1, 2], {}, null]", content_type: str = "application/json") -> Message:
    text = headers if isinstance(headers, bytes) else json.dumps(headers).encode()
    return Message(text, body, content_type=content_type)


GOOD = {"id": "x", "task": "add"}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (message(GOOD, b"not json"), "DecodeError"),
        (message(GOOD, b"[1]"), "InvalidTaskError"),
        (message(GOOD, b'[[1, 2], {"1": 2}, "x"]'), "InvalidTaskError"),
        (message(GOOD, b"[" * 100_000), "DecodeError"),
        (message(GOOD, b"\x80\x04.", "application/x-python-serialize"), "ContentDisallowed"),
        (message({**GOOD, "compression": "application/x-gzip"}), "DecodeError"),
        (message({**GOOD, "compression": "no/such"}), "DecodeError"),
        (message({**GOOD, "retries": -1}), "InvalidTaskError"),
        (message({**GOOD, "timelimit": "soon"}), "InvalidTaskError"),
        (message({**GOOD, "task": "ad"}), "NotRegistered"),
        (message({**GOOD, "task": "os.system"}), "NotRegistered"),
        (message({"id": "x", "task": 5}), "InvalidTaskError"),
        (message({"id": "x"}), "InvalidTaskError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_that_cannot_be_run_is_kept_and_whoever_waits_wakes(
    bench: Bench, add: Any, bad: Message, error: str
) -> None:
    ending = bench.run_message(bad)
    assert ending.verdict is Verdict.DEAD
    assert ending.reason.startswith(error)
    bench.carry_out(ending)
    failure = bench.app.AsyncResult("x").result
    assert type(failure).__name__ == error
    assert bench.started_seqs == []


@pytest.mark.parametrize("headers", [b"nonsense", b"[]", b"", {"task": "add"}, {"id": 7, "task": "add"}])
def test_a_message_without_an_id_is_kept_all_the_same(bench: Bench, add: Any, headers: Any) -> None:
    ending = bench.run_message(message(headers))
    assert ending.verdict is Verdict.DEAD
    assert ending.reason
    assert ending.records == ()


def test_an_unknown_task_names_its_neighbours(bench: Bench, add: Any) -> None:
    assert "'add'" in bench.run_message(message({**GOOD, "task": "addd"})).reason


# --- what ran before ----------------------------------------------------------------------------------------


def forbidden(app: Kernel) -> Task[..., Any]:
    @app.task(name="forbidden")
    def body() -> None:
        pytest.fail("it ran again")

    return body


@pytest.mark.parametrize(("queue", "runs"), [("bcast.w1@host.everyone", 1), ("celery", 0)])
def test_a_copy_of_its_own_is_run_whatever_became_of_others(bench: Bench, app: Kernel, queue: str, runs: int) -> None:
    ran: list[int] = []

    @app.task(name="note")
    def note() -> None:
        ran.append(1)

    sent = bench.message(note, task_id="everyone")
    bench.carry_out(bench.run_message(sent, queue="bcast.w2@host.everyone"))
    ran.clear()
    bench.run_message(sent, queue=queue, seen=True)
    assert len(ran) == runs


@pytest.mark.parametrize("how", ["seen", "redelivered"])
def test_what_has_its_record_is_not_run_again(bench: Bench, app: Kernel, diary: Diary, how: str) -> None:
    task = forbidden(app)
    after = app.signature("after")
    app.backend.store([Record(id="x", state=states.SUCCESS, result=b"5")])
    sent = bench.message(task, task_id="x", link=after, redelivered=how == "redelivered")
    ending = bench.run_message(sent, seen=how == "seen")
    assert (ending.verdict, ending.state, ending.records) == (Verdict.ACK, "", ())
    [successor] = ending.publications
    assert bench.body(successor)[0] == [5]
    assert successor.message.headers["redelivered"] is True
    assert bench.started_seqs == []
    assert diary.ends == []


def test_what_failed_before_publishes_its_errbacks_again(bench: Bench, app: Kernel) -> None:
    task = forbidden(app)
    sent = bench.message(task, task_id="x", link_error=app.signature("after"))
    app.backend.store([Record(id="x", state=states.FAILURE, result=b'{"exc_type": "ValueError"}')])
    [successor] = bench.run_message(sent, seen=True).publications
    assert bench.body(successor)[0] == ["x"]
    app.backend.forget(["x"])
    app.backend.store([Record(id="x", state=states.REVOKED)])
    assert bench.run_message(sent, seen=True).publications == ()


@pytest.mark.parametrize("state", [None, states.STARTED, states.RETRY, "PROGRESS"])
def test_what_did_not_end_runs_again(bench: Bench, add: Any, app: Kernel, state: str | None) -> None:
    if state is not None:
        app.backend.store([Record(id="x", state=state)])
    sent = bench.message(add, 2, 3, task_id="x", link=app.signature("after"))
    ending = bench.run_message(sent, seen=True)
    assert ending.state == states.SUCCESS
    [successor] = ending.publications
    assert successor.message.headers["redelivered"] is True, "the first run may have published it"


def test_a_replay_from_the_dead_letters_runs_and_replaces_the_failure(bench: Bench, add: Any, app: Kernel) -> None:
    app.backend.store([Record(id="x", state=states.FAILURE)])
    ending = bench.run_message(bench.message(add, 2, 3, task_id="x").replayed(), seen=True)
    assert ending.records[0].attempt == 1
    bench.carry_out(ending)
    assert app.AsyncResult("x").get(timeout=LIMIT) == 5
    again = bench.run_message(bench.message(add, 2, 3, task_id="x").replayed(), seen=True)
    assert again.records == (), "a success is replaced by nothing, and not run again"


def test_what_is_new_does_not_ask_the_backend(bench: Bench, add: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.app.backend, "load", lambda ids: pytest.fail("it asked"))
    assert bench.run(add, 1, 2).state == states.SUCCESS


def test_a_record_that_cannot_be_read_sends_the_task_back(
    bench: Bench, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel.worker.running.execute._LOOK_PAUSE", 0.001)
    calls = []

    def load(ids: Any) -> Any:
        calls.append(ids)
        raise errors.OperationalError("away")

    monkeypatch.setattr(bench.app.backend, "load", load)
    ending = bench.run_message(bench.message(add, 1, 2), seen=True)
    assert (ending.verdict, ending.charged, ending.state) == (Verdict.REQUEUE, False, "")
    assert ending.delay > 0
    assert 1 < len(calls) < 10


def test_a_backend_that_cannot_be_opened_sends_the_task_back(
    bench: Bench, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first task that a worker meets may be one that another left behind."""
    monkeypatch.setattr("kernel.worker.running.execute._LOOK_PAUSE", 0.001)
    sent = bench.message(add, 1, 2)

    def away(_: object) -> Any:
        raise errors.OperationalError("away")

    monkeypatch.setattr(type(bench.app), "backend", property(away))
    ending = bench.run_message(sent, seen=True)
    assert (ending.verdict, ending.charged, ending.state) == (Verdict.REQUEUE, False, "")
    assert ending.delay > 0


def test_a_lost_lease_sends_the_task_back_unrun(bench: Bench, app: Kernel) -> None:
    ending = bench.run_message(bench.message(forbidden(app)), valid=lambda: False)
    assert (ending.verdict, ending.state, ending.charged) == (Verdict.REQUEUE, "", False)


# --- resume -------------------------------------------------------------------------------------------------


def test_a_record_that_stands_wins_over_a_second_run(bench: Bench, app: Kernel) -> None:
    values = iter([1, 2])

    @app.task
    def draw() -> int:
        return next(values)

    sent = bench.message(draw, task_id="x", link=app.signature("after"))
    bench.carry_out(bench.run_message(sent))
    [successor] = bench.carry_out(bench.run_message(sent))
    assert bench.body(successor)[0] == [1], "the successor gets the value that is stored"
    assert app.AsyncResult("x").get(timeout=LIMIT) == 1


def test_a_dead_letter_stays_one_when_its_record_stands(bench: Bench, add: Any) -> None:
    bad = message({**GOOD, "task": "unknown"})
    bench.carry_out(bench.run_message(bad))
    ending = bench.run_message(bad)
    [standing] = bench.app.backend.load(["x"])
    assert standing is not None
    resumed = bench.executor.resume(bench.assignments[ending.seq], standing)
    assert resumed is not None
    assert (resumed.verdict, resumed.reason) == (Verdict.DEAD, ending.reason)


def test_a_resumed_task_whose_message_cannot_be_read(bench: Bench) -> None:
    assignment = bench.assignment(message(b"nonsense"))
    resumed = bench.executor.resume(assignment, Record(id="x", state=states.SUCCESS))
    assert resumed is not None
    assert resumed.verdict is Verdict.ACK


def test_a_record_of_another_task_resumes_nothing(bench: Bench, add: Any) -> None:
    ending = bench.run(add, 1, 2)
    assignment = bench.assignments[ending.seq]
    assert bench.executor.resume(assignment, Record(id="of-the-chain", state=states.FAILURE)) is None


# --- STARTED ------------------------------------------------------------------------------------------------


def test_track_started(bench: Bench, app: Kernel) -> None:
    seen: list[str] = []

    @app.task(bind=True, track_started=True)
    def body(self: Any) -> None:
        seen.append(app.AsyncResult(self.request.id).state)

    bench.run(body)
    assert seen == [states.STARTED]
    assert set(bench.value(bench.states[0])) == {"pid", "hostname"}
    bench.run(body, ignore_result=True)
    assert len(bench.states) == 1


def test_a_start_that_cannot_be_stored_stops_nothing(
    bench: Bench, app: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(track_started=True)
    def body() -> int:
        return 1

    def fail(records: Any) -> None:
        raise errors.OperationalError("away")

    monkeypatch.setattr(bench, "progress", fail)
    assert bench.run(body).state == states.SUCCESS


def test_update_state_goes_through_the_sink(bench: Bench, app: Kernel) -> None:
    @app.task(bind=True)
    def body(self: Any) -> None:
        self.update_state(state="PROGRESS", meta={"done": 1})

    bench.run(body, task_id="x")
    [record] = bench.states
    assert (record.id, record.state, bench.value(record)) == ("x", "PROGRESS", {"done": 1})


@pytest.mark.parametrize(
    ("state", "meta"), [("FAILURE", {"why": "mine"}), ("SUCCESS", 5), ("REVOKED", ValueError("no"))]
)
def test_a_task_that_names_its_end_and_raises_ignore_ends_so(
    bench: Bench, app: Kernel, state: str, meta: object
) -> None:
    @app.task(bind=True)
    def body(self: Any) -> None:
        self.update_state(state=state, meta=meta)
        assert not bench.states, "what has ended would not run again"
        raise errors.Ignore

    ending = bench.run(body, task_id="x")
    assert ending.verdict is Verdict.ACK
    [record] = ending.records
    assert (record.id, record.state) == ("x", state)
    assert record.date_done is not None
    app.backend.store([record])
    result = app.AsyncResult("x")
    assert result.state == state
    if state == "FAILURE":
        assert isinstance(result.result, errors.RemoteError)
        assert "'why': 'mine'" in str(result.result)
    else:
        assert repr(result.result) == repr(meta)


@pytest.mark.parametrize("how", ["return", "raise"])
def test_how_a_task_ends_counts_more_than_what_it_named(bench: Bench, app: Kernel, how: str) -> None:
    @app.task(bind=True)
    def body(self: Any) -> int:
        self.update_state(state="REVOKED")
        if how == "raise":
            raise KeyError("why")
        return 5

    ending = bench.run(body)
    assert [record.state for record in ending.records] == ["SUCCESS" if how == "return" else "FAILURE"]


def test_states_of_extended_results_say_which_call_runs_and_where(bench: Bench, app: Kernel) -> None:
    app.conf.result_extended = True

    @app.task(bind=True, track_started=True)
    def body(self: Any, value: int) -> None:
        self.update_state(state="PROGRESS")

    bench.run(body, kwargs={"value": 5}, task_id="x", retries=1)
    assert [record.state for record in bench.states] == [states.STARTED, "PROGRESS"]
    for record in bench.states:
        assert (record.name, record.worker, record.retries, record.queue) == (body.name, "worker@host", 1, "celery")
        app.backend.store([record])
        result = app.AsyncResult("x")
        assert (result.args, result.kwargs) == ([], {"value": 5})


# --- obituaries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obituary", "verdict", "kind"),
    [
        (Obituary(states.REVOKED, "TaskRevokedError", "expired"), Verdict.ACK, errors.TaskRevokedError),
        (Obituary(states.FAILURE, "TimeLimitExceeded", "3s"), Verdict.ACK, errors.TimeLimitExceeded),
        (Obituary(states.FAILURE, "WorkerLostError", "died", Verdict.DEAD), Verdict.DEAD, errors.WorkerLostError),
        (Obituary(states.FAILURE, "NoSuchError", "odd"), Verdict.ACK, errors.TaskError),
        (Obituary(states.FAILURE, "SystemExit", "odd"), Verdict.ACK, errors.TaskError),
    ],
    ids=lambda value: value.error if isinstance(value, Obituary) else "",
)
def test_an_obituary_ends_a_task_that_is_not_run(
    bench: Bench, app: Kernel, diary: Diary, obituary: Obituary, verdict: Verdict, kind: type[Exception]
) -> None:
    calls: list[Any] = []

    class Base(Task[..., Any]):
        def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            calls.append((type(exc), task_id, list(args)))

    @app.task(base=Base)
    def body(x: int) -> None:
        pytest.fail("it ran")

    ending = bench.bury(body, 1, task_id="x", link_error=app.signature("after"), obituary=obituary)
    assert (ending.verdict, ending.state) == (verdict, obituary.state)
    assert ending.reason == (f"{obituary.error}: died" if verdict is Verdict.DEAD else "")
    bench.carry_out(ending)
    assert type(app.AsyncResult("x").result) is kind
    failed = obituary.state == states.FAILURE
    assert calls == ([(kind, "x", [1])] if failed else [])
    assert len(ending.publications) == failed
    assert diary.ends == [("x", obituary.state)]
    assert bench.started_seqs == []


def test_the_obituary_of_what_cannot_be_decoded(bench: Bench) -> None:
    assignment = bench.assignment(
        message(GOOD, b"nonsense"), obituary=Obituary(states.REVOKED, "TaskRevokedError", "x")
    )
    ending = bench.run_assignment(assignment)
    assert (ending.verdict, ending.state, ending.records[0].id) == (Verdict.ACK, states.REVOKED, "x")


# --- coroutines ---------------------------------------------------------------------------------------------


def test_many_coroutines_at_once(bench: Bench, app: Kernel) -> None:
    running = 0
    most = 0

    @app.task(bind=True, track_started=True)
    async def wait(self: Any, n: int) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return n, self.request.id

    async def main() -> None:
        jobs = [bench.job(wait, n, task_id=str(n)) for n in range(50)]
        await asyncio.wait_for(asyncio.gather(*(job.arun() for job in jobs)), LIMIT)
        assert current_request.get() is None

    asyncio.run(main())
    assert most > 10
    assert sorted(ending.seq for ending in bench.endings) == list(range(1, 51))
    assert {tuple(bench.value(ending.records[0])) for ending in bench.endings} == {(n, str(n)) for n in range(50)}


def test_what_blocks_is_not_done_on_the_loop(bench: Bench, app: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    ended = bench.ended

    def slow(ending: Ending) -> None:
        threads.append(threading.current_thread().name)
        ended(ending)

    monkeypatch.setattr(bench, "ended", slow)

    @app.task
    async def body() -> int:
        return 1

    @app.task
    def plain() -> str:
        return threading.current_thread().name

    async def main() -> None:
        await bench.job(body).arun()
        await bench.job(plain).arun()

    asyncio.run(main())
    assert threading.current_thread().name not in threads
    assert bench.value(bench.endings[1].records[0]) != threading.current_thread().name


def test_a_coroutine_may_await_results(bench: Bench, app: Kernel) -> None:
    app.backend.store([Record(id="other", state=states.SUCCESS, result=b"5")])

    @app.task
    async def body() -> Any:
        return await app.AsyncResult("other").aget(timeout=LIMIT)

    asyncio.run(bench.job(body).arun())
    assert bench.value(bench.endings[-1].records[0]) == 5
    bench.run(body)
    assert bench.endings[-1].state == states.FAILURE, "a pool that runs one at a time would wait for itself"


def test_interrupting_a_job(bench: Bench, app: Kernel) -> None:
    @app.task
    async def wait() -> None:
        await asyncio.sleep(LIMIT)

    async def main() -> None:
        job = bench.job(wait)
        running = asyncio.create_task(job.arun())
        while job.thread_id is None:
            await asyncio.sleep(0.001)
        assert job.interrupt(errors.SoftTimeLimitExceeded)
        await asyncio.wait_for(running, LIMIT)
        assert not job.interrupt(errors.SoftTimeLimitExceeded)

    asyncio.run(main())
    assert bench.endings[-1].state == states.FAILURE
    assert "SoftTimeLimitExceeded" in bench.endings[-1].records[0].result.decode()


# --- defects ------------------------------------------------------------------------------------------------


def test_a_sink_that_fails_is_told_once_more_and_the_job_does_not_raise(
    bench: Bench, add: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Ending] = []

    def fail(ending: Ending) -> None:
        calls.append(ending)
        raise RuntimeError("broken")

    monkeypatch.setattr(bench, "ended", fail)
    bench.job(add, 1, 2).run()
    assert len(calls) == 1, "what was handed on is not taken back"
    assert "INTERNAL ERROR" in caplog.text


def test_a_defect_before_the_end_keeps_the_message(
    bench: Bench, add: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(seq: int) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(bench, "started", fail)
    ending = bench.run(add, 1, 2, task_id="x")
    assert ending.verdict is Verdict.DEAD
    assert "broken" in ending.reason
    bench.carry_out(ending)
    with pytest.raises(errors.TaskError, match="internal error"):
        bench.app.AsyncResult("x").get(timeout=LIMIT)
    assert "INTERNAL ERROR" in caplog.text


def test_plugins_and_hooks_that_fail_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks:
        @hookimpl
        def kernel_task_start(self, request: Request) -> None:
            raise RuntimeError("start")

        @hookimpl
        def kernel_task_end(self, request: Request, outcome: Outcome) -> None:
            raise RuntimeError("end")

    class Base(Task[..., Any]):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            raise SystemExit("hook")

        def after_return(self, *args: Any) -> None:
            raise ValueError("hook")

    with Kernel("test_execute", broker="memory://", backend="memory://", plugins=[Breaks()]) as app:
        bench = Bench(app)
        ending = bench.run(app.task(base=Base)(lambda: 1))
    assert (ending.state, ending.verdict) == (states.SUCCESS, Verdict.ACK)
    assert "on_success" in caplog.text
    assert "after_return" in caplog.text


def test_without_a_backend_nothing_is_stored() -> None:
    with Kernel("test_execute", broker="memory://") as app:
        bench = Bench(app)
        ending = bench.run(app.task(track_started=True)(lambda: {1, 2}))
        assert (ending.state, ending.records, bench.states) == (states.SUCCESS, (), [])
        task = app.tasks[ending.task]
        assert bench.run_message(bench.message(task), seen=True).state == states.SUCCESS
