"""The options of `@app.task` and of a call: their names, their types, and what is wrong with a wrong one."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict

from kernel.errors import OptionNotServed

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
    producer: Any
    publisher: Any
    connection: Any
    timeout: float | None
    confirm_timeout: float | None
    declare: Iterable[Any] | None
    result_cls: Callable[..., Any] | None
    router: Any
    route_name: str | None
    task_type: Any


SENDING: Final = frozenset(
    {"producer", "publisher", "connection", "retry", "retry_policy", "timeout", "confirm_timeout", "declare"}
)
"""Options that say how a call is sent, and are no part of it."""
ROUTED: Final = frozenset({"router", "route_name", "task_type"})
"""Options that say who is asked where a call goes, and as what."""
FOLLOWING: Final = frozenset({"link", "link_error", "chain", "chord"})
"""Options that say what comes after a call."""

TASK_OPTIONS: Final = frozenset(TaskOptions.__annotations__)
CALL_OPTIONS: Final = frozenset(CallOptions.__annotations__)

# Options of a task that are the defaults of every call of it.
CALL_DEFAULTS: Final = (
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
)

NOT_SERVED: Final[Mapping[str, str]] = {
    "rate_limit": "rate limits come with a later version",
    "retry_on_worker_lost": "a task whose process died is claimed again by itself",
}
"""Options of Celery's that are kept on the task and have no effect yet."""

_EXCEPTIONS: Final = ("autoretry_for", "dont_autoretry_for", "throws")
_NUMBERS: Final = ("max_retries", "default_retry_delay", "time_limit", "soft_time_limit", "retry_backoff_max")
# An option of Celery's calls that replaces a part of its machinery, which ours has not.
_MACHINERY: Final[Mapping[str, str]] = {
    "event_dispatcher": "a plugin with the hook kernel_publish_end hears of every message",
}
_IGNORED: Final = frozenset({"mandatory", "immediate", "logfile", "loglevel"})


def check_task_options(options: dict[str, Any], plugin_options: Callable[[], Mapping[str, Any]]) -> None:
    """Take what has no effect out of the options of `@app.task`, and refuse what cannot be.

    `plugin_options()` gives the options that plugins own, and is asked only about names that the kernel does not
    know. Raises TypeError and ValueError naming the option; warns of what is not served yet.
    """
    unknown = [name for name in options if name not in TASK_OPTIONS]
    if unknown:
        owned = plugin_options()
        for name in unknown:
            if name not in owned:
                raise unknown_task_option(name, plugin_options=owned)
            if not isinstance(options[name], owned[name].type):
                raise TypeError(f"the option {name!r} is {options[name]!r:.60}: {owned[name].doc}")
    for name, reason in NOT_SERVED.items():
        if options.get(name) is not None:
            warnings.warn(f"the option {name!r} is kept, and has no effect: {reason}", OptionNotServed, stacklevel=5)
    options.pop("lazy", None)
    if options.pop("shared", False):
        raise TypeError("apps share nothing here: register the task with each app that should have it, not shared=True")
    for name in _EXCEPTIONS:
        _check_exceptions(name, options.get(name, ()))
    for name in _NUMBERS:
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise TypeError(f"the option {name!r} is {value!r:.60}; a number of 0 or more is needed")
    hard, soft = options.get("time_limit"), options.get("soft_time_limit")
    if hard is not None and soft is not None and soft > hard:
        raise ValueError(f"soft_time_limit ({soft:g} s) is over time_limit ({hard:g} s): it could never be reached")


def _check_exceptions(name: str, value: Any) -> None:
    kinds = value if isinstance(value, tuple | list) else [value]
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise TypeError(f"the option {name!r} is {value!r:.60}; a tuple of exception classes is needed")
    if not isinstance(value, tuple | list):
        raise TypeError(f"the option {name!r} is a single class; a tuple is needed: ({value.__name__},)")


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
    stamps = stamps_of(options)
    for name, value in options.items():
        if name in CALL_OPTIONS:
            known[name] = value
        elif name in stamps:
            continue
        elif name in _MACHINERY:
            if value is not None:
                raise TypeError(f"a call takes no {name!r}: {_MACHINERY[name]}")
        elif name not in _IGNORED:
            near = difflib.get_close_matches(name, CALL_OPTIONS, n=1, cutoff=0.75)
            if near:
                raise TypeError(f"a call has no option {name!r}; did you mean {near[0]!r}?")
            properties[name] = value
    if stamps:
        known["stamps"], known["stamped_headers"] = stamps, list(options["stamped_headers"])
    return known, properties


def stamps_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The stamps of a call: each is an option that `stamped_headers` names. Raises TypeError for other than names."""
    names = options.get("stamped_headers")
    if not names:
        return {}
    if isinstance(names, str | Mapping) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"stamped_headers is {names!r:.80}; a list of the names of stamps is needed")
    given = options.get("stamps") or {}
    return {**given, **{name: options[name] for name in names if name in options and name not in given}}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
