"""`Connection`: a connection to a broker that a program holds itself."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kernel import drivers, errors
from kernel.config import mask_url

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from kernel.app import Kernel
    from kernel.app.producer import Producer
    from kernel.interfaces.broker import Broker, BrokerConfig

PATIENCE: Final = 60.0
"""Seconds after which `ensure_connection` and a pool give up where nobody said how long they may take."""


class Connection:
    """A connection of its own to the broker of `config`, opened at first use: ``app.connection_for_write()``.

    What is published with it (``apply_async(connection=...)``) goes over it alone. The memory broker lives in its
    app, so there every connection leads to that one. Usable from any thread; a forked process opens its own. As a
    context manager it is released at the end.
    """

    def __init__(self, app: Kernel, config: BrokerConfig, *, give_back: Callable[[Connection], None] | None = None):
        self.app = app
        self.config = config
        self.declared_queues: set[str] = set()
        self._give_back = give_back
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._broker: Broker | None = None
        self._shared = False
        self._inherited: list[Broker] = []

    # --- what messages are sent with ------------------------------------------------------------------------

    @property
    def broker(self) -> Broker:
        """The driver, open. Raises `OperationalError` or `ImproperlyConfigured`."""
        if self._broker is not None and self._pid == os.getpid():
            return self._broker
        if self._pid != os.getpid():
            self._forget_parent()
        with self._lock:
            if self._broker is None:
                driver = drivers.load("brokers", self.config.url, choices=self.app.conf.drivers)
                self._shared = not driver.capabilities.crosses_processes
                if self._shared:
                    self._broker = self.app.broker
                else:
                    broker: Broker = driver(self.config)
                    broker.open()
                    self._broker = broker
            return self._broker

    @property
    def shown(self) -> str:
        """Where it leads, as it may be shown to anyone."""
        return mask_url(self.config.url)

    def _forget_parent(self) -> None:
        # What is the parent's is neither used nor closed nor collected here.
        if self._broker is not None:
            self._inherited.append(self._broker)
        self._broker, self._lock, self._pid = None, threading.Lock(), os.getpid()
        self.declared_queues = set()

    # --- as users know it -----------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._broker is not None and self._pid == os.getpid()

    def connect(self) -> Self:
        """Open it now. Raises `OperationalError`."""
        _ = self.broker
        return self

    def ensure_connection(
        self,
        errback: Callable[[Exception, float], object] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2.0,
        interval_step: float = 2.0,
        interval_max: float = 30.0,
        callback: Callable[[], object] | None = None,
        reraise_as_library_errors: bool = True,
        timeout: float | None = None,
    ) -> Self:
        """Open it, and try again while the broker is away: `max_retries` times, or for `timeout` seconds (60 when
        neither is given). `errback` gets each error and the seconds until the next attempt, and `callback` is called
        before each pause. Raises the last `OperationalError`."""
        allowed = PATIENCE if timeout is None and max_retries is None else timeout
        deadline = None if allowed is None else time.monotonic() + allowed
        attempts = 0
        while True:
            attempts += 1
            try:
                return self.connect()
            except errors.OperationalError as exc:
                pause = min(interval_max, interval_start + interval_step * (attempts - 1))
                # As kombu counts: with neither 0 nor None, that many further attempts.
                if max_retries is not None and attempts > max_retries:
                    raise
                if deadline is not None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise
                    pause = min(pause, left)
                if errback is not None:
                    errback(exc, pause)
                if callback is not None:
                    callback()
                time.sleep(pause)

    def as_uri(self, include_password: bool = False) -> str:
        """The URL, without its password unless that is asked for."""
        return self.config.url if include_password else self.shown

    def Producer(self, channel: Connection | None = None, *args: Any, **kwargs: Any) -> Producer:  # noqa: N802 - kombu's name
        """A producer over this connection."""
        from kernel.app.producer import Producer

        return Producer(channel or self, *args, **kwargs)

    def clone(self) -> Connection:
        """Another connection to the same place."""
        return Connection(self.app, self.config)

    def release(self) -> None:
        """Back to the pool it came from; one that came from none is closed. Called again it does nothing."""
        if self._give_back is not None:
            self._give_back(self)
        else:
            self.close()

    def close(self) -> None:
        """Close it. It is opened again when it is used again."""
        if self._pid != os.getpid():
            self._forget_parent()
        with self._lock:
            broker, self._broker = self._broker, None
            self.declared_queues = set()
        if broker is not None and not self._shared:
            # With the server away there is nothing to close.
            with contextlib.suppress(errors.OperationalError):
                broker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Connection {self.shown}>"
