"""A queue of queues: keys take turns, each is first in, first out."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """One after the other of each key, so that a long line for one does not hold up a short one for another.

    Filled and emptied by different threads.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._lock = threading.Lock()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, key: str, items: Sequence[T]) -> None:
        with self._lock:
            self._lines.setdefault(key, deque()).extend(items)
            self._length += len(items)

    def take(self, limit: int) -> list[T]:
        """Up to `limit` items, one of each key in turn."""
        taken: list[T] = []
        with self._lock:
            while self._lines and len(taken) < limit:
                if len(self._lines) == 1:
                    self._take_rest(taken, limit)
                    break
                key, line = self._lines.popitem(last=False)
                taken.append(line.popleft())
                if line:
                    self._lines[key] = line
            self._length -= len(taken)
        return taken

    def _take_rest(self, taken: list[T], limit: int) -> None:
        ((key, line),) = self._lines.items()
        while line and len(taken) < limit:
            taken.append(line.popleft())
        if not line:
            del self._lines[key]
