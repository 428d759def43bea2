"""How fast tasks run, and what follows from it: who may share a datagram, and how much is claimed ahead."""

from __future__ import annotations

from typing import Final

SHORT_SECONDS: Final = 0.001
_LONG_SECONDS: Final = 0.01
"""After so long what waits behind a task is taken back and given to others."""
_BRIEF_SECONDS: Final = 0.05
_OVERHEAD: Final = 60e-6
_ALPHA: Final = 0.01
_MIN_SAMPLES: Final = 50
_LONG_SHARE: Final = 0.005
_SETTLED_IN: Final = 50
_LEAST_WEIGHT: Final = 1 / _SETTLED_IN
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
        self._long: dict[str, float] = {}
        self._means: dict[str, float] = {}
        self.short: set[str] = set()
        """Names of tasks that take less than a millisecond on average, and of which nearly none is long: one in the
        last seventy or so is enough. One that took a few milliseconds is not: on a busy machine each task is now and
        then interrupted for so long."""
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

    def note(self, name: str, *runtimes: float) -> None:
        """Tasks of that name took so many seconds each."""
        if not runtimes:
            return
        samples, long, mean = self._samples.get(name, 0), self._long.get(name, 0.0), self._means.get(name, 0.0)
        mean_of_all = runtimes[0] if self._mean is None else self._mean
        for runtime in runtimes:
            samples += 1
            long += _ALPHA * ((1.0 if runtime > _LONG_SECONDS else 0.0) - long)
            # A slow start must not last: the first values weigh more.
            if samples < _SETTLED_IN:
                mean += (runtime - mean) / samples
                mean_of_all += (runtime - mean_of_all) / (samples + 1)
            else:
                mean += _LEAST_WEIGHT * (runtime - mean)
                mean_of_all += _LEAST_WEIGHT * (runtime - mean_of_all)
        self._samples[name], self._long[name], self._means[name] = samples, long, mean
        self._mean = mean_of_all
        if samples >= _MIN_SAMPLES and mean < SHORT_SECONDS and long < _LONG_SHARE:
            self.short.add(name)
        else:
            self.short.discard(name)

    def is_short(self, name: str) -> bool:
        """Whether it is one of the `short`."""
        return name in self.short

    def is_brief(self, name: str) -> bool:
        """Whether tasks of that name take so little on average that others may well wait behind one of them."""
        return name in self._means and self._means[name] < _BRIEF_SECONDS

    def ahead(self, slots: int) -> int:
        """How many messages to hold, running ones included: what `slots` run in 30 ms, so that a task that takes
        minutes reserves nothing; and no more than are settled in 20 ms, so that nobody waits here for long."""
        settled = max(_LEAST_AHEAD * slots, int(self._rate * _SETTLED_SECONDS * self._patience))
        return slots + min(_MAX_AHEAD, settled, self._in(slots, _AHEAD_SECONDS))

    def sent(self, slots: int) -> int:
        """How many short tasks may be with the children at once: what they do in 3 ms."""
        return slots + min(int(_MAX_SENT_PER_SLOT * slots * self._patience), self._in(slots, _SENT_SECONDS))

    def _in(self, slots: int, seconds: float) -> int:
        if self._mean is None:
            return 0
        return int(slots * seconds * self._patience / (self._mean + _OVERHEAD))
