"""What a running task knows of itself: `Request`, and the context variable that holds the current one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from kernel import errors
from kernel.shape import ShapedMessage

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Record
    from kernel.message import Message

current_request: Final[ContextVar[Request | None]] = ContextVar("kernel_request", default=None)
"""The request of the task that runs in this context; set by executors and by direct calls."""

# Header → the type it must have when it is there and not null. `bool` is refused where a number is meant, and so is a
# subclass of int, which no serializer of ours makes.
_KINDS: Final[Mapping[str, type]] = {
    "root_id": str,
    "parent_id": str,
    "group": str,
    "group_index": int,
    "retries": int,
    "eta": str,
    "expires": str,
    "shadow": str,
    "lang": str,
    "origin": str,
    "argsrepr": str,
    "kwargsrepr": str,
    "ignore_result": bool,
    "replaced_task_nesting": int,
    "stamped_headers": list,
    "stamps": dict,
    "compression": str,
    "redelivered": bool,
    "kernel_replay": int,
    "kernel_chord": str,
    "kernel_copy": str,
    "kernel_body_task": int,
    "kernel_exchange": str,
    "kernel_routing_key": str,
}
RESERVED_HEADERS: Final = frozenset(_KINDS) | {"id", "task", "timelimit", "meth", "taskset"}
"""Headers that belong to the protocol; all others are the caller's own."""

_NO_LIMITS: Final = [None, None]
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Progress(Protocol):
    """The part of a worker's sink that a running task uses."""

    def progress(self, records: Sequence[Record]) -> None:
        """Store intermediate states now; durable when it returns."""
        ...


def _always() -> bool:
    return True


class Request:
    """The call that is being run: its ids, arguments, options, and where it came from.

    Names are Celery's. `timelimit` is ``[hard, soft]`` in seconds; `eta` and `expires` are ISO 8601 texts;
    `delivery_info` has `exchange`, `routing_key`, `priority` and `redelivered`. Ours alone: `delivery_token`
    is new for each claim of the message and `lease_valid()` says whether this worker still owns it, so that a
    task can fence its own effects; `starts` counts earlier starts that never ended; `attempt` counts replays
    from the dead letters; `stash` is room for plugins.
    """

    app: Kernel | None = None
    sink: Progress | None = None
    message: Message | None = None
    seq: int = 0

    id: str | None = None
    task: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = _NOTHING
    retries: int = 0
    eta: str | None = None
    expires: str | None = None
    shadow: str | None = None
    lang: str | None = None
    origin: str | None = None
    hostname: str | None = None
    utc: bool = True
    logfile: str | None = None
    loglevel: int | None = None

    root_id: str | None = None
    parent_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None

    group: str | None = None
    group_index: int | None = None
    chord: Mapping[str, Any] | None = None
    chain: Sequence[Mapping[str, Any]] | None = None
    callbacks: Sequence[Mapping[str, Any]] | None = None
    errbacks: Sequence[Mapping[str, Any]] | None = None
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, Any] | None = None

    time_limit: float | None = None
    soft_time_limit: float | None = None
    delivery_info: Mapping[str, Any] = _NOTHING
    properties: Mapping[str, Any] = _NOTHING
    called_directly: bool = True
    is_eager: bool = False
    ignore_result: bool | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    compression: str | None = None

    delivery_token: str = ""
    queue: str = ""
    starts: int = 0
    seen: bool = False
    redelivered: bool = False
    kernel_replay: int = 0
    kernel_chord: str | None = None
    """The chord that this is the body of, or one of the tasks that its body begins with."""
    kernel_copy: str | None = None
    """Which copy of the body's message this is: of several that were published the first that begins runs."""
    kernel_body_task: int | None = None
    """Which of the tasks that the body begins with this is, from 0; None for the only one: its chord is of no more use
    once it runs."""
    kernel_exchange: str = ""
    """The exchange that the message was sent to, empty for none, and with which routing key."""
    kernel_routing_key: str = ""
    entered: bool = False
    """The body has begun: a further call of the task inside it is a call of its own."""
    outer: Request | None = None
    """For a direct call, the request it was made in."""
    asked_retry: errors.Retry | None = None
    """What ``retry(throw=False)`` returned in this run; published when the body has ended."""
    asked_end: tuple[str, tuple[bytes, str, str]] | None = None
    """The terminal state that the run itself named (`update_state`), and its result as it is stored: how it ends, if
    it then raises `Ignore`."""
    chord_additions: int = 0
    """How many members this run has added to its chord."""
    gave_way: bool = False
    """The body has made something that takes the task's place."""

    _valid: Callable[[], bool] = staticmethod(_always)
    _children: list[Any] | None = None
    _headers: Mapping[str, Any] | None = None
    _stash: dict[str, Any] | None = None

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    @classmethod
    def from_message(
        cls,
        message: Message,
        *,
        app: Kernel,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        embed: Mapping[str, Any],
        hostname: str = "",
        queue: str = "",
        token: str = "",
        starts: int = 0,
        seen: bool = False,
        seq: int = 0,
        valid: Callable[[], bool] | None = None,
        sink: Progress | None = None,
    ) -> Request:
        """The request of a claimed message whose body is decoded.

        Raises `InvalidTaskError` naming the header that is missing or of the wrong type.
        """
        task_id = message.id
        properties = message.properties
        request = cls.__new__(cls)
        fields = request.__dict__
        fields.update(
            app=app,
            sink=sink,
            message=message,
            seq=seq,
            id=task_id,
            task=message.task,
            args=args,
            kwargs=kwargs,
            hostname=hostname,
            queue=queue,
            delivery_token=token,
            starts=starts,
            seen=seen,
            called_directly=False,
            properties=properties,
            correlation_id=properties.get("correlation_id") or task_id,
            reply_to=properties.get("reply_to"),
            callbacks=embed.get("callbacks"),
            errbacks=embed.get("errbacks"),
            chain=embed.get("chain"),
            chord=embed.get("chord"),
        )
        if valid is not None:
            fields["_valid"] = valid
        if isinstance(message, ShapedMessage):
            _read_shaped(message, fields)
        else:
            _read_headers(message.headers, fields)
        fields["delivery_info"] = {
            "exchange": request.kernel_exchange,
            "routing_key": request.kernel_routing_key if request.kernel_exchange else queue,
            "priority": message.priority,
            "redelivered": seen or request.redelivered,
        }
        return request

    @property
    def taskset(self) -> str | None:
        """The old name of `group`."""
        return self.group

    @property
    def attempt(self) -> int:
        """How often the message was replayed from the dead letters."""
        return self.kernel_replay

    @property
    def timelimit(self) -> list[float | None]:
        return [self.time_limit, self.soft_time_limit]

    @property
    def children(self) -> list[Any]:
        """The results of the tasks that this one published."""
        if self._children is None:
            self._children = []
        return self._children

    @children.setter
    def children(self, value: list[Any] | None) -> None:
        self._children = value

    @property
    def has_children(self) -> bool:
        """Whether it published any, without making the list."""
        return bool(self._children)

    @property
    def stash(self) -> dict[str, Any]:
        """Room for plugins, one key each (by convention the plugin's name)."""
        if self._stash is None:
            self._stash = {}
        return self._stash

    @property
    def headers(self) -> Mapping[str, Any] | None:
        """The caller's own headers, or None when there are none."""
        if self._headers is None and self.message is not None:
            self._headers = {k: v for k, v in self.message.headers.items() if k not in RESERVED_HEADERS}
        return self._headers or None

    @headers.setter
    def headers(self, value: Mapping[str, Any] | None) -> None:
        self._headers = value

    def lease_valid(self) -> bool:
        """Whether this worker still owns the message; always True outside a worker."""
        return self._valid()

    def get(self, key: str, default: Any = None) -> Any:
        """The field of that name, or `default`."""
        return getattr(self, key, default)

    def update(self, *mappings: Mapping[str, Any], **fields: Any) -> None:
        for mapping in mappings:
            for name, value in mapping.items():
                setattr(self, name, value)
        for name, value in fields.items():
            setattr(self, name, value)

    def clear(self) -> None:
        self.__dict__.clear()

    def as_execution_options(self) -> dict[str, Any]:
        """The options of `apply_async` that would make this call again, under its own id."""
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": self.soft_time_limit,
            "time_limit": self.time_limit,
            "headers": self.headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }

    def __repr__(self) -> str:
        return f"<Request {self.task}[{self.id}]>"


