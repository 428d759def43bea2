"""What one child has carried out under one claim, and its engine has not heard of yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from kernel.worker.assignment import Step

_MOST: Final = 16
_OLDEST: Final = 0.005
"""How many ends, and for how many seconds, the news of them may wait: the engine has little use for those of tasks that
nobody limits, and its waking takes time from them."""


class Row:
    """Tells of steps in their order: by `tell`, which never blocks for long. `soon` has `flush` called within about ten
    milliseconds by another thread, for what the next task would keep waiting."""

    def __init__(self, tell: Callable[[Sequence[Step]], None], *, soon: Callable[[], None]) -> None:
        self._tell = tell
        self._soon = soon
        self._lock = threading.Lock()
        self._steps: list[Step] = []
        self._since = 0.0

    def add(self, step: Step, *, at_once: bool) -> None:
        """`step` was taken. If that is to be told `at_once`, it is when this returns."""
        with self._lock:
            now = time.monotonic()
            if not self._steps:
                self._since = now
            self._steps.append(step)
            is_first = len(self._steps) == 1
            if at_once or len(self._steps) >= _MOST or now - self._since >= _OLDEST:
                self._send()
                return
        if is_first:
            self._soon()

    def flush(self) -> None:
        """Tell what is left to be told."""
        if self._steps:
            with self._lock:
                self._send()

    def _send(self) -> None:
        steps, self._steps = self._steps, []
        if steps:
            self._tell(steps)
