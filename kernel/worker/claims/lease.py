"""Renews the worker's lease, on a thread that calls no hook and waits for nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kernel import errors
from kernel.worker.claims.pump import Pump

_log = logging.getLogger("kernel.worker")

_RETRY_SECONDS = 0.5


class Renewer:
    """Renews at a third of the lease. `held` is told until when (monotonic) the lease certainly holds, `lost`
    is called when it has run out: once while nothing can be asked, and whenever the broker says so, which it may do
    again and again while it is away. The log says it once, and once that it holds again."""

    def __init__(self, pump: Pump, lease: float, *, held: Callable[[float], None], lost: Callable[[], None]) -> None:
        self._pump = pump
        self._lease = lease
        self._held = held
        self._lost = lost
        self._until = time.monotonic() + lease
        self._stop = threading.Event()
        self._is_lost = False
        self._told_at: float | None = None
        """Since when the log says that it is lost."""
        self._thread = threading.Thread(target=self._run, name="kernel-lease", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether it ran out and could not be renewed since."""
        return self._is_lost

    def begin(self) -> None:
        """A consumer was opened: its lease counts from now. Called before anything is claimed, by any thread."""
        self._until = time.monotonic() + self._lease
        self._held(self._until)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        pause = self._lease / 3
        while not self._stop.wait(pause):
            pause = self._renew()

    def _renew(self) -> float:
        """Renew once; the seconds until the next time."""
        consumer = self._pump.consumer
        if consumer is None:
            return self._lease / 3
        asked = time.monotonic()
        try:
            kept = consumer.renew()
        except Exception as exc:  # whatever it is: a thread that ended would lose the lease without a word
            known = isinstance(exc, errors.OperationalError)
            _log.warning("the lease cannot be renewed: %s", exc, exc_info=None if known else exc)
            if time.monotonic() >= self._until:
                self._declare_lost()
            return min(_RETRY_SECONDS, self._lease / 3)
        if not kept:
            self._declare_lost()
        elif self._told_at is not None:
            # Whoever was shown the loss is shown its end.
            _log.warning("the lease of this worker holds again, after %.1fs", time.monotonic() - self._told_at)
            self._told_at = None
        # The server counted from some moment after the call began; that moment is the safe one to count from.
        self._until = asked + self._lease
        self._is_lost = False
        self._held(self._until)
        return self._lease / 3

    def _declare_lost(self) -> None:
        if self._told_at is None:
            self._told_at = time.monotonic()
            _log.error("the lease of this worker ran out: what it holds may be run by others; their results count")
        if not self._is_lost:
            self._is_lost = True
            self._lost()
