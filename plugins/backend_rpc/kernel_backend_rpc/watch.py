"""Waiting for replies to some calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from kernel.interfaces.backend import Record
from kernel_backend_rpc.shelf import Shelf


class RpcWatch:
    """Made by `RpcBackend.watch`."""

    def __init__(self, shelf: Shelf, on_close: Callable[[RpcWatch], None]) -> None:
        self._shelf = shelf
        self._on_close = on_close
        self._changed = threading.Condition()
        self._news: deque[Record] = deque()
        self._ids: set[str] = set()
        self._woken = False
        self._closed = False

    def add(self, ids: Sequence[str]) -> None:
        with self._changed:
            if self._closed:
                return
            new = [task_id for task_id in dict.fromkeys(ids) if task_id not in self._ids]
            self._ids.update(new)
        self._shelf.add(self, new)

    def discard(self, ids: Sequence[str]) -> None:
        with self._changed:
            gone = self._ids.intersection(ids)
            self._ids -= gone
            self._news = deque(record for record in self._news if record.id not in gone)
        self._shelf.discard(self, gone)

    def offer(self, record: Record) -> None:
        with self._changed:
            if record.id in self._ids:
                self._news.append(record)
                self._changed.notify_all()

    def wait(self, timeout: float) -> Sequence[Record]:
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._woken or self._closed, timeout)
            self._woken = False
            records = [*self._news]
            self._news.clear()
        return records

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            gone, self._ids = self._ids, set()
            self._changed.notify_all()
        self._shelf.discard(self, gone)
        self._on_close(self)
