"""Calls that are sent when a transaction of the caller's commits: `delay_on_commit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernel import drivers, errors
from kernel.interfaces.broker import STORED, PublishOutcome
from kernel.interfaces.unit import Enlists
from kernel.routing import spread

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.unit import Unit
    from kernel.message import Publication


class HeldCall:
    """See `kernel.interfaces.unit.Held`. `publish` sends it, and `sent` is told when it is on the broker.

    `publication` is None for what runs in eager mode, and where the caller said over what it is to be sent.
    """

    def __init__(
        self,
        app: Kernel,
        publication: Publication | None,
        *,
        publish: Callable[[], object],
        sent: Callable[[], object],
    ) -> None:
        self._app = app
        self._publication = publication
        self._publish = publish
        self._sent = sent
        self._wake: Callable[[], None] | None = None

    @property
    def enlists(self) -> bool:
        if self._publication is None or self._wake is not None:
            return False
        # Asked of the class: to find that out no broker is opened in the middle of the caller's transaction.
        driver = drivers.load("brokers", self._app.broker_config().url, choices=self._app.conf.drivers)
        return hasattr(driver, "publish_within")

    def open(self) -> None:
        if self.enlists:
            _ = self._app.broker

    def enlist(self, connection: Any) -> bool:
        broker = self._app.broker
        if self._publication is None or not isinstance(broker, Enlists):
            return False
        topology = self._app.publisher.routing.topology
        if not self._publication.exchange:
            self._wake = broker.publish_within(connection, [self._publication])
            return self._wake is not None
        exchange = topology.exchange(self._publication.exchange)
        if exchange is None or exchange.type == "fanout":
            return False  # whoever listens to a fanout hears of it at once, and hence after the commit

        def store(copies: Sequence[Publication]) -> Sequence[PublishOutcome]:
            self._wake = broker.publish_within(connection, copies)
            return [STORED] * len(copies)

        (outcome,) = spread.publish(broker, [self._publication], topology, store)
        if outcome is not STORED:
            raise errors.PublishRefused(f"task {self._publication.message.task} cannot be sent: {outcome.reason}")
        return self._wake is not None

    def send(self) -> None:
        if self._wake is None:
            self._publish()
        else:
            self._wake()
            # It came to the broker past `Delivering`, which tells plugins of the others.
            if (observers := self._app.extensions.hot.kernel_publish_end) is not None:
                self._app.extensions.observe(observers, self._publication, None)
        self._sent()


def find_unit(app: Kernel, given: object) -> Unit | None:
    """The transaction that `given` is of; with None, the one of the app's setting. None: `given` is no such thing.

    Raises `ImproperlyConfigured` where nobody knows of the app's."""
    _ = app.opened  # the settings are final, and plugins know of the app
    unit: Unit | None = app.extensions.decide("kernel_find_transaction", app=app, given=given)
    if unit is None and given is None:
        raise errors.ImproperlyConfigured(
            "nobody here knows of a transaction whose commit this call should wait for: "
            + (
                "install kernel-contrib-sqlalchemy, which knows the sessions of SQLAlchemy"
                if app.conf.task_on_commit_session is not None
                else "give a session (apply_async_on_commit(session=...), delay_on_commit(session, ...)) or set "
                "task_on_commit_session, with kernel-contrib-sqlalchemy installed"
            )
        )
    return unit


def unit_for(app: Kernel, session: object) -> Unit:
    """The transaction of `session`, or the one of the app's setting. Raises TypeError and `ImproperlyConfigured`."""
    unit = find_unit(app, session)
    if unit is None:
        raise TypeError(
            f"session is {session!r:.80}, of which no plugin knows a transaction; sessions of SQLAlchemy need "
            "kernel-contrib-sqlalchemy"
        )
    return unit


def split_session(app: Kernel, args: Sequence[Any]) -> tuple[Unit, Sequence[Any]]:
    """The transaction of a `delay_on_commit(...)`, and the arguments of the task without the session in front."""
    if args:
        unit = find_unit(app, args[0]) if args[0] is not None else None
        if unit is not None:
            return unit, args[1:]
    return unit_for(app, None), args


def is_own_way(options: Mapping[str, Any]) -> bool:
    """Whether the caller said over what a call is to be sent, or what is to be there before it is."""
    return any(options.get(name) is not None for name in ("producer", "publisher", "connection", "declare"))
