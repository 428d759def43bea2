"""How fast tasks run, and what follows from it: who may share a datagram, and how much is claimed ahead."""

from __future__ import annotations

from typing import Final

SHORT_SECONDS: Final = 0.001
_OVERHEAD: Final = 60e-6
_ALPHA: Final = 0.01
_MIN_SAMPLES: Final = 50
_SLOW_SHARE: Final = 0.005
_AHEAD_SECONDS: Final = 0.03
_SETTLED_SECONDS: Final = 0.02
_SENT_SECONDS: Final = 0.003
_RATE_SECONDS: Final = 0.05
_LEAST_AHEAD: Final = 16
_MAX_AHEAD: Final = 2000
_MAX_SENT_PER_SLOT: Final = 48


class Pace:
    """Running figures of a worker. Not thread-safe: the engine's loop owns it."""

    def __init__(self, patience: float = 1.0) -> None:
        self._patience = patience
        self._samples: dict[str, int] = {}
        self._slow: dict[str, float] = {}
        self._mean: float | None = None
        self._rate = 0.0
        self._counted = 0
        self._since = 0.0

    def settled(self, count: int, now: float) -> None:
        """So many ends were settled; `now` is monotonic."""
        self._counted += count
        passed = now - self._since
        if passed >= _RATE_SECONDS:
            self._rate = self._counted / passed
            self._counted, self._since = 0, now

    def note(self, name: str, runtime: float) -> None:
        """A task of that name took `runtime` seconds."""
        self._samples[name] = self._samples.get(name, 0) + 1
        slow = self._slow.get(name, 0.0)
        self._slow[name] = slow + _ALPHA * ((1.0 if runtime > SHORT_SECONDS else 0.0) - slow)
        mean = self._mean
        # A slow start must not last: the first hundred values weigh more.
        weight = max(0.02, 1.0 / (self._samples[name] + 1)) if mean is not None else 1.0
        self._mean = runtime if mean is None else mean + weight * (runtime - mean)

    def is_short(self, name: str) -> bool:
        """Whether nearly all tasks of that name end within a millisecond: one slow one in the last seventy or
        so is enough to say no."""
        return self._samples.get(name, 0) >= _MIN_SAMPLES and self._slow[name] < _SLOW_SHARE

    def ahead(self, slots: int) -> int:
        """How many messages to hold, running ones included: what `slots` run in 30 ms, so that a task that takes
        minutes reserves nothing; and no more than are settled in 12 ms, so that nobody waits here for long."""
        settled = max(_LEAST_AHEAD * slots, int(self._rate * _SETTLED_SECONDS * self._patience))
        return slots + min(_MAX_AHEAD, settled, self._in(slots, _AHEAD_SECONDS))

    def sent(self, slots: int) -> int:
        """How many short tasks may be with the children at once: what they do in 3 ms."""
        return slots + min(int(_MAX_SENT_PER_SLOT * slots * self._patience), self._in(slots, _SENT_SECONDS))

    def _in(self, slots: int, seconds: float) -> int:
        if self._mean is None:
            return 0
        return int(slots * seconds * self._patience / (self._mean + _OVERHEAD))
