"""The options of `@app.task` and of a call: their names, their types, and what is wrong with a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict

if TYPE_CHECKING:
    from kernel.signature import Signature
    from kernel.task import Task

Expiry = float | datetime | str


class TaskOptions(TypedDict, total=False):
    """What `@app.task` takes beside `bind`. Plugins may own more names (hook `kernel_task_options`)."""

    name: str | None
    base: type[Task[..., Any]] | None
    filter: Callable[[Any], Any] | None
    shared: bool
    lazy: bool
    typing: bool | None
    max_retries: int | None
    default_retry_delay: float
    rate_limit: str | float | None
    ignore_result: bool | None
    trail: bool
    send_events: bool
    store_errors_even_if_ignored: bool | None
    store_eager_result: bool | None
    serializer: str | None
    compression: str | None
    time_limit: float | None
    soft_time_limit: float | None
    track_started: bool | None
    acks_late: bool | None
    acks_on_failure_or_timeout: bool | None
    acks_on_failure: bool | None
    acks_on_timeout: bool | None
    reject_on_worker_lost: bool | None
    retry_on_worker_lost: bool | None
    throws: tuple[type[BaseException], ...]
    expires: Expiry | None
    priority: int | None
    resultrepr_maxsize: int
    queue: str | None
    exchange: str | None
    exchange_type: str | None
    routing_key: str | None
    delivery_mode: int | str | None
    autoretry_for: Sequence[type[BaseException]]
    dont_autoretry_for: Sequence[type[BaseException]]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool


class CallOptions(TypedDict, total=False):
    """What `apply_async` takes beside `args` and `kwargs`."""

    countdown: float | None
    eta: datetime | str | None
    expires: Expiry | None
    retry: bool | None
    retry_policy: Mapping[str, Any] | None
    task_id: str | None
    serializer: str | None
    compression: str | None
    queue: Any
    exchange: Any
    exchange_type: str | None
    routing_key: str | None
    priority: int | None
    delivery_mode: int | str | None
    headers: Mapping[str, Any] | None
    properties: Mapping[str, Any] | None
    shadow: str | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    link: Signature[Any] | Mapping[str, Any] | Sequence[Any] | None
    link_error: Signature[Any] | Mapping[str, Any] | Sequence[Any] | None
    argsrepr: str | None
    kwargsrepr: str | None
    add_to_parent: bool
    reply_to: str | None
    retries: int
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    group_index: int | None
    chord: Mapping[str, Any] | None
    chain: Sequence[Mapping[str, Any]] | None
    replaced_task_nesting: int
    origin: str | None
    stamped_headers: Sequence[str] | None
    stamps: Mapping[str, Any] | None


TASK_OPTIONS: Final = frozenset(TaskOptions.__annotations__)
CALL_OPTIONS: Final = frozenset(CallOptions.__annotations__)

NOT_SERVED: Final[Mapping[str, str]] = {
    "rate_limit": "rate limits come with a later version",
    "retry_on_worker_lost": "a task whose process died is claimed again by itself",
}
"""Options of Celery's that are kept on the task and have no effect yet."""

# Options of Celery's calls that choose a connection; ours has one publisher, and nothing to choose.
_CONNECTIONS: Final = frozenset(
    {"producer", "publisher", "connection", "router", "result_cls", "route_name", "task_type", "event_dispatcher"}
)
_IGNORED: Final = frozenset({"mandatory", "immediate", "declare", "timeout", "confirm_timeout", "logfile", "loglevel"})


def unknown_task_option(name: str, *, plugin_options: Iterable[str] = ()) -> TypeError:
    """The error for an option of `@app.task` that neither the kernel nor a plugin has."""
    known = sorted({*TASK_OPTIONS, "bind", *plugin_options})
    return TypeError(
        f"@app.task has no option {name!r}{did_you_mean(name, known)}. "
        "Options of a plugin are known when its distribution is installed and not blocked"
    )


def split_call_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options by known names, and the rest, which become properties of the message.

    Raises TypeError for a name that is nearly a known one: a typing mistake must not become a property.
    """
    known: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name, value in options.items():
        if name in CALL_OPTIONS:
            known[name] = value
        elif name in _CONNECTIONS:
            if value is not None:
                raise TypeError(f"a call takes no {name!r}: an app has one publisher, which connects as configured")
        elif name not in _IGNORED:
            near = difflib.get_close_matches(name, CALL_OPTIONS, n=1, cutoff=0.75)
            if near:
                raise TypeError(f"a call has no option {name!r}; did you mean {near[0]!r}?")
            properties[name] = value
    return known, properties


def did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
