"""Deletes expired results now and then, for backends whose server does not do so by itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kernel.app import Kernel

_log = logging.getLogger("kernel.worker")

_FIRST_SECONDS: Final = 60.0
_EVERY_SECONDS: Final = 3600.0


class Cleaner:
    """Calls `clean` a minute after `start` and hourly from then on, on a daemon thread.

    `wait` waits so many seconds, or until `stop` was called, and says whether it was. What `clean` raises is logged:
    results that stay longer are nobody's trouble.
    """

    def __init__(
        self,
        clean: Callable[[], int],
        *,
        first: float = _FIRST_SECONDS,
        every: float = _EVERY_SECONDS,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._clean = clean
        self._first = first
        self._every = every
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._thread = threading.Thread(target=self._run, name="kernel-cleaner", daemon=True)

    @classmethod
    def of(cls, app: Kernel) -> Cleaner | None:
        """The cleaner of an app; None where no results are kept, or where they never expire."""
        if app.backend_url is None or not app.conf.result_expires:
            return None

        def clean() -> int:
            # The backend is opened on the thread when it is first needed, not while the process starts.
            return app.backend.cleanup()

        return cls(clean)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End it; a deletion that is under way is waited for, up to `timeout` seconds."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = self._first
        while not self._wait(pause):
            pause = self._every
            try:
                count = self._clean()
            except Exception as exc:
                _log.warning("expired results cannot be deleted, next try in %.0f s: %s", pause, exc)
            else:
                _log.log(logging.INFO if count else logging.DEBUG, "%d expired results deleted", count)
