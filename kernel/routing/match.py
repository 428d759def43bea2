"""Which queues a message goes to: what exchanges do, for brokers that have none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kernel.interfaces.broker import Bound

KNOWN: Final = frozenset({"direct", "topic", "fanout"})
"""The types of exchanges that a routing key alone decides about."""


def matches(kind: str, bound: str, key: str) -> bool:
    """Whether a message with the routing key `key` goes where `bound` is the routing key of the binding."""
    if kind == "fanout":
        return True
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


def queues_for(bindings: Iterable[Bound], key: str, kind: str | None = None) -> list[str]:
    """The queues that take a message, each once, in the order of their bindings. `kind` is the exchange's type where
    it is known, and wins over what the bindings say."""
    return list(dict.fromkeys(item.queue for item in bindings if matches(kind or item.type, item.routing_key, key)))
