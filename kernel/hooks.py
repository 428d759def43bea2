"""The lifecycle hooks: what a plugin may watch, edit or decide.

A plugin is an object (usually a module or an instance) with functions of these names, each marked with
`hookimpl`. Every hook below says its **kind**, which says what an error does:

set-up    an error stops the start (or, at the end, is gathered and reported)
collect   every answer is used; an error stops the start
decide    the first answer that is not None wins; an error propagates and counts as the task's
edit      may change what it is given; an error propagates to the caller
observe   the answer is ignored; an error is caught, counted and logged with the plugin's name

and **where** it runs: *client* (whoever publishes), *engine* (the worker's main process, on its loop thread,
which runs no user code and sees headers, never a decoded body), *child* (the process, thread or loop that
runs tasks). Hooks of the engine come from plugins found by entry point or named in the setting `plugins`.

A hook that is called for every message is marked *hot*: implementations take all its arguments, and may be
neither wrappers nor coroutines. They are bound to plain tuples once, at start; a hot hook that nobody
implements costs nothing to speak of.

No hook publishes a retry or settles a message. A hook that decides returns a verdict of
`kernel.interfaces.outcome`, and the core acts on it, so that a broker that fails leaves the message claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

import pluggy

from kernel.interfaces.setting import Setting

if TYPE_CHECKING:
    import click

    from kernel.app import Kernel
    from kernel.interfaces.broker import Delivery, Verdict
    from kernel.interfaces.outcome import Admission, Decision, Outcome
    from kernel.interfaces.sender import Sender
    from kernel.interfaces.serializer import Compressor, Serializer
    from kernel.interfaces.unit import Unit
    from kernel.message import Publication
    from kernel.request import Request
    from kernel.task import Task

PROJECT: Final = "kernel"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Kind = Literal["set-up", "collect", "decide", "edit", "observe"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What the extension manager knows of a hook."""

    kind: Kind
    hot: bool = False


