"""What the answers of the scripts look like: a connection that gives another is not to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

HEAD: Final = 5
"""The words of a claim's answer before the messages, of which each has three."""


def is_claim(lists: int) -> Callable[[Any], bool]:
    """Whether this is the answer to a claim that named so many lists."""

    def fits(reply: Any) -> bool:
        if not isinstance(reply, list) or len(reply) < HEAD or (len(reply) - HEAD) % 3:
            return False
        indexes, starts, raws = reply[HEAD::3], reply[HEAD + 1 :: 3], reply[HEAD + 2 :: 3]
        return (
            _are(int, reply[:HEAD])
            and _are(int, indexes)
            and (not indexes or (min(indexes) >= 0 and max(indexes) < lists))
            and _are(int, starts)
            and _are(bytes, raws)
        )

    return fits


def is_outcomes(count: int, most: int = 1) -> Callable[[Any], bool]:
    """Whether this tells of so many claims whether they were there, or what became of them by numbers up to `most`."""

    def fits(reply: Any) -> bool:
        return (
            isinstance(reply, list)
            and len(reply) == count
            and _are(int, reply)
            and (not reply or (min(reply) >= 0 and max(reply) <= most))
        )

    return fits


def _are(kind: type, words: Sequence[Any]) -> bool:
    return {*map(type, words)} <= {kind}


def is_lease(reply: Any) -> bool:
    return isinstance(reply, list) and len(reply) == 2 and reply[0] in (0, 1, 2) and isinstance(reply[1], bytes)


def is_number(reply: Any) -> bool:
    return type(reply) is int


def is_numbers(lists: int) -> Callable[[Any], bool]:
    """Whether this names claims, for each of so many lists."""

    def fits(reply: Any) -> bool:
        return (
            isinstance(reply, list)
            and len(reply) == lists
            and all(isinstance(each, list) and all(type(n) is bytes and n.isdigit() for n in each) for each in reply)
        )

    return fits
