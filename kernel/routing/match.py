"""Which queues a message goes to: what exchanges do, for brokers that have none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from kernel.interfaces.broker import Bound

KNOWN: Final = frozenset({"direct", "topic", "fanout", "headers"})
"""The types of exchanges that the kernel can decide about."""

HEADER_MATCHES: Final = ("all", "any", "all-with-x", "any-with-x")
"""What the argument ``x-match`` of a binding to a headers exchange may be; the first where none is given."""

Headers = Callable[[], Mapping[str, Any]]
"""The headers of a message, for whom they decide about."""


def matches(kind: str, bound: str, key: str, headers: Headers = dict) -> bool:
    """Whether a message with the routing key `key` goes where `bound` is the key of the binding
    (`BindingSpec.key`)."""
    if kind == "fanout":
        return True
    if kind == "headers":
        return headers_match(_arguments(bound), headers())
    return topic_matches(bound, key) if kind == "topic" else bound == key


def topic_matches(pattern: str, key: str) -> bool:
    """Words are separated by dots; in the pattern ``*`` stands for one word and ``#`` for any number of them, none
    included, as AMQP has it. The time is the product of both numbers of words, whatever they are."""
    parts = pattern.split(".") if pattern else []
    places = _past_any({0}, parts)
    for word in key.split(".") if key else ():
        reached = set()
        for place in places:
            if place < len(parts):
                if parts[place] == "#":
                    reached.add(place)
                elif parts[place] in ("*", word):
                    reached.add(place + 1)
        places = _past_any(reached, parts)
    return len(parts) in places


def _past_any(places: set[int], parts: Sequence[str]) -> set[int]:
    """The places, and those behind a ``#`` that stands for no word."""
    found = set()
    for place in places:
        found.add(place)
        while place < len(parts) and parts[place] == "#":
            place += 1
            found.add(place)
    return found


def headers_match(arguments: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """Whether all of the arguments of a binding (or, with ``x-match`` ``any``, one of them) are among the headers, as
    RabbitMQ has it: None asks for the name alone, other values must be equal and of one type, and names that begin
    with ``x-`` say nothing unless ``x-match`` ends in ``-with-x``."""
    how = str(arguments.get("x-match", "all"))
    wanted = {
        name: value
        for name, value in arguments.items()
        if name != "x-match" and (how.endswith("-with-x") or not name.startswith("x-"))
    }
    fits = (name in headers and _same(value, headers[name]) for name, value in wanted.items())
    return any(fits) if how.startswith("any") else all(fits)


def _same(wanted: Any, value: Any) -> bool:
    return wanted is None or (type(wanted) is type(value) and bool(wanted == value))


def _arguments(bound: str) -> Mapping[str, Any]:
    try:
        found = json.loads(bound)
    except ValueError:
        found = None
    # What no binding of ours wrote takes nothing.
    return found if isinstance(found, dict) else {"x-match": "any"}


def queues_for(bindings: Iterable[Bound], key: str, kind: str | None = None, headers: Headers = dict) -> list[str]:
    """The queues that take a message, each once, in the order of their bindings. `kind` is the exchange's type where
    it is known, and wins over what the bindings say."""
    fitting = (item.queue for item in bindings if matches(kind or item.type, item.routing_key, key, headers))
    return list(dict.fromkeys(fitting))
