"""A bench for executors: an app in memory, and a sink that carries endings out as a worker would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernel.app import Kernel
from kernel.call import Call
from kernel.interfaces.backend import Record, StoreState
from kernel.message import Message, Publication
from kernel.worker.assignment import Assignment, Ending, Obituary
from kernel.worker.running.execute import Executor, TaskJob


class Bench:
    """Implements `kernel.worker.assignment.Sink`."""

    def __init__(self, app: Kernel) -> None:
        self.app = app
        self.endings: list[Ending] = []
        self.started_seqs: list[int] = []
        self.states: list[Record] = []
        self.executor = Executor(app, hostname="worker@host", sink=self)
        self._seq = 0
        self.assignments: dict[int, Assignment] = {}

    # the sink -----------------------------------------------------------------------------------------------

    def started(self, seq: int) -> None:
        self.started_seqs.append(seq)

    def progress(self, records: Sequence[Record]) -> None:
        self.states.extend(records)
        self.app.backend.store(records)

    def ended(self, ending: Ending) -> None:
        self.endings.append(ending)

    def flush(self) -> None:
        """Nothing waits here."""

    # what a worker does -------------------------------------------------------------------------------------

    def assignment(self, message: Message, **fields: Any) -> Assignment:
        self._seq += 1
        made = Assignment(self._seq, message, fields.pop("queue", "celery"), f"token-{self._seq}", **fields)
        self.assignments[made.seq] = made
        return made

    def message(self, task: Any, *args: Any, **options: Any) -> Message:
        name = task if isinstance(task, str) else task.name
        kwargs = options.pop("kwargs", {})
        redelivered = options.pop("redelivered", False)
        call = Call(name, args, kwargs, options, redelivered=redelivered)
        return self.app.publisher.prepare(call).message

    def job(self, task: Any, *args: Any, **options: Any) -> TaskJob:
        return self.executor.job(self.assignment(self.message(task, *args, **options)))

    def run(self, task: Any, *args: Any, **options: Any) -> Ending:
        """The ending of a call of `task`."""
        return self.run_assignment(self.assignment(self.message(task, *args, **options)))

    def run_message(self, message: Message, **fields: Any) -> Ending:
        return self.run_assignment(self.assignment(message, **fields))

    def run_assignment(self, assignment: Assignment) -> Ending:
        before = len(self.endings)
        self.executor.job(assignment).run()
        assert len(self.endings) == before + 1, "a task has exactly one ending"
        assert self.endings[-1].seq == assignment.seq
        return self.endings[-1]

    def bury(self, task: Any, *args: Any, obituary: Obituary, **options: Any) -> Ending:
        return self.run_assignment(self.assignment(self.message(task, *args, **options), obituary=obituary))

    def carry_out(self, ending: Ending) -> list[Publication]:
        """Store the records, and return what would be published; a terminal record that stands changes both."""
        for record in ending.records:
            [outcome] = self.app.backend.store((record,))
            if outcome.state is StoreState.STANDING and outcome.standing is not None:
                resumed = self.executor.resume(self.assignments[ending.seq], outcome.standing)
                if resumed is not None:
                    return list(resumed.publications)
        return list(ending.publications)

    def finish(self, task: Any, *args: Any, **options: Any) -> Any:
        """The result of a call that was run and stored."""
        ending = self.run(task, *args, **options)
        self.carry_out(ending)
        return self.app.AsyncResult(ending.records[0].id)

    def body(self, publication: Publication) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        return self.app.codecs.decode_body(publication.message)

    def value(self, record: Record) -> Any:
        return self.app.codecs.decode_result(record.result, record.content_type, record.content_encoding)
