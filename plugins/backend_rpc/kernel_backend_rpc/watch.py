"""Waiting for replies to some calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kernel.interfaces.backend import Record
from kernel.interfaces.mailbox import Mailbox
from kernel_backend_rpc.shelf import Shelf


class RpcWatch(Mailbox):
    """Made by `RpcBackend.watch`."""

    def __init__(self, shelf: Shelf, on_close: Callable[[RpcWatch], None]) -> None:
        super().__init__()
        self._shelf = shelf
        self._on_close = on_close
        self._ids: set[str] = set()

    def add(self, ids: Sequence[str]) -> None:
        with self.changed:
            if self.closed:
                return
            new = [task_id for task_id in dict.fromkeys(ids) if task_id not in self._ids]
            self._ids.update(new)
        self._shelf.add(self, new)

    def discard(self, ids: Sequence[str]) -> None:
        with self.changed:
            gone = self._ids.intersection(ids)
            self._ids -= gone
            self.drop(gone)
        self._shelf.discard(self, gone)

    def offer(self, record: Record) -> None:
        with self.changed:
            if record.id in self._ids:
                self.put(record)

    def close(self) -> None:
        with self.changed:
            if not self.shut():
                return
            gone, self._ids = self._ids, set()
        self._shelf.discard(self, gone)
        self._on_close(self)
