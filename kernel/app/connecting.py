"""`Connecting`: the part of an app that hands out connections and producers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from kernel import drivers

if TYPE_CHECKING:
    from kernel.app.addresses import Addresses
    from kernel.app.amqp import Amqp
    from kernel.app.connection import Connection
    from kernel.app.opened import Opened
    from kernel.app.pools import ConnectionPool, ProducerPool
    from kernel.app.producer import Producer
    from kernel.config import Settings
    from kernel.interfaces.broker import BrokerConfig

_SETTINGS: Final[Mapping[str, str]] = {
    "ssl": "broker_use_ssl",
    "heartbeat": "broker_heartbeat",
    "login_method": "broker_login_method",
    "failover_strategy": "broker_failover_strategy",
}
_PLACE: Final = ("hostname", "userid", "password", "virtual_host", "port")


class Connecting:
    """What `Kernel` has of connections. An app publishes without any of it: these are for programs that want to say
    over which connection, and how many there are."""

    if TYPE_CHECKING:
        conf: Settings
        addresses: Addresses
        _amqp: Amqp | None

        @property
        def opened(self) -> Opened: ...

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """A connection of its own to the broker that is published to, or to `url`; opened at first use, and the
        caller's to close (a ``with`` block does).

        Options: `hostname`, `userid`, `password`, `virtual_host`, `port` (parts of the URL), `connect_timeout`
        (seconds), `transport_options`, and `ssl`, `heartbeat`, `login_method`, `failover_strategy` where the broker
        has such a setting. Raises TypeError for others, and `DriverError`.
        """
        return self._connection(self.addresses.broker_config(), url, options)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """The same to the broker that workers consume from (`broker_read_url`)."""
        return self._connection(self.addresses.broker_config(read=True), url, options)

    connection = broker_connection = connection_for_write

    def _connection(self, config: BrokerConfig, url: str | None, options: Mapping[str, Any]) -> Connection:
        from kernel.app.connection import Connection

        _ = self.opened  # the settings are final from here on, and a closed app says so
        return Connection(self, _changed(config, url, options, self.conf))  # type: ignore[arg-type]

    @property
    def pool(self) -> ConnectionPool:
        """The connections that this process keeps, at most `broker_pool_limit`."""
        return self.opened.connections

    @property
    def producer_pool(self) -> ProducerPool:
        """Producers, each over a connection of `pool`."""
        return self.opened.producers

    @property
    def amqp(self) -> Amqp:
        """Producers, queues and routes under the names that users know, whatever the broker is."""
        if self._amqp is None:
            from kernel.app.amqp import Amqp

            self._amqp = Amqp(self)  # type: ignore[arg-type]
        return self._amqp

    @contextlib.contextmanager
    def connection_or_acquire(self, connection: Any = None, pool: bool = True) -> Iterator[Any]:
        """``with app.connection_or_acquire(connection) as conn:``: the given one, which stays open, or one of the
        pool, which goes back there. With `pool` off, a new one that is closed. Raises `ConnectionLimitExceeded`."""
        if connection is not None:
            yield connection
            return
        with self.pool.acquire(block=True) if pool else self.connection_for_write() as found:
            yield found

    default_connection = connection_or_acquire

    @contextlib.contextmanager
    def producer_or_acquire(self, producer: Any = None) -> Iterator[Producer | Any]:
        """The same for producers."""
        if producer is not None:
            yield producer
            return
        with self.producer_pool.acquire(block=True) as found:
            yield found

    default_producer = producer_or_acquire


def _changed(config: BrokerConfig, url: str | None, options: Mapping[str, Any], conf: Settings) -> BrokerConfig:
    """`config` as the arguments of a connection say; those that are None say nothing."""
    given = {name: value for name, value in options.items() if value is not None}
    known = {*_PLACE, *_SETTINGS, "connect_timeout", "transport_options"}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise TypeError(f"a connection takes no {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(known))}")
    place = _with_parts(url or config.url, {name: given[name] for name in _PLACE if name in given})
    settings = {**config.settings}
    if url is not None:
        # Another broker may be another driver, with settings of its own.
        driver = drivers.load("brokers", place, choices=conf.drivers)
        conf.declare(driver.settings, f"the broker {place.partition(':')[0]}")
        settings = dict(conf.driver_values(driver.settings))
    for name in given.keys() & _SETTINGS.keys():
        if _SETTINGS[name] not in settings:
            raise TypeError(f"the broker {place.partition(':')[0]} has no setting {_SETTINGS[name]!r} that {name!r} is")
        settings[_SETTINGS[name]] = given[name]
    return replace(
        config,
        url=place,
        options={**config.options, **given.get("transport_options", {})},
        settings=settings,
        timeout=given.get("connect_timeout", config.timeout),
    )


def _with_parts(url: str, parts: Mapping[str, Any]) -> str:
    if not parts:
        return url
    found = urlsplit(url)
    user = parts.get("userid", found.username and unquote(found.username))
    password = parts.get("password", found.password and unquote(found.password))
    host, port = parts.get("hostname", found.hostname) or "", parts.get("port", found.port)
    login = quote(str(user or ""), safe="") + ("" if password is None else f":{quote(str(password), safe='')}")
    netloc = f"{login}@{host}" if login else host
    path = found.path if "virtual_host" not in parts else f"/{quote(str(parts['virtual_host']).lstrip('/'), safe='')}"
    return urlunsplit(found._replace(netloc=netloc if port is None else f"{netloc}:{port}", path=path))
