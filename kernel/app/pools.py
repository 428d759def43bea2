"""`ConnectionPool` and `ProducerPool`: connections that are kept for who needs one for a while."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from kernel import errors
from kernel.app.connection import PATIENCE, Connection
from kernel.app.producer import Producer

if TYPE_CHECKING:
    from kernel.app import Kernel


class ConnectionPool:
    """At most `limit` connections to the app's broker (setting `broker_pool_limit`); None or 0 keeps none, and each
    is closed when it is released. Usable from any thread; every process has its own.
    """

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self.limit: int | None = app.conf.broker_pool_limit or None
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._closed = False

    def acquire(self, block: bool = False, timeout: float | None = None) -> Connection:
        """A connection, to be released (its ``with`` block does that).

        When all are in use: with `block`, waits `timeout` seconds (None: `broker_pool_acquire_timeout`, or 60), else
        not at all. Raises `ConnectionLimitExceeded`, and `AppClosed`.
        """
        with self._changed:
            if not self._free() and not (block and self._changed.wait_for(self._free, self._patience(timeout))):
                waited = f" for {self._patience(timeout):g} s" if block else ""
                raise errors.ConnectionLimitExceeded(
                    f"all {self.limit} connections of the pool are in use{waited}: release them (a with block does), "
                    "use acquire(block=True), or raise broker_pool_limit"
                )
            if self._closed:
                raise errors.AppClosed("the app of this pool is closed")
            found = self._idle.pop() if self._idle else None
            if found is None:
                found = Connection(self._app, self._app.broker_config(), give_back=self.release)
            self._used.add(found)
        return found

    def release(self, connection: Connection) -> None:
        """Take back a connection of this pool. One that is back already is left alone."""
        with self._changed:
            if connection not in self._used:
                return
            self._used.discard(connection)
            keep = bool(self.limit) and not self._closed and len(self._idle) + len(self._used) < (self.limit or 0)
            if keep:
                self._idle.append(connection)
            self._changed.notify()
        if not keep:
            connection.close()

    def resize(self, limit: int | None, force: bool = False, **_: Any) -> None:
        """Another `limit`; what is idle above it is closed. Raises RuntimeError when fewer are allowed than are in
        use, unless `force` is given: those are then closed when they are released."""
        with self._changed:
            limit = limit or None
            if limit is not None and limit < len(self._used) and not force:
                raise RuntimeError(f"{len(self._used)} connections of the pool are in use; the limit cannot be {limit}")
            self.limit = limit
            spare: list[Connection] = []
            while self._idle and len(self._idle) + len(self._used) > (limit or 0):
                spare.append(self._idle.pop(0))
            self._changed.notify_all()
        for connection in spare:
            connection.close()

    def force_close_all(self, close_pool: bool = False) -> None:
        """Close all connections, also those in use, which open again when they are used again."""
        with self._changed:
            self._closed = self._closed or close_pool
            connections = [*self._idle, *self._used]
            self._idle.clear()
            self._changed.notify_all()
        for connection in connections:
            connection.close()

    def close(self) -> None:
        """Close it with all its connections; called by the app."""
        self.force_close_all(close_pool=True)

    def _free(self) -> bool:
        return self._closed or bool(self._idle) or self.limit is None or len(self._used) < self.limit

    def _patience(self, timeout: float | None) -> float:
        found = self._app.conf.broker_pool_acquire_timeout if timeout is None else timeout
        return PATIENCE if found is None else float(found)

    def __repr__(self) -> str:
        return f"<ConnectionPool {len(self._used)} in use, {len(self._idle)} idle, limit {self.limit}>"


class ProducerPool:
    """Producers, each over a connection of `connections`, whose limit is theirs."""

    def __init__(self, connections: ConnectionPool) -> None:
        self.connections = connections

    @property
    def limit(self) -> int | None:
        return self.connections.limit

    def acquire(self, block: bool = False, timeout: float | None = None) -> Producer:
        """A producer, to be released (its ``with`` block does that). Waits and raises as `ConnectionPool.acquire`."""
        return Producer(self.connections.acquire(block, timeout), pooled=True)

    def release(self, producer: Producer) -> None:
        producer.release()

    def force_close_all(self, close_pool: bool = False) -> None:
        self.connections.force_close_all(close_pool)

    def __repr__(self) -> str:
        return f"<ProducerPool over {self.connections!r}>"
