"""When the pump goes round again: at once while little happens, at a steady beat while much does."""

from __future__ import annotations

from typing import Final

_BEAT_SECONDS: Final = 0.002
_WINDOW_SECONDS: Final = 0.02
_DENSE: Final = 2000.0
"""Settlements a second from which on it pays to wait for company."""


class Rhythm:
    """A round trip to the broker costs about as much for one message as for thirty. While thousands end each second,
    the pump lets those of a beat come together; whoever comes alone never waits. Owned by the pump's thread."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._counted = 0
        self._since = 0.0
        self._went = 0.0

    def went(self, count: int, now: float) -> None:
        """It went round at `now` (monotonic) and settled `count`."""
        self._went = now
        self._counted += count
        passed = now - self._since
        if passed >= _WINDOW_SECONDS:
            self._rate = self._counted / passed
            self._counted, self._since = 0, now

    def pause(self, now: float) -> float:
        """Seconds to wait before the next round."""
        if self._rate < _DENSE:
            return 0.0
        return max(0.0, self._went + _BEAT_SECONDS - now)
