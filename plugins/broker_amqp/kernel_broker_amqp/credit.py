"""How many messages each queue may send: what is asked for, and little more."""

from __future__ import annotations

import time
from typing import Final

from kernel_broker_amqp.line import Line, Tap
from kernel_broker_amqp.shared import Shared

_PIPES: Final = 6
_CROWDED_SECONDS: Final = 1.0


class Credit:
    """Of one consumer. It grows as it is asked for, and shrinks when nobody takes what came."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def grant(self, line: Line, limit: int, max_bytes: int) -> None:
        """Let each queue send what is asked for. Raises `OperationalError`."""
        now = time.monotonic()
        for tap in line.taps.values():
            if tap.paused:
                continue
            if tap.gone:
                self._shared.declare_again(tap.queue)
                tap.gone = False
            want = limit + tap.ahead(now)
            if tap.size:
                want = min(want, max(1, int(max_bytes / tap.size)))
            there = len(tap.buffer) + (tap.room if tap.pipes else 0)
            missing = want - there
            if missing > 0 and (missing >= there or not tap.pipes):
                if len(tap.pipes) >= _PIPES:
                    missing += sum(pipe.prefetch for pipe in tap.pipes)
                    line.stop(tap)
                line.widen(tap, missing)
            elif len(tap.buffer) > 4 * want:
                _shrink(line, tap, now)
            else:
                tap.crowded_since = None


def _shrink(line: Line, tap: Tap, now: float) -> None:
    """First nothing more comes; if what is here lasts for long even so, it is for others to run."""
    if tap.crowded_since is None:
        tap.crowded_since = now
    elif now - tap.crowded_since > _CROWDED_SECONDS:
        if tap.pipes:
            line.stop(tap)
        else:
            line.narrow(tap)