def running_request() -> Request | None:
    """The request of the task that a worker (or eager mode) runs in this context, past direct calls."""
    request = current_request.get()
    while request is not None and request.called_directly:
        request = request.outer
    return request


# What counts something in a message goes into columns of result stores, which hold no more than this.
_MAX_COUNT: Final = 1 << 31


def check_headers(headers: Mapping[str, Any]) -> None:
    """Raises `InvalidTaskError` naming the header of a message to be sent that no worker would take."""
    _read_headers(headers, {})


def _read_headers(headers: Mapping[str, Any], fields: dict[str, Any]) -> None:
    for name, value in headers.items():
        if value is None:
            continue
        kind = _KINDS.get(name)
        if kind is None:
            continue
        if kind is int:
            if value.__class__ is not int or not 0 <= value < _MAX_COUNT:
                raise errors.InvalidTaskError(f"header {name!r} is {_short(value)}; a number from 0 to 2^31 is needed")
        elif value.__class__ is not kind and not isinstance(value, kind):
            raise errors.InvalidTaskError(f"header {name!r} is {_short(value)}; {kind.__name__} is needed")
        fields[name] = value
    limits = headers.get("timelimit")
    if limits is not None and limits != _NO_LIMITS:
        fields["time_limit"], fields["soft_time_limit"] = parse_time_limits(limits)


def _read_shaped(message: ShapedMessage, fields: dict[str, Any]) -> None:
    """The same for a message that has most headers in common with others: these are read once."""
    shape = message.shape
    common = shape.fields
    if common is None:
        read: dict[str, Any] = {}
        _read_headers(shape.common, read)
        common = shape.fields = read
    fields.update(common)
    # Each is what it must be by what a shape is.
    fields.update(zip(shape.header_names, message.values, strict=False))
    for name, copy in shape.copies:
        if name in common:
            fields[name] = copy()


def parse_time_limits(limits: object) -> tuple[float | None, float | None]:
    """The header `timelimit` as ``(hard, soft)`` in seconds. Raises `InvalidTaskError`."""
    if isinstance(limits, list | tuple) and len(limits) == 2:
        hard, soft = limits
        if _is_limit(hard) and _is_limit(soft):
            return hard, soft
    raise errors.InvalidTaskError(
        f"header 'timelimit' is {_short(limits)}; [hard, soft] in seconds above 0 or null is needed"
    )


def _is_limit(value: object) -> bool:
    if value is None:
        return True
    # The upper bound keeps infinities and absurd numbers away from timers.
    return isinstance(value, int | float) and value.__class__ is not bool and 0 < value < 1e9


def _short(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 64:
        return "an int of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
