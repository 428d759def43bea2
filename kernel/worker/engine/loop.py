"""What the engine's thread waits on."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any

from kernel.worker.waker import Waker


class Loop:
    """For one thread, save for `wake`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self.select(self._waker, self._waker.reset)

    def select(self, readable: Any, call: Callable[[], None]) -> None:
        """Have `call` called when `readable` is."""
        self._selector.register(readable, selectors.EVENT_READ, call)

    def unselect(self, readable: Any) -> None:
        """No more; if it was not selected, nothing happens."""
        try:
            self._selector.unregister(readable)
        except (KeyError, ValueError):
            return

    def wait(self, timeout: float) -> None:
        """Wait so many seconds at most, and call what is to be called."""
        for key, _ in self._selector.select(timeout):
            key.data()

    def wake(self) -> None:
        """End the wait, or the next one. Any thread, and signal handlers."""
        self._waker.wake()

    def close(self) -> None:
        self._selector.close()
        self._waker.close()
