"""Every exception the project raises.

    KernelError
     ├─ ImproperlyConfigured
     │   ├─ UnknownSetting · InvalidSetting
     │   ├─ DriverError
     │   │   ├─ DriverNotFound        no such name
     │   │   ├─ DriverNotInstalled    a known name whose distribution is absent
     │   │   ├─ DriverBroken          installed, but its import fails
     │   │   ├─ DriverIncompatible    written for another interface version
     │   │   └─ DriverConflict        two distributions offer one name
     │   └─ PluginError               a hook plugin that cannot be used as it is
     ├─ SecurityError
     │   └─ ContentDisallowed
     ├─ EncodeError · DecodeError
     │   └─ (DecodeError) PayloadTooLarge
     ├─ OperationalError              the broker, the backend or the network
     │   ├─ PublishUnknown            it may or may not be stored
     │   └─ ConnectionLimitExceeded   all connections of a pool are in use
     ├─ TaskPredicate                 Ignore (Replaced) · Reject · Retry
     ├─ TaskError
     │   ├─ NotRegistered · AlreadyRegistered · QueueNotFound      (also KeyError where it is one)
     │   ├─ TimeoutError · MaxRetriesExceededError · TaskRevokedError
     │   ├─ InvalidTaskError · ChordError · IncompleteStream
     │   └─ LeaseLost                 this worker no longer owns the task
     ├─ BackendError                  BackendGetMetaError · BackendStoreError · ResultLost
     ├─ RemoteError                  a failure elsewhere whose class is not known here
     ├─ WorkerLostError · TimeLimitExceeded · Terminated
     └─ AppClosed
    SoftTimeLimitExceeded             an Exception, so that tasks catch it as they do in Celery
    WorkerShutdown · WorkerTerminate  SystemExit

Names that Celery has mean what they mean there.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any


class KernelError(Exception):
    """Base of the project's errors."""


class ImproperlyConfigured(KernelError):
    """The app, a setting or the environment cannot work as it stands."""


class UnknownSetting(ImproperlyConfigured):
    """A setting that nothing declares; the text names the nearest ones."""


class InvalidSetting(ImproperlyConfigured):
    """A setting whose value has the wrong type or range; the text says what would be right."""


class DriverError(ImproperlyConfigured):
    """A driver that was asked for cannot be had."""


class DriverNotFound(DriverError):
    """No driver of that kind has that name."""


class DriverNotInstalled(DriverError):
    """The name is known; the distribution that provides it is not installed."""


class DriverBroken(DriverError):
    """The driver is installed and its import or construction fails; the cause is chained."""


class DriverIncompatible(DriverError):
    """The driver was written for an interface version that this kernel does not speak."""


class DriverConflict(DriverError):
    """Two distributions offer different drivers under one name."""


class PluginError(ImproperlyConfigured):
    """A hook plugin is missing, blocked although required, or has a hook that cannot be called."""


class SecurityError(KernelError):
    """Refused because it would be unsafe."""


class ContentDisallowed(SecurityError):
    """The content type of a message or result is not in `accept_content`; nothing was decoded."""


class EncodeError(KernelError):
    """A value cannot be serialized; raised to the caller before anything is published."""


class DecodeError(KernelError):
    """Bytes that are not what their content type says."""


class PayloadTooLarge(DecodeError):
    """A payload is, or would inflate to, more than the limit."""


class OperationalError(KernelError):
    """The broker or backend cannot be reached, or refused for a reason outside the message."""


class PublishUnknown(OperationalError):
    """The connection broke after the message left: it may be stored or not. Publishing it again with
    the same id is safe."""


class PublishRefused(OperationalError):
    """The broker was reached, and will not take this message: sending it again as it is changes nothing."""


class ConnectionLimitExceeded(OperationalError):
    """All connections of a pool are in use, and none was released in the time that was allowed."""


class TaskPredicate(KernelError):
    """Base of the exceptions by which a task says how it ends."""


