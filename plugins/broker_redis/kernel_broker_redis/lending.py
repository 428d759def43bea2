"""Numbers of claims that a consumer lends, for claims that others make on its behalf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kernel.interfaces.shortcut import Permit

_AT_ONCE: Final = 256
"""Claims that may follow from one."""


class Lending:
    """Lent numbers are below zero and go down; those of a consumer's own claims go up from zero. No number is used
    twice. Every method is one step for other threads, too."""

    def __init__(self) -> None:
        self._last = 0
        self._out: dict[int, int] = {}
        # Claims that may have been made under a permit that nobody holds any more.
        self._doubtful: list[int] = []

    def lend(self, place: str, number: int) -> Permit:
        first = self._last - 1
        self._last -= _AT_ONCE
        self._out[first] = self._last
        return Permit(place, number, first, self._last)

    def took(self, permit: Permit) -> None:
        """The first number of a permit has become the claim that `permit` is for."""
        self._out[permit.following] = permit.last
        self._out.pop(permit.number, None)

    def hand_in(self, permit: Permit) -> None:
        self._out.pop(permit.following, None)

    def call_in(self, permit: Permit) -> None:
        if self._out.pop(permit.following, None) is not None:
            self._doubtful.append(permit.following)

    def covers(self, number: int) -> bool:
        """Whether a claim with this number may have been made, and is still to be told of."""
        return number < 0 and any(first >= number >= last for first, last in list(self._out.items()))

    @property
    def doubtful(self) -> Sequence[int]:
        """Numbers under which there may be claims that nobody knows."""
        return self._doubtful

    def settled(self, count: int) -> None:
        """The first so many of these are cleared up."""
        del self._doubtful[:count]