SPECS: Final[Mapping[str, Spec]] = {
    "kernel_settings": Spec("collect"),
    "kernel_configure": Spec("set-up"),
    "kernel_unconfigure": Spec("set-up"),
    "kernel_find_codec": Spec("decide"),
    "kernel_task_options": Spec("collect"),
    "kernel_task_registered": Spec("set-up"),
    "kernel_task_wrappers": Spec("collect"),
    "kernel_route": Spec("decide"),
    "kernel_find_sender": Spec("decide"),
    "kernel_find_transaction": Spec("decide"),
    "kernel_publish_start": Spec("edit", hot=True),
    "kernel_publish_end": Spec("observe", hot=True),
    "kernel_worker_start": Spec("set-up"),
    "kernel_worker_ready": Spec("observe"),
    "kernel_worker_drain": Spec("observe"),
    "kernel_worker_end": Spec("observe"),
    "kernel_heartbeat": Spec("observe"),
    "kernel_message_received": Spec("observe", hot=True),
    "kernel_message_invalid": Spec("decide"),
    "kernel_task_admit": Spec("decide", hot=True),
    "kernel_message_settled": Spec("observe", hot=True),
    "kernel_child_report": Spec("observe"),
    "kernel_child_start": Spec("set-up"),
    "kernel_child_end": Spec("observe"),
    "kernel_task_start": Spec("observe", hot=True),
    "kernel_task_decide": Spec("decide", hot=True),
    "kernel_task_end": Spec("observe", hot=True),
    "kernel_task_event": Spec("observe"),
    "kernel_schedule_due": Spec("observe"),
    "kernel_cli": Spec("collect"),
    "kernel_doctor": Spec("collect"),
}


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes; None leaves the caller's or the default value."""

    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskOption:
    """An option of `@app.task` that a plugin owns."""

    default: Any
    type: type | tuple[type, ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of ``kernel doctor``: what was looked at, how it is, and how to mend it."""

    subject: str
    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


@runtime_checkable
class Examined(Protocol):
    """A broker or result backend that has something to say to ``kernel doctor``. Optional for drivers."""

    def findings(self) -> Sequence[Finding]:
        """What is right and wrong with the server behind it, which is open. Raises nothing of the server's."""
        ...


class WorkerInfo(Protocol):
    """What hooks of the engine may know of their worker."""

    @property
    def hostname(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def queues(self) -> Sequence[str]: ...
    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """Registered tasks and their options, from the manifest of the app."""
        ...


class ChildInfo(Protocol):
    """What hooks of a child may know of it. `report` sends a small typed message to the engine's plugins."""

    @property
    def number(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def app(self) -> Kernel: ...
    def report(self, topic: str, data: Mapping[str, Any]) -> None: ...


CallNext = Callable[..., Any]
Wrapper = Callable[[CallNext, "Request"], Any]


# --- the app ------------------------------------------------------------------------------------------------


@hookspec
def kernel_settings() -> Sequence[Setting]:  # type: ignore[empty-body]
    """collect, anywhere: the settings that this plugin reads; asked before settings are validated."""


@hookspec(historic=True)
def kernel_configure(app: Kernel) -> None:
    """set-up, client and child: the settings are final; drivers are not open yet."""


@hookspec
def kernel_unconfigure(app: Kernel) -> None:
    """set-up, client and child: the app closes; all implementations run, in reverse order."""


@hookspec(firstresult=True)
def kernel_find_codec(kind: Literal["serializer", "compressor"], name: str) -> Serializer | Compressor | None:
    """decide, anywhere: a codec for a name or content type that no driver has."""


@hookspec
def kernel_task_options(app: Kernel) -> Mapping[str, TaskOption]:  # type: ignore[empty-body]
    """collect, client and child: options of `@app.task` that this plugin owns; others are refused by name."""


@hookspec(historic=True)
def kernel_task_registered(app: Kernel, task: Task[Any, Any]) -> None:
    """set-up, client and child: once for each task, also told to plugins that come later."""


@hookspec
def kernel_task_wrappers(app: Kernel, task: Task[Any, Any]) -> Wrapper | None:
    """collect, child: once for each task; the wrapper is called as ``wrapper(call_next, request)`` around
    the task's body. The wrapper of the plugin that is called first (registered last) is the outermost."""


# --- publishing ---------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def kernel_route(name: str, options: Mapping[str, Any]) -> Route | None:
    """decide, client: where a call of task `name` goes, unless the caller said so."""


@hookspec(firstresult=True)
def kernel_find_sender(given: object) -> Sender | None:
    """decide, client: what publishes over `given`, a connection or producer of another library that a call was handed
    (``apply_async(connection=...)``); asked for every such call. None: not known here."""


@hookspec(firstresult=True)
def kernel_find_transaction(app: Kernel, given: object) -> Unit | None:
    """decide, client: the transaction that `given` (such as a session of SQLAlchemy) is of; None as `given` asks for
    the one of the app's settings. None: not known here. Calls of ``delay_on_commit`` wait for it."""


@hookspec
def kernel_publish_start(publication: Publication) -> None:
    """edit, client, hot: before a message is sent; headers and destination may be changed."""


@hookspec
def kernel_publish_end(publication: Publication, error: BaseException | None) -> None:
    """observe, client, hot: the broker has it, or `error` says why not."""


# --- the engine ---------------------------------------------------------------------------------------------


@hookspec
def kernel_worker_start(worker: WorkerInfo) -> None:
    """set-up, engine: the manifest is known, nothing is open."""


@hookspec
def kernel_worker_ready(worker: WorkerInfo) -> None:
    """observe, engine: consuming."""


@hookspec
def kernel_worker_drain(worker: WorkerInfo, reason: str) -> None:
    """observe, engine: no more is claimed; what runs is waited for."""


@hookspec
def kernel_worker_end(worker: WorkerInfo) -> None:
    """observe, engine: everything is settled and closed."""


@hookspec
def kernel_heartbeat(worker: WorkerInfo, snapshot: Mapping[str, Any]) -> None:
    """observe, engine: every two seconds, with `active`, `processed`, `loadavg`."""


@hookspec
def kernel_message_received(delivery: Delivery) -> None:
    """observe, engine, hot: a message was claimed and its headers are readable."""


@hookspec(firstresult=True)
def kernel_message_invalid(delivery: Delivery, error: Exception) -> Admission | None:
    """decide, engine: the message is no valid task, or its task is unknown. Without an answer it is kept as
    a dead letter."""


@hookspec(firstresult=True)
def kernel_task_admit(delivery: Delivery) -> Admission | None:
    """decide, engine, hot: whether a claimed message is run now. None: no opinion."""


@hookspec
def kernel_message_settled(delivery: Delivery, verdict: Verdict) -> None:
    """observe, engine, hot: the broker has taken the verdict."""


@hookspec
def kernel_child_report(worker: WorkerInfo, topic: str, data: Mapping[str, Any]) -> None:
    """observe, engine: a plugin in a child sent this through `ChildInfo.report`."""


# --- children -----------------------------------------------------------------------------------------------


@hookspec
def kernel_child_start(child: ChildInfo) -> None:
    """set-up, child: before its first task."""


@hookspec
def kernel_child_end(child: ChildInfo) -> None:
    """observe, child: it will take no more tasks; not called when it is killed."""


@hookspec
def kernel_task_start(request: Request) -> None:
    """observe, child, hot: right before the body."""


@hookspec(firstresult=True)
def kernel_task_decide(request: Request, outcome: Outcome) -> Decision | None:
    """decide, child, hot: how a run ends; `outcome` is what the core would do."""


@hookspec
def kernel_task_end(request: Request, outcome: Outcome) -> None:
    """observe, child, hot: the end is decided and handed on to be stored."""


@hookspec
def kernel_task_event(
    request: Request, type: str, fields: Mapping[str, Any], retry_policy: Mapping[str, Any] | None
) -> None:
    """observe, client and child: a body called ``self.send_event(type, **fields)``. Who sends it on tries again as
    `retry_policy` says (empty: as the settings say), or not at all for None."""


# --- the rest -----------------------------------------------------------------------------------------------


@hookspec
def kernel_schedule_due(entry: str, publication: Publication) -> None:
    """observe, scheduler: a periodic entry was published."""


@hookspec
def kernel_cli(group: click.Group) -> None:
    """collect, CLI: add commands to the group."""


@hookspec
def kernel_doctor(app: Kernel) -> Sequence[Finding]:  # type: ignore[empty-body]
    """collect, CLI: what is right and wrong with what this plugin looks after."""
