"""A call in a thread, for the cases in which one side waits while the other acts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest


class Background:
    """Starts at once; `result` waits for it, and fails the test when it hangs."""

    def __init__(self, work: Callable[[], Any], patience: float) -> None:
        self._work, self._patience = work, patience
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as exc:
            self._error = exc

    def result(self) -> Any:
        """What the call returned; raises what it raised."""
        self._thread.join(self._patience)
        if self._thread.is_alive():
            pytest.fail(f"still waiting after {self._patience} s")
        if self._error is not None:
            raise self._error
        return self._value
