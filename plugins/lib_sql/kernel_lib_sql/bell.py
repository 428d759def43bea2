"""Wake-ups between processes: whoever waits listens with a bell, whoever committed something rings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Bell(Protocol):
    """One waiter. `wait` is for one thread at a time; everything else may be called from any.

    What was rung since the last `wait` ends the next one at once, so the order is: listen, look, wait, look.
    A ring may come for no reason; none is lost while the bell is open.
    """

    @property
    def address(self) -> str:
        """A name by which other processes can tell whether this bell's process lives; "" where they cannot."""
        ...

    def wait(self, timeout: float) -> bool:
        """True as soon as it rang, `wake` was called or a watched address died; False after `timeout` seconds."""
        ...

    def wake(self) -> None: ...

    def add(self, topics: Iterable[str]) -> None: ...

    def discard(self, topics: Iterable[str]) -> None: ...

    def watch(self, addresses: Iterable[str]) -> None:
        """From now on `wait` also ends when a process behind one of these addresses dies. Replaces the last list."""
        ...

    def fileno(self) -> int:
        """Readable when `wait` would return at once because it rang."""
        ...

    def close(self) -> None: ...
