"""Waiting for replies to some calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kernel.interfaces.backend import Record
from kernel.interfaces.mailbox import Mailbox
from kernel_backend_rpc.inbox import Inbox
from kernel_backend_rpc.loan import Read
from kernel_backend_rpc.shelf import Shelf


class RpcWatch(Mailbox):
    """Made by `RpcBackend.watch`."""

    def __init__(self, shelf: Shelf, inbox: Inbox, on_close: Callable[[RpcWatch], None]) -> None:
        super().__init__()
        self._shelf = shelf
        self._inbox = inbox
        self._on_close = on_close
        self._ids: set[str] = set()
        self._reading = False

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

    def wait(self, timeout: float) -> Sequence[Record]:
        """As it is promised; meanwhile this thread reads the replies itself where it alone waits for any."""
        loan = self._inbox.loan
        end = time.monotonic() + timeout
        try:
            read = loan.enter()
            if read is not None:
                self._read(read, end)
            return super().wait(max(0.0, end - time.monotonic()))
        finally:
            loan.leave()

    def _read(self, read: Read, end: float) -> None:
        """Read until there is something to be told, or others read."""
        loan, fault = self._inbox.loan, None
        self._reading = True
        try:
            while not (self._news or self._woken or self.closed) and loan.stands(read):
                left = end - time.monotonic()
                if left <= 0:
                    break
                read(left)
        except Exception as exc:
            # The inbox knows what to do about it.
            fault = exc
        except BaseException:
            # An interrupt: what was read and not seen to comes again over another connection.
            self._inbox.sever("a caller was interrupted while it read replies")
            raise
        finally:
            self._reading = False
            loan.give_back(fault)

    def wake(self) -> None:
        super().wake()
        self._nudge()

    def _nudge(self) -> None:
        if self._reading:
            self._inbox.nudge()

    def offer(self, record: Record) -> None:
        with self.changed:
            if record.id in self._ids:
                self.put(record)

    def close(self) -> None:
        with self.changed:
            if not self.shut():
                return
            gone, self._ids = self._ids, set()
        self._nudge()
        self._shelf.discard(self, gone)
        self._on_close(self)