class Ignore(TaskPredicate):
    """Store no state; acknowledge the message."""


class Replaced(Ignore):
    """The task's place is taken by the signature `sig`, which has its id: `Task.replace` raises it."""

    def __init__(self, message: str = "Replaced by new task", sig: Any = None) -> None:
        super().__init__(message)
        self.sig = sig

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.sig)


class Reject(TaskPredicate):
    """Reject the message: back to its queue with ``requeue=True``, else to the dead letters."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class Retry(TaskPredicate):
    """The task is to run again; `when` is a delay in seconds or a point in time."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc
        self.when = when
        self.is_eager = is_eager
        self.sig = sig

    def humanize(self) -> str:
        if isinstance(self.when, int | float):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.exc is not None:
            return f"Retry {self.humanize()}: {self.exc!r}"
        return f"Retry {self.humanize()}"


class TaskError(KernelError):
    """Base of the errors about one task."""


class NotRegistered(TaskError, KeyError):
    """No task of that name is registered in this app."""

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else repr(self.args)


class AlreadyRegistered(TaskError):
    """A different task has that name already."""


class QueueNotFound(TaskError, KeyError):
    """The queue is not defined and `task_create_missing_queues` is off."""

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else repr(self.args)


class IncompleteStream(TaskError):
    """`collect()` met a result that is not ready."""


class TimeoutError(TaskError, builtins.TimeoutError):  # noqa: A001 - Celery's name
    """The result was not ready in time."""


class MaxRetriesExceededError(TaskError):
    """A task asked for a retry more often than `max_retries` allows."""

    def __init__(self, *args: Any, task_args: Sequence[Any] = (), task_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(*args)
        self.task_args = tuple(task_args)
        self.task_kwargs = dict(task_kwargs or {})


class TaskRevokedError(TaskError):
    """The task was revoked, terminated or had expired; the argument is the reason."""


class InvalidTaskError(TaskError):
    """A message that is no valid task: a part is missing, malformed or out of bounds."""


class ChordError(TaskError):
    """A member of a chord's header failed, or the join did."""


class LeaseLost(TaskError):
    """Another worker owns the task now: whatever this one still does will be refused."""


class BackendError(KernelError):
    """The result backend failed."""


class BackendGetMetaError(BackendError):
    """A result could not be read; `task_id` says which."""

    def __init__(self, *args: Any, task_id: str | None = None) -> None:
        super().__init__(*args)
        self.task_id = task_id


class BackendStoreError(BackendError):
    """A result could not be stored; `task_id` and `state` say which."""

    def __init__(self, *args: Any, task_id: str | None = None, state: str | None = None) -> None:
        super().__init__(*args)
        self.task_id = task_id
        self.state = state


class ResultLost(BackendError):
    """A result was sent and will not come: what it was to wait in is gone. The task may have run."""


class RemoteError(KernelError):
    """A task failed elsewhere with an exception that cannot be made again here. Where its class is not imported,
    this is a class of that name and module which derives from `RemoteError`."""


class WorkerLostError(KernelError):
    """The process that ran the task died."""


class TimeLimitExceeded(KernelError):
    """The task ran past its hard time limit and its process was killed."""


class Terminated(KernelError):
    """The process was ended by request while it ran the task."""


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task that runs past its soft time limit; it may catch it and clean up."""


class WorkerShutdown(SystemExit):
    """Ask the worker to stop warm."""


class WorkerTerminate(SystemExit):
    """Ask the worker to stop at once."""


class AppClosed(KernelError):
    """The app was closed; `open()` makes it usable again."""


class KernelWarning(UserWarning):
    """Base of the project's warnings."""


class AlwaysEagerIgnored(KernelWarning):
    """`send_task` publishes although `task_always_eager` is on."""


class DuplicateTaskNameWarning(KernelWarning):
    """Two different functions ask for one task name; the first keeps it."""


class OptionNotServed(KernelWarning):
    """An option of Celery's that is kept and has no effect in this version."""
