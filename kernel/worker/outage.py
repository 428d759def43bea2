"""What the log says of a broker that is away: when it goes, when it is back, and in between ever more rarely."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

_log: Final = logging.getLogger("kernel.worker")

_FIRST_GAP: Final = 10.0
_LONGEST_GAP: Final = 600.0


class Outage:
    """Of one worker, shared by its threads that speak with the broker: the absence that all of them meet is told once.
    Usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tries = 0
        self._began = 0.0
        self._gap = 0.0
        self._told = 0.0

    def failed(self, text: str, pause: float, error: Exception, *, level: int = logging.WARNING) -> None:
        """Something did not work, and is tried again in `pause` seconds."""
        with self._lock:
            now = time.monotonic()
            tries, self._tries = self._tries, self._tries + 1
            if not tries:
                self._began, self._gap = now, _FIRST_GAP
                words = f"{text}, next try in {pause:.2g}s"
            elif now - self._told < self._gap:
                return
            else:
                self._gap = min(2 * self._gap, _LONGEST_GAP)
                words = f"{text}, still, after {self._tries} attempts in {now - self._began:.0f}s"
            self._told = now
        _log.log(level, "%s: %s", words, error)

    def ended(self, text: str) -> None:
        """By whoever failed before: it works."""
        with self._lock:
            tries, self._tries = self._tries, 0
            seconds = time.monotonic() - self._began
        if tries:
            # Whoever was shown the failure is shown its end: at the same level.
            _log.warning("%s, after %d failed attempts in %.1fs", text, tries, seconds)
