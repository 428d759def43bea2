"""`AbortableTask`: tasks that a caller may ask to stop, and that look whether one has.

::

    @app.task(bind=True, base=AbortableTask)
    def long(self, rows):
        for row in rows:
            if self.is_aborted():
                return "stopped"
            work(row)

    result = long.delay(rows)
    result.abort()
"""

from __future__ import annotations

from typing import Any, Final, Generic, ParamSpec, TypeVar

from kernel.interfaces.backend import Record
from kernel.result import AsyncResult
from kernel.task import Task

__all__ = ["ABORTED", "AbortableAsyncResult", "AbortableTask"]

ABORTED: Final = "ABORTED"
"""The state of a task that somebody has asked to stop, until it ends or reports another one."""

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class AbortableAsyncResult(AsyncResult[R_co], Generic[R_co]):
    """The result of a task that can be asked to stop."""

    __slots__ = ()

    def is_aborted(self) -> bool:
        """Whether it was asked to, and has neither ended nor reported another state since."""
        return self.state == ABORTED

    def abort(self) -> None:
        """Ask it to stop: the state ABORTED is stored, unless it has ended. The task goes on until it looks.

        Raises NotImplementedError where results go to whoever called (``rpc://``), for the task looks there in vain.
        """
        backend = self.backend
        if backend.capabilities.to_caller:
            raise NotImplementedError(
                f"the task {self.id} cannot be told to stop: its result backend sends each state to whoever called. "
                "Name a result_backend that keeps records, such as redis:// or postgresql://, or use revoke()"
            )
        data, content_type, encoding = self.app.codecs.encode_result(None)
        record = Record(id=self.id, state=ABORTED, result=data, content_type=content_type, content_encoding=encoding)
        backend.store([record])


class AbortableTask(Task[P, R_co]):
    """Base of such tasks, whose calls give `AbortableAsyncResult`."""

    def AsyncResult(self, task_id: str) -> AbortableAsyncResult[R_co]:  # noqa: N802 - Celery's name
        """The result of an earlier call of this task."""
        return AbortableAsyncResult(task_id, None, self.name, self.app)

    def is_aborted(self, task_id: str | None = None, **_: Any) -> bool:
        """Whether somebody has asked the call that runs here, or that of `task_id`, to stop; one look into the result
        backend. Never where it runs without one, in the caller's own process."""
        request = self.request
        task_id = task_id or request.id
        if task_id is None:
            raise ValueError(f"is_aborted of {self.name} needs a task_id here: the task is not running in this context")
        if task_id == request.id and request.is_eager and not self.store_eager_result:
            return False
        return self.AsyncResult(task_id).is_aborted()
