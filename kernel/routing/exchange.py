"""`Exchange`: where messages are sent that queues are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kernel.errors import ImproperlyConfigured
from kernel.interfaces.broker import ExchangeSpec
from kernel.options import did_you_mean

TYPES: Final = ("direct", "topic", "fanout", "headers")


@dataclass(frozen=True)
class Exchange:
    """An exchange by its name and type: ``direct``, ``topic`` (a key's words with ``*`` for one and ``#`` for any
    number), ``fanout``, ``headers``, or one of a server's own (``x-...``).

    Raises `ImproperlyConfigured` for any other type. `delivery_mode` is that of messages to queues of this exchange
    which say none.
    """

    name: str = ""
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    delivery_mode: int | str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ImproperlyConfigured(f"the name of an exchange is {self.name!r:.60}; a text is needed")
        check_type(self.type, f"exchange {self.name!r}")

    def spec(self) -> ExchangeSpec:
        """As a broker is told of it."""
        return ExchangeSpec(self.name, self.type, self.durable, self.auto_delete, dict(self.arguments))


def check_type(kind: Any, what: str) -> str:
    """`kind`, if it is a type of exchanges. Raises `ImproperlyConfigured` naming `what`."""
    if isinstance(kind, str) and (kind in TYPES or kind.startswith("x-")):
        return kind
    near = did_you_mean(kind, TYPES) if isinstance(kind, str) else ""
    raise ImproperlyConfigured(f"{what} has the type {kind!r:.60}{near}; there are {', '.join(TYPES)} and x-...")


def as_exchange(value: Any, kind: str | None = None) -> Exchange:
    """An exchange from ours, its name, or an object with the attributes of kombu's. Raises `ImproperlyConfigured`."""
    if isinstance(value, Exchange):
        return value
    if isinstance(value, str):
        return Exchange(value, kind or "direct")
    name = getattr(value, "name", None)
    if not isinstance(name, str):
        raise ImproperlyConfigured(f"{value!r:.80} is no exchange; kernel.Exchange(name, type) or a name is needed")
    return Exchange(
        name,
        getattr(value, "type", None) or kind or "direct",
        durable=bool(getattr(value, "durable", True)),
        auto_delete=bool(getattr(value, "auto_delete", False)),
        delivery_mode=getattr(value, "delivery_mode", None),
        arguments=getattr(value, "arguments", None) or {},
    )
