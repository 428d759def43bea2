"""`Mailbox`: the part of a `Watch` that is the same wherever somebody brings the records."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from kernel.interfaces.backend import Record


class Mailbox:
    """Records that were brought and not read yet. For backends whose own thread puts them in; a subclass decides,
    with `changed` held, which are wanted, and adds `add` and `discard`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.closed = False
        self._news: deque[Record] = deque()
        self._woken = False

    def put(self, record: Record) -> None:
        """Tell of a record. `changed` is held."""
        self._news.append(record)
        self.changed.notify_all()

    def drop(self, ids: set[str]) -> None:
        """Leave out what was put in of these and not read. `changed` is held."""
        if self._news:
            self._news = deque(record for record in self._news if record.id not in ids)

    def wait(self, timeout: float) -> Sequence[Record]:
        """What was put in since the last `wait`, at once if there is any; nothing after `timeout` seconds, `wake` or
        `shut`."""
        with self.changed:
            self.changed.wait_for(lambda: self._news or self._woken or self.closed, timeout)
            self._woken = False
            records = [*self._news]
            self._news.clear()
        return records

    def wake(self) -> None:
        with self.changed:
            self._woken = True
            self.changed.notify_all()

    def shut(self) -> bool:
        """End every `wait` from now on; False when that was done before. `changed` is held."""
        if self.closed:
            return False
        self.closed = True
        self.changed.notify_all()
        return True
