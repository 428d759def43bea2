"""`EagerResult[R]`: the result of a call that ran in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ClassVar, Generic, TypeVar, cast

from kernel import errors, states
from kernel.results.joining import assert_will_not_block
from kernel.results.node import ResultNode

R_co = TypeVar("R_co", covariant=True)

Callback = Callable[[str, Any], object]


class EagerResult(ResultNode, Generic[R_co]):
    """The result of a task that ran in this process; always ready. What is known of a stored result only is None."""

    __slots__ = ("__weakref__", "_result", "_state", "_traceback", "id", "name", "parent")

    TimeoutError: ClassVar = errors.TimeoutError

    ignored = False
    children = None
    supports_native_join = False
    date_done = args = kwargs = worker = retries = queue = parent_id = group_id = None

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        self.id = id
        self._result = ret_value
        self._state = state
        self._traceback = traceback
        self.name = name
        self.parent: Any = None

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        callback: Callback | None = None,
        **options: Any,
    ) -> R_co:
        """The value; the task's exception is raised, or with `propagate` False returned. Other arguments of
        `AsyncResult.get` are taken and mean nothing here."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if propagate and self._state in states.PROPAGATE_STATES:
            raise as_exception(self._result)
        if callback is not None:
            callback(self.id, self._result)
        return cast("R_co", self._result)

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True, **options: Any) -> R_co:  # noqa: ASYNC109
        return self.get(propagate=propagate, disable_sync_subtasks=False, callback=options.get("callback"))

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.aget().__await__()

    def then(
        self, callback: Callable[[Any], object], on_error: Callable[[Any], object] | None = None, weak: bool = False
    ) -> EagerResult[R_co]:
        """Call `callback` with this result, now; what it raises is given to `on_error`, if there is one."""
        try:
            callback(self)
        except Exception as exc:
            if on_error is None:
                raise
            on_error(exc)
        return self

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        return self.get(propagate=propagate, disable_sync_subtasks=False, callback=callback)

    maybe_reraise = maybe_throw
    throw = maybe_throw

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def task_name(self) -> str | None:
        return self.name

    @property
    def state(self) -> str:
        return self._state

    @property
    def status(self) -> str:
        return self._state

    @property
    def result(self) -> Any:
        return self._result

    @property
    def info(self) -> Any:
        return self._result

    @property
    def traceback(self) -> str | None:
        return self._traceback

    @property
    def scoreboard(self) -> dict[str, Any]:
        """As that of `AsyncResult`, of its one state."""
        from kernel.results.scoreboard import scoreboard

        state = {"state": self._state, "at": None, "info": self._result, "worker": None, "retries": None}
        return scoreboard(self.id, name=self.name, states=[state], complete=True)

    def ready(self) -> bool:
        return True

    def exists(self) -> bool:
        return True

    def successful(self) -> bool:
        return self._state == states.SUCCESS

    def failed(self) -> bool:
        return self._state == states.FAILURE

    def forget(self) -> None:
        """Nothing is stored that could be forgotten."""

    def revoke(self, *args: Any, **options: Any) -> None:
        """It has run; from now on it says that it was revoked."""
        self._state = states.REVOKED
        self._result = errors.TaskRevokedError("revoked")

    revoke_by_stamped_headers = revoke

    def as_meta(self) -> dict[str, Any]:
        """What is known, with Celery's names."""
        return {
            "status": self._state,
            "result": self._result,
            "traceback": self._traceback,
            "children": None,
            "date_done": None,
            "task_id": self.id,
        }

    def __repr__(self) -> str:
        return f"<EagerResult {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return EagerResult, (self.id, self._result, self._state, self._traceback, self.name)


def as_exception(value: Any) -> BaseException:
    """What to raise of a result that should be an exception, and may have been stored by anybody."""
    return value if isinstance(value, BaseException) else errors.RemoteError(str(value))
