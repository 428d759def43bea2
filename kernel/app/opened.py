"""`Opened`: what an app has opened in one process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from kernel import drivers
from kernel.app.aio import Bridge
from kernel.app.embedded import make_room
from kernel.app.pools import ConnectionPool, ProducerPool
from kernel.disabled import DisabledBackend
from kernel.naming import new_id
from kernel.publish import Publisher
from kernel.waiter import Waiter

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend, BackendCapabilities, Listening, Preparing
    from kernel.interfaces.broker import Broker


_log = logging.getLogger("kernel.results")


class Opened:
    """Broker and backend of an app, each opened at first use, and what works with them.

    One for each process: after a fork the child makes its own, and leaves its parent's alone, neither used nor
    closed nor collected, since all of that would happen on connections that are the parent's.
    """

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self._lock = threading.RLock()
        self._broker: Broker | None = None
        self._reader: Broker | None = None
        self._backend: Backend | None = None
        self._joins: tuple[str, BackendCapabilities | None] = ("", None)
        self.oid = new_id()
        self.declared_queues: set[str] = set()
        self.expect: Callable[[Sequence[str]], None] | None = None
        """Tells the backend of calls before they leave, where it has to listen for what comes of them."""
        self.publisher = Publisher(app)
        self.bridge = Bridge(self.publisher.deliver)
        self.waiter = Waiter(lambda: self.backend)
        self.connections = ConnectionPool(app)
        self.producers = ProducerPool(self.connections)

    @property
    def broker(self) -> Broker:
        """The broker, open. Raises `OperationalError` or `ImproperlyConfigured`."""
        return self._broker or self._open_broker()

    @property
    def shown(self) -> str:
        """The broker as it may be shown to anyone."""
        return self._app.addresses.broker_shown

    def expecting(self) -> Callable[[Sequence[str]], None] | None:
        """`expect`, also where messages go over another connection and the broker is not open here."""
        with self._lock:
            if self._broker is None and self.expect is None:
                self._listen()
            return self.expect

    @property
    def reader(self) -> Broker:
        """The broker for a worker: the same one, unless `broker_read_url` says otherwise."""
        config = self._app.broker_config(read=True)
        if config.url == self._app.broker_config().url:
            return self.broker
        with self._lock:
            if self._reader is None:
                reader: Broker = drivers.load("brokers", config.url, choices=self._app.conf.drivers)(config)
                reader.open()
                self._reader = reader
            return self._reader

    @property
    def backend(self) -> Backend:
        """The result backend, open; one that refuses to be read when none is configured."""
        return self._backend or self._open_backend()

    @property
    def joins(self) -> BackendCapabilities | None:
        """What the result backend can do, if it joins the results of chords. It is not opened for this."""
        url = self._app.backend_url
        if url is None:
            return None
        if self._joins[0] != url:  # each member of a chord asks, and to find a driver takes as long as a short task
            driver = drivers.load("backends", url, choices=self._app.conf.drivers)
            self._joins = url, driver.capabilities if driver.capabilities.chords else None
        return self._joins[1]

    @property
    def preparing(self) -> Preparing | None:
        """The result backend, open, if it is one that prepares records for its broker."""
        url = self._app.backend_url
        if url is None or not hasattr(drivers.load("backends", url, choices=self._app.conf.drivers), "prepare"):
            return None
        return cast("Preparing", self.backend)

    def _open_broker(self) -> Broker:
        with self._lock:
            if self._broker is None:
                app = self._app
                config = app.broker_config()
                driver = drivers.load("brokers", config.url, choices=app.conf.drivers)
                if app.addresses.embedded is not None:
                    make_room(app.addresses.embedded)
                broker: Broker = driver(config)
                broker.open()
                self._listen()
                self._broker = broker
            return self._broker

    def _listen(self) -> None:
        # Only a URL without a place may mean a backend that answers callers: no other driver is imported to publish.
        url = self._app.backend_url or ""
        if url.partition("://")[2].strip("/") or not url:
            return
        if drivers.load("backends", url, choices=self._app.conf.drivers).capabilities.to_caller:
            self.expect = lambda ids: cast("Listening", self.backend).expect(ids)

    def _open_backend(self) -> Backend:
        with self._lock:
            if self._backend is None:
                app = self._app
                config = app.addresses.backend_config()
                if config is None:
                    self._backend = DisabledBackend()
                    return self._backend
                driver = drivers.load("backends", config.url, choices=app.conf.drivers)
                if config.failure_expires is not None and not driver.capabilities.failures_expire:
                    name = config.url.partition(":")[0]
                    _log.warning("the result backend %s keeps failures as long as other results", name)
                if app.addresses.embedded is not None:
                    make_room(app.addresses.embedded)
                backend: Backend = driver(replace(config, codecs=app.codecs, reply_to=self.oid))
                backend.open()
                self._backend = backend
            return self._backend

    def close(self) -> list[Exception]:
        """Close everything, in the reverse order of its use; what went wrong on the way."""
        failures: list[Exception] = []
        # Coroutines that publish are let finish before the pauses between attempts are cut short.
        for step in (
            self.bridge.close,
            self.publisher.stop,
            self.waiter.close,
            self.connections.close,
            self._close_drivers,
        ):
            try:
                step()
            except Exception as exc:
                failures.append(exc)
        return failures

    def _close_drivers(self) -> None:
        with self._lock:
            opened = [self._backend, self._reader, self._broker]
            self._broker = self._reader = self._backend = self.expect = None
        failure: Exception | None = None
        for driver in opened:
            try:
                if driver is not None:
                    driver.close()
            except Exception as exc:
                failure = exc
        if failure is not None:
            raise failure
