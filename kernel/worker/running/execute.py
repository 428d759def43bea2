"""`Executor`: the life of one task in the process that runs it, from its bytes to its ending."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kernel import attempt, errors, failure, states
from kernel.attempt import Conclusion, Loops, Prepared
from kernel.codecs import EMPTY_EMBED
from kernel.guard import Guard
from kernel.interfaces.backend import Backend, Record, replaces
from kernel.interfaces.broker import Verdict
from kernel.interfaces.outcome import Outcome
from kernel.request import Request, current_request
from kernel.results.extended import extend
from kernel.routing.queue import PRIVATE
from kernel.worker.assignment import Assignment, Ending, Obituary, Sink
from kernel.worker.running import end as ends
from kernel.worker.running import replacing
from kernel.worker.running.life import Life

if TYPE_CHECKING:
    from kernel.app import Kernel

_log: Final = logging.getLogger("kernel.worker")

_LOOK_ATTEMPTS: Final = 4
_LOOK_PAUSE: Final = 0.1
_HAND_BACK_SECONDS: Final = 1.0
_REMEMBERED: Final = 1000

_T = TypeVar("_T")


class TaskJob:
    """One task to run. Implements `kernel.interfaces.pool.Job`."""

    __slots__ = ("_executor", "assignment", "ended", "guard", "ready")

    def __init__(self, executor: Executor, assignment: Assignment) -> None:
        self._executor = executor
        self.assignment = assignment
        self.guard = Guard()
        self.ended = False
        """Its ending was handed on."""
        self.ready: Life | Ending | None = None
        """What is known of it from its message, once that was read."""

    @property
    def seq(self) -> int:
        return self.assignment.seq

    @property
    def task_name(self) -> str:
        """The name of the task; empty where the message does not say."""
        try:
            return self.assignment.message.task
        except errors.InvalidTaskError:
            return ""

    @property
    def thread_id(self) -> int | None:
        """The thread its body runs on, once it does."""
        return self.guard.thread_id

    @property
    def is_coroutine(self) -> bool:
        task = self._executor.app.tasks.get(self.task_name)
        return task is not None and task.is_coroutine and self.assignment.obituary is None

    def make_ready(self) -> None:
        """Read its message before its turn. Never raises."""
        self.ready = self._executor.read(self.assignment)

    def run(self) -> None:
        # A context of its own: what a task sets in one must not be seen by the next task on this thread.
        contextvars.copy_context().run(self._executor.execute, self)

    async def arun(self) -> None:
        if self.is_coroutine:
            await self._executor.aexecute(self)
        else:
            import asyncio

            await asyncio.get_running_loop().run_in_executor(None, self.run)

    def interrupt(self, kind: type[BaseException]) -> bool:
        """Raise `kind` in the task's body, if it runs or is about to; whether it was sent.

        On the body's own thread (in a signal handler) it is raised here. It never hits anything but the body.
        """
        if kind is errors.LeaseLost:
            self.assignment.lost = True
        return self.guard.interrupt(kind)


class Executor:
    """Makes jobs of assignments, and delivers their endings to `sink`. One for each process."""

    def __init__(self, app: Kernel, *, hostname: str, sink: Sink) -> None:
        self.app = app
        self.hostname = hostname
        self._sink = sink
        self._loops = Loops()
        # Asked of the settings: the backend itself need not be opened here where the engine stores the results.
        self._has_backend = app.backend_url is not None
        self._prepared: dict[str, Prepared] = {}
        self._lock = threading.Lock()
        # Verdicts other than ACK, for `resume`: which of them was meant does not follow from a standing record.
        self._verdicts: OrderedDict[int, Ending] = OrderedDict()

    def job(self, assignment: Assignment) -> TaskJob:
        return TaskJob(self, assignment)

    def execute(self, job: TaskJob) -> None:
        """The life of a task, on this thread. Never raises."""
        try:
            life = self._begin(job)
            if life is None:
                return
            assert life.prepared is not None, "what is not registered has ended already"
            conclusion = attempt.run(life.prepared, life.request, guard=job.guard, loops=self._loops)
            ending, conclusion = ends.end(life, conclusion)
            observe: Callable[[], None] = partial(ends.observe, life, conclusion)
            if not life.prepared.looks_back:
                ending.observe, observe = observe, ending.observed
            self._deliver(job, ending)
            observe()
        except BaseException as exc:
            self._broken(job, exc)

    async def aexecute(self, job: TaskJob) -> None:
        """The same for a coroutine function on the running loop; what may block is done on threads."""
        import asyncio

        on_thread = asyncio.get_running_loop().run_in_executor
        before = current_request.get()
        try:
            if self._looks_first(job.assignment) or self._tracks_start(job) or _has_copies(job.assignment):
                life = await on_thread(None, contextvars.copy_context().run, self._begin, job)
            else:
                life = self._begin(job)
            if life is None:
                return
            assert life.prepared is not None, "what is not registered has ended already"
            current_request.set(life.request)
            conclusion = await attempt.arun(life.prepared, life.request, guard=job.guard)
            ending, conclusion = ends.end(life, conclusion)
            if ending.records or ending.publications or ending.for_chords:
                await on_thread(None, self._deliver, job, ending)
            else:
                self._deliver(job, ending)
            ends.observe(life, conclusion)
        except asyncio.CancelledError as exc:
            if job.ended:
                return
            _log.warning("task %s, number %d, goes back: its pool was cancelled: %s", job.task_name, job.seq, exc)
            self._deliver(job, Ending(job.seq, Verdict.REQUEUE, task=job.task_name))
        except BaseException as exc:
            self._broken(job, exc)
        finally:
            current_request.set(before)

    def resume(self, assignment: Assignment, standing: Record) -> Ending | None:
        """The ending of an assignment whose terminal record turned out to stand already. Never raises.

        None when the record is not the task's own but one that its ending names (the rest of a chain, failed by
        somebody before): that changes nothing of the ending.
        """
        life = self._life(assignment)
        if not isinstance(life, Life):
            return Ending(assignment.seq, Verdict.ACK)
        if standing.id != life.id:
            return replacing.resume(life, standing) if standing.id == replacing.record_id(life) else None
        meant = self._verdicts.pop(assignment.seq, None)
        ending = ends.resume(life, standing)
        if meant is not None and standing.state in states.PROPAGATE_STATES:
            ending.verdict, ending.reason = meant.verdict, meant.reason
        return ending

    def read(self, assignment: Assignment) -> Life | Ending | None:
        """What `_begin` would find first; None if that cannot be said yet."""
        try:
            return self._life(assignment)
        except Exception as exc:
            _log.debug("a message is read when it is its turn: %r", exc)
            return None

    # --- before the body ------------------------------------------------------------------------------------

    def _begin(self, job: TaskJob) -> Life | None:
        """Everything up to the body; None when there is no body to run and the task has ended."""
        assignment = job.assignment
        found = job.ready or self._life(assignment)
        if isinstance(found, Ending):
            self._deliver(job, found)
            return None
        life = found
        current_request.set(life.request)
        if life.request.kernel_copy is not None and not assignment.joined:
            ending = self._gives_way(life)
            if ending is not None:
                self._deliver(job, ending)
                return None
        if assignment.obituary is not None:
            self._bury(job, life, assignment.obituary)
            return None
        if life.verdict is not None:  # it cannot be run, and why is known
            assert life.refusal is not None, "a refused task has its reason"
            self._finish(job, life, attempt.failed(None, life.refusal))
            return None
        if not assignment.early_ack and not assignment.holds():
            # Somebody else may be running it by now; not so if it was acknowledged early.
            self._deliver(job, Ending(assignment.seq, Verdict.REQUEUE, task=life.name))
            return None
        if self._looks_first(assignment):
            ending = self._ended_before(life)
            if ending is None and assignment.joined:
                # Its record expired, or was forgotten. What it was nobody knows, and at the limit it is kept.
                _log.warning("task %s[%s] has ended, and its record is gone: it runs again", life.name, life.id)
                ending = Ending(assignment.seq, Verdict.REQUEUE, charged=True, task=life.name)
            if ending is not None:
                self._deliver(job, ending)
                return None
        self._sink.started(assignment.seq)
        if life.prepared is not None and life.prepared.task.track_started:
            self._report_start(life)
        return life

    def _life(self, assignment: Assignment) -> Life | Ending:
        """What is known of the task from its message; an ending where not even its name is readable."""
        app, message = self.app, assignment.message
        refusal: Exception | None = None
        try:
            args, kwargs, embed = app.codecs.decode_body(message)
        except Exception as exc:
            args, kwargs, embed = [], {}, dict(EMPTY_EMBED)
            refusal = exc
        try:
            request = Request.from_message(
                message,
                app=app,
                args=args,
                kwargs=kwargs,
                embed=embed,
                hostname=self.hostname,
                queue=assignment.queue,
                token=assignment.token,
                starts=assignment.starts,
                seen=assignment.seen,
                seq=assignment.seq,
                valid=assignment.holds,
                sink=self._sink,
            )
        except Exception as exc:
            refusal = exc
            named = self._bare_request(assignment)
            if named is None:
                return Ending(assignment.seq, Verdict.DEAD, reason=f"{type(exc).__name__}: {exc}"[:2000])
            request = named
        prepared = None
        if refusal is None:
            try:
                prepared = self._prepare(request.task or "")
            except Exception as exc:
                refusal = exc
        life = Life(app, assignment, request, prepared, self.hostname, self._loops, self._has_backend)
        if refusal is not None:
            life.refusal, life.verdict = refusal, Verdict.DEAD
        return life

    def _bare_request(self, assignment: Assignment) -> Request | None:
        """The request of a message with a header that cannot be, if its id at least is readable."""
        message = assignment.message
        try:
            task_id = message.id
        except errors.InvalidTaskError:
            return None
        name = message.headers.get("task")
        return Request(
            app=self.app,
            id=task_id,
            task=name if isinstance(name, str) else "",
            message=message,
            hostname=self.hostname,
            queue=assignment.queue,
            called_directly=False,
        )

    def _prepare(self, name: str) -> Prepared:
        """Raises `NotRegistered`, and what the task's options or a plugin raise."""
        prepared = self._prepared.get(name)
        task = self.app.tasks[name]
        if prepared is None or prepared.task is not task:
            with self._lock:
                prepared = self._prepared[name] = Prepared(self.app, task)
        return prepared

    def _looks_first(self, assignment: Assignment) -> bool:
        """Whether it may have been run before, and its record says so."""
        if assignment.queue.startswith(f"{PRIVATE}."):
            return False  # of what is sent to all, each worker runs its copy: the record may be another one's
        # What was acknowledged early was never claimed by anyone who started it.
        seen = assignment.joined or (assignment.seen and not assignment.early_ack)
        if not (seen or assignment.message.header("redelivered")):
            return False
        return assignment.obituary is None and self._has_backend

    def _ended_before(self, life: Life) -> Ending | None:
        """The ending of a task that has its terminal record already; None when it has to be run."""

        def look(backend: Backend) -> Sequence[Record | None]:
            if backend.capabilities.to_caller:
                return (None, None)  # only who called has the record
            # Its other copy may have ended in this process a moment ago.
            self._sink.flush()
            return backend.load([life.id, replacing.record_id(life)])

        found = self._asked(life, look, "its record cannot be read")
        if found is None or isinstance(found, Ending):
            return found
        standing, replaced = found
        if replaced is not None:
            return replacing.resume(life, replaced)
        if standing is None or standing.state not in states.READY_STATES:
            return None
        if replaces(states.FAILURE, life.request.attempt, standing.state, standing.attempt):
            return None  # it was replayed from the dead letters since
        return ends.resume(life, standing)

    def _tracks_start(self, job: TaskJob) -> bool:
        task = self.app.tasks.get(job.task_name)
        return task is not None and bool(task.track_started)

    def _gives_way(self, life: Life) -> Ending | None:
        """The ending of a chord's body that another copy of its message runs, or has run; None when it is this one.

        A worker that dies between the publication of a body and the settlement of what completed the chord leaves the
        body to be published again, and both copies may be in hand before either has a record.
        """
        request = life.request
        chord_id, copy, number = request.kernel_chord, request.kernel_copy, request.kernel_body_task
        if not chord_id or not copy or self.app.opened.joins is None:
            return None
        begins = self._asked(
            life, lambda backend: backend.begin_body(chord_id, copy, number=number), "it may run twice"
        )
        if begins is not False:
            return begins if isinstance(begins, Ending) else None
        _log.info("task %s[%s] gives way to the copy of its message that began before", life.name, life.id)
        return Ending(life.assignment.seq, Verdict.ACK, task=life.name)

    def _asked(self, life: Life, question: Callable[[Backend], _T], unless: str) -> _T | Ending | None:
        """What the result backend answers. Where it cannot be asked, the ending that sends the task back, or None
        if there is nothing to be sent back."""
        for number in range(1, _LOOK_ATTEMPTS + 1):
            try:
                # It may have to be opened first, and its server may be away.
                return question(self.app.backend)
            except (errors.OperationalError, errors.BackendError) as exc:
                problem = exc
            if number < _LOOK_ATTEMPTS:
                time.sleep(_LOOK_PAUSE * number)
        if life.assignment.early_ack or life.assignment.obituary is not None:
            return None
        _log.warning("task %s[%s] goes back: %s: %s", life.name, life.id, unless, problem)
        return Ending(life.assignment.seq, Verdict.REQUEUE, delay=_HAND_BACK_SECONDS, task=life.name)

    def _report_start(self, life: Life) -> None:
        if not life.keeps_results or not self._has_backend:
            return
        data, content_type, encoding = self.app.codecs.encode_result({"pid": os.getpid(), "hostname": self.hostname})
        record = Record(
            id=life.id,
            state=states.STARTED,
            result=data,
            content_type=content_type,
            content_encoding=encoding,
            group_id=life.request.group,
            parent_id=life.request.parent_id,
            attempt=life.request.attempt,
            reply_to=life.request.reply_to or None,
            name=life.name,
        )
        extend(record, life.request, self.app)
        try:
            self._sink.progress((record,))
        except Exception as exc:
            # Whoever watches misses a state; the task itself can run.
            _log.warning("STARTED of task %s[%s] cannot be stored: %s", life.name, life.id, exc)

    # --- after it -------------------------------------------------------------------------------------------

    def _bury(self, job: TaskJob, life: Life, obituary: Obituary) -> None:
        """End a task that never ran, or whose process died."""
        kind: Any = getattr(errors, obituary.error, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = errors.TaskError
        life.verdict = obituary.verdict
        self._finish(job, life, Conclusion(Outcome(obituary.state, error=kind(obituary.text))))

    def _finish(self, job: TaskJob, life: Life, conclusion: Conclusion) -> None:
        ending, conclusion = ends.end(life, conclusion)
        self._deliver(job, ending)
        ends.observe(life, conclusion)

    def _deliver(self, job: TaskJob, ending: Ending) -> None:
        if ending.verdict is not Verdict.ACK:
            with self._lock:
                self._verdicts[ending.seq] = ending
                while len(self._verdicts) > _REMEMBERED:
                    self._verdicts.popitem(last=False)
        job.ended = True
        self._sink.ended(ending)

    def _broken(self, job: TaskJob, exc: BaseException) -> None:
        """A defect of ours, or of a plugin where none may fail. The message is kept, and the worker goes on."""
        where = "after" if job.ended else "before"
        _log.critical("INTERNAL ERROR %s the end of task %s, number %d", where, job.task_name, job.seq, exc_info=exc)
        if job.ended:
            return
        reason = f"internal error: {failure.one_line(exc)}"[:2000]
        try:
            self._deliver(job, Ending(job.seq, Verdict.DEAD, reason=reason, records=self._last_words(job, exc)))
        except Exception:
            _log.exception("the ending of task %s, number %d, cannot be delivered", job.task_name, job.seq)

    def _last_words(self, job: TaskJob, exc: BaseException) -> tuple[Record, ...]:
        """A record for whoever waits, if that much still works."""
        try:
            message = job.assignment.message
            error = errors.TaskError(f"internal error of the worker: {failure.one_line(exc)}")
            data, content_type, encoding = ends.encode_error(self.app, error)
            if not self._has_backend or message.headers.get("ignore_result"):
                return ()
        except Exception:
            return ()
        # The message may be what broke things: nothing in it is taken for what it should be.
        replay = message.headers.get("kernel_replay")
        reply_to = message.properties.get("reply_to")
        record = Record(
            id=message.id,
            state=states.FAILURE,
            result=data,
            content_type=content_type,
            content_encoding=encoding,
            date_done=time.time(),
            attempt=replay if isinstance(replay, int) and 0 <= replay < 1 << 31 else 0,
            reply_to=reply_to if isinstance(reply_to, str) and reply_to else None,
        )
        return (record,)


def _has_copies(assignment: Assignment) -> bool:
    return bool(assignment.message.headers.get("kernel_copy"))
