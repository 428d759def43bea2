"""`Queue`: a queue, the exchange that it is bound to, and what a server is to do with its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from kernel.errors import ImproperlyConfigured
from kernel.interfaces.broker import BindingSpec, QueueSpec
from kernel.options import did_you_mean
from kernel.routing.exchange import Exchange, as_exchange, check_type
from kernel.routing.match import HEADER_MATCHES

PRIVATE: Final = "bcast"
"""How the names of the queues begin in which a worker keeps its copies of what is sent to all."""
_MAX_PRIORITY: Final = 255


@dataclass(frozen=True)
class binding:  # noqa: N801 - kombu's name
    """One of several bindings of a queue. Raises `ImproperlyConfigured` for an ``x-match`` that there is not."""

    exchange: Exchange
    routing_key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        how = self.arguments.get("x-match", HEADER_MATCHES[0])
        if self.exchange.type == "headers" and how not in HEADER_MATCHES:
            raise ImproperlyConfigured(
                f"a binding to the exchange {self.exchange.name!r} has x-match {how!r:.40}; "
                f"there are {', '.join(HEADER_MATCHES)}"
            )

    def spec(self) -> BindingSpec:
        """As a broker is told of it."""
        return BindingSpec(self.exchange.spec(), self.routing_key, dict(self.arguments))


@dataclass(frozen=True)
class Queue:
    """A queue for `task_queues`, and for the option `queue` of a call.

    Without an exchange it is bound to the default one, under the default routing key; with `bindings` to each of
    those instead. `expires` and `message_ttl` are seconds. `max_priority`, `max_length`, `max_length_bytes`,
    `expires`, `message_ttl` and `queue_arguments` are for servers that know them (RabbitMQ), and nothing elsewhere.
    An `alias` is another name by which calls and ``-Q`` find it. Raises `ImproperlyConfigured` for what cannot be.
    """

    name: str = ""
    exchange: Exchange | str | None = None
    routing_key: str = ""
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)
    binding_arguments: Mapping[str, Any] = field(default_factory=dict)
    consumer_arguments: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    no_ack: bool = False
    alias: str | None = None
    bindings: Sequence[binding] = ()
    no_declare: bool = False
    expires: float | None = None
    message_ttl: float | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    max_priority: int | None = None
    on_declared: Callable[..., Any] | None = None
    everyone: bool = False
    """Each worker that consumes it has a copy of every message (`Broadcast`)."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ImproperlyConfigured(f"the name of a queue is {self.name!r:.60}; a text is needed")
        if isinstance(self.exchange, str):
            object.__setattr__(self, "exchange", Exchange(self.exchange))
        self._check_numbers()
        _ = self.bound  # which checks the arguments

    def _check_numbers(self) -> None:
        for name in ("expires", "message_ttl", "max_length", "max_length_bytes", "max_priority"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
                raise ImproperlyConfigured(f"queue {self.name!r}: {name} is {value!r:.40}; 0 or more is needed")
        if self.max_priority is not None and self.max_priority > _MAX_PRIORITY:
            raise ImproperlyConfigured(f"queue {self.name!r}: max_priority is {self.max_priority}; 255 is the most")

    @property
    def home(self) -> Exchange:
        """The exchange by which it is addressed. One that has bindings alone is addressed by itself: kombu keeps those
        in no order, and a call means the queue."""
        return self.exchange if isinstance(self.exchange, Exchange) else Exchange()

    @property
    def bound(self) -> Sequence[binding]:
        """All of its bindings."""
        own = binding(self.home, self.routing_key, self.binding_arguments)
        if self.bindings:
            return (*([own] if own.exchange.name and self.routing_key else ()), *self.bindings)
        return (own,) if own.exchange.name else ()

    def spec(self, max_priority: int | None = None) -> QueueSpec:
        """As a broker is told of it; `max_priority` counts where it says none."""
        milliseconds = {"x-expires": self.expires, "x-message-ttl": self.message_ttl}
        numbers = {"x-max-length": self.max_length, "x-max-length-bytes": self.max_length_bytes}
        arguments = {name: value for name, value in numbers.items() if value is not None}
        arguments.update({name: round(value * 1000) for name, value in milliseconds.items() if value is not None})
        return QueueSpec(
            self.name,
            tuple(each.spec() for each in self.bound),
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
            max_priority=max_priority if self.max_priority is None else self.max_priority,
            arguments={**arguments, **self.queue_arguments},
        )


def Broadcast(  # noqa: N802 - kombu's name
    name: str,
    queue: str | None = None,
    unique: bool = False,
    auto_delete: bool = True,
    exchange: Exchange | None = None,
    alias: str | None = None,
    **options: Any,
) -> Queue:
    """A queue of which each worker has a copy: what is sent to the fanout exchange `name` is run by every worker that
    consumes it at the time. Put it into `task_queues` and send to the queue `name`.

    With a `queue` (and not `unique`) the copies have one queue of that name, which workers share.
    """
    own = bool(queue) and not unique
    return Queue(
        queue if own and queue else name,
        exchange=exchange or Exchange(name, "fanout"),
        auto_delete=auto_delete,
        alias=alias or name,
        everyone=not own,
        **options,
    )


_FIELDS: Final = tuple(each.name for each in fields(Queue) if each.name not in ("everyone", "bindings", "exchange"))
_OF_DICTIONARIES: Final = frozenset(
    {
        *_FIELDS,
        "exchange",
        "exchange_type",
        "exchange_durable",
        "exchange_auto_delete",
        "exchange_arguments",
        "binding_key",
        "bindings",
        "delivery_mode",
        "queue_durable",
        "queue_auto_delete",
    }
)


def as_queue(value: Any) -> Queue:
    """A queue from ours, its name, or an object with the attributes of kombu's. Raises `ImproperlyConfigured`."""
    if isinstance(value, Queue):
        return value
    if isinstance(value, str):
        return Queue(value)
    name = getattr(value, "name", None)
    if not isinstance(name, str):
        raise ImproperlyConfigured(f"{value!r:.80} is no queue; kernel.Queue(name, ...) or a name is needed")
    exchange = getattr(value, "exchange", None)
    found = as_exchange(exchange) if exchange is not None else None
    options = {
        each: item
        for each in _FIELDS
        if each not in ("name", "alias") and (item := getattr(value, each, None)) is not None
    }
    alias = getattr(value, "alias", None)
    if type(value).__name__ == "Broadcast" and name.startswith(f"{PRIVATE}."):
        # Its name is one that no two objects have: what it is known by is the alias.
        options["auto_delete"] = True
        return Queue(alias or (found.name if found else name), found, everyone=True, alias=alias, **options)
    bindings = tuple(_as_binding(each) for each in getattr(value, "bindings", None) or ())
    return Queue(name, found, alias=alias, bindings=bindings, **options)


def _as_binding(value: Any) -> binding:
    if isinstance(value, binding):
        return value
    return binding(
        as_exchange(getattr(value, "exchange", None)),
        getattr(value, "routing_key", None) or "",
        getattr(value, "arguments", None) or {},
    )


def queue_from_dict(name: str, options: Mapping[str, Any]) -> Queue:
    """The queue that an entry of a dictionary in `task_queues` means. Raises `ImproperlyConfigured`."""
    for each in options:
        if each not in _OF_DICTIONARIES:
            near = did_you_mean(str(each), _OF_DICTIONARIES)
            raise ImproperlyConfigured(f"task_queues[{name!r}] has an unknown entry {each!r}{near}")
    own = {each: options[each] for each in _FIELDS if options.get(each) is not None and each != "name"}
    for each in ("durable", "auto_delete"):
        if options.get(f"queue_{each}") is not None:
            own[each] = options[f"queue_{each}"]
    own["routing_key"] = options.get("binding_key") or options.get("routing_key") or name
    if options.get("bindings"):
        own["bindings"] = tuple(map(_as_binding, options["bindings"]))
    return Queue(name, _exchange_from_dict(name, options), **own)


def _exchange_from_dict(name: str, options: Mapping[str, Any]) -> Exchange | None:
    exchange, kind = options.get("exchange"), options.get("exchange_type")
    if kind is not None:
        check_type(kind, f"the exchange of task_queues[{name!r}]")
    if exchange is None or not isinstance(exchange, str):
        return None if exchange is None and kind is None else as_exchange(name if exchange is None else exchange, kind)
    settings = {each: options.get(f"exchange_{each}", options.get(each)) for each in ("durable", "auto_delete")}
    return Exchange(
        exchange,
        kind or "direct",
        delivery_mode=options.get("delivery_mode"),
        arguments=options.get("exchange_arguments") or {},
        **{each: bool(value) for each, value in settings.items() if value is not None},
    )


def as_queues(value: Any) -> list[Queue]:
    """The queues of a `task_queues`: a list of queues, or a dictionary of them or of their options by name."""
    if isinstance(value, Mapping):
        found = []
        for name, item in value.items():
            if item is None or isinstance(item, Mapping):
                found.append(queue_from_dict(name, item or {}))
            else:
                found.append(as_queue(item))
        return found
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ImproperlyConfigured(f"task_queues is {value!r:.80}; a list of queues, or a dictionary, is needed")
    return [as_queue(item) for item in value]
