"""What the answers of the scripts look like: a connection that gives another is not to be trusted."""

from __future__ import annotations

from collections.abc import Callable
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
            all(type(word) is int for word in reply[:HEAD])
            and all(type(index) is int and 0 <= index < lists for index in indexes)
            and all(type(count) is int for count in starts)
            and all(type(raw) is bytes for raw in raws)
        )

    return fits


def is_outcomes(count: int, most: int = 1) -> Callable[[Any], bool]:
    """Whether this tells of so many claims whether they were there, or what became of them by numbers up to `most`."""

    def fits(reply: Any) -> bool:
        return (
            isinstance(reply, list)
            and len(reply) == count
            and all(type(word) is int and 0 <= word <= most for word in reply)
        )

    return fits


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
