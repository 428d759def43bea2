"""The thread that watches over one consumer: its lease, and the server's patience with what it holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from kernel import errors

IDLE_SECONDS: Final = 0.5
"""After so long without a fetch, others get what is buffered."""


class Guard:
    """Calls `lapse` when nobody renewed for as long as the lease, `hand_over` well before a delivery is too old, and
    `idle` every now and then.

    `hand_over` says whether it could; if not, `hand_over_due` stays set for whoever reads the connection.
    """

    def __init__(
        self,
        lease: float,
        hand_over_after: float,
        *,
        lapse: Callable[[], None],
        hand_over: Callable[[], bool],
        idle: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._every = hand_over_after / 4
        self._lapse = lapse
        self._hand_over = hand_over
        self._idle = idle
        self._changed = threading.Event()
        self._stopped = False
        self._end = time.monotonic() + lease
        self._lapsed = False
        self.hand_over_due = False
        self._thread = threading.Thread(target=self._run, name="kernel-amqp-guard", daemon=True)

    @property
    def lapsed(self) -> bool:
        """Whether the lease has run out."""
        return self._lapsed or time.monotonic() > self._end

    def renewed(self) -> None:
        self._end = time.monotonic() + self._lease
        if self._lapsed:
            self._lapsed = False
            self._changed.set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._changed.set()

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._stopped:
            now = time.monotonic()
            if now > self._end and not self._lapsed:
                self._lapsed = True
                self._lapse()
            if now - looked >= self._every:
                looked = now
                self.hand_over_due = True
                self._try()
            with suppress(errors.OperationalError):
                # Whoever reads the connection hears of what broke it.
                self._idle()
            until = min(looked + self._every, now + IDLE_SECONDS)
            if not self._lapsed:
                until = min(self._end, until)
            self._changed.wait(max(0.005, until - time.monotonic()))
            self._changed.clear()

    def _try(self) -> None:
        try:
            if self._hand_over():
                self.hand_over_due = False
        except errors.OperationalError:
            # Tried again in time; and whoever reads the connection hears of what broke it.
            return
