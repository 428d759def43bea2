"""`Address`: where one call goes, worked out of its options and the queues there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kernel.errors import ImproperlyConfigured
from kernel.routing.exchange import Exchange, as_exchange, check_type

if TYPE_CHECKING:
    from kernel.routing.topology import Topology

_PLACE: Final = ("exchange", "exchange_type", "routing_key")
PLACE: Final = frozenset({"queue", *_PLACE})
"""The options that say where a call goes."""


class Address(NamedTuple):
    """`exchange` empty: the message goes to the queue as it is. `delivery_mode` is that of the exchange, if any."""

    queue: str
    exchange: str = ""
    routing_key: str = ""
    delivery_mode: int | str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What a message says of it, whatever ways it goes: nothing, unless it is sent to an exchange."""
        if not self.exchange:
            return {}
        return {"kernel_exchange": self.exchange, "kernel_routing_key": self.routing_key}


def address_of(options: Mapping[str, Any], topology: Topology) -> Address:
    """Where a call with these options goes.

    A queue of a direct exchange gets the message as it is unless both an exchange and a routing key are named;
    what is sent to a queue of any other exchange goes to that exchange, with the queue's routing key unless one is
    named. Raises `QueueNotFound`, TypeError for what names neither, and ValueError for a type of exchanges that there
    is not.
    """
    queue = topology.find(options.get("queue") or topology.default_name)
    home = queue.home
    key = options.get("routing_key")
    if key is not None and not isinstance(key, str):
        raise TypeError(f"routing_key is {key!r:.60}; a text is needed")
    given = _given(options, topology)
    kind = home.type if given is None else given.type
    mode = home.delivery_mode
    if kind == "direct" and not (given is not None and given.name and key):
        return Address(queue.name, delivery_mode=mode)
    if given is None or not given.name:
        return Address(queue.name, home.name, key or queue.routing_key or topology.default_key, mode)
    return Address(queue.name, given.name, key or "", mode if given.delivery_mode is None else given.delivery_mode)


def _given(options: Mapping[str, Any], topology: Topology) -> Exchange | None:
    """The exchange that the options name, of the type that they name or that is known of it."""
    exchange, kind = options.get("exchange"), options.get("exchange_type")
    try:
        if kind is not None:
            check_type(kind, "the exchange of this call")
        if exchange is None or exchange == "":
            return None if kind is None else Exchange("", kind)
        if isinstance(exchange, str):
            return topology.exchange(exchange) or _noted(Exchange(exchange, kind or "direct"), topology, kind)
        found = as_exchange(exchange)
        return topology.exchange(found.name) or _noted(found, topology, found.type)
    except ImproperlyConfigured as exc:
        raise ValueError(str(exc)) from None


def _noted(exchange: Exchange, topology: Topology, kind: str | None) -> Exchange:
    """Remembered, if the call says of what type it is; what queues say of their exchanges is known better."""
    return exchange if kind is None else topology.note(exchange)


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options over options, the weakest first; None says nothing. A queue that is named takes the place of whatever
    weaker layers say of exchange and routing key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.get("queue") is not None:
            for name in _PLACE:
                merged.pop(name, None)
        merged.update({name: value for name, value in layer.items() if value is not None})
    return merged
