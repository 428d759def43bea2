"""`Amqp`: what users find under ``app.amqp``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernel.app.queues import Queues
from kernel.routing.address import layered

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.app.connection import Connection
    from kernel.app.pools import ProducerPool
    from kernel.app.producer import Producer
    from kernel.routing.exchange import Exchange
    from kernel.routing.queue import Queue


class Amqp:
    """Producers, queues and routes of an app, under the names that users know, whatever the broker is."""

    def __init__(self, app: Kernel) -> None:
        self.app = app
        self.queues = Queues(app)

    def Producer(self, connection: Connection, *args: Any, **kwargs: Any) -> Producer:  # noqa: N802 - Celery's name
        """A producer over `connection`."""
        from kernel.app.producer import Producer

        return Producer(connection, *args, **kwargs)

    @property
    def producer_pool(self) -> ProducerPool:
        """The same as `app.producer_pool`."""
        return self.app.producer_pool

    @property
    def default_queue(self) -> Queue:
        """The queue of calls that have no route. Raises `QueueNotFound`."""
        return self.queues[self.app.conf.task_default_queue]

    @property
    def default_exchange(self) -> Exchange:
        """The exchange of queues that name none."""
        return self.app.publisher.routing.topology.default_exchange

    @property
    def router(self) -> AskedRouter:
        """Where calls go; also what the option `router` of a call takes, of this app or another."""
        return AskedRouter(self.app)

    @property
    def routes(self) -> Sequence[Any]:
        """The routers of `task_routes`, in the order in which they are asked."""
        return self.app.publisher.routing.routers

    def flush_routes(self) -> None:
        """Read `task_routes` and `task_queues` again, after one of them was changed in place."""
        self.app.publisher.flush()

    def __repr__(self) -> str:
        return f"<Amqp of {self.app!r}>"


class AskedRouter:
    """Answers where a call would go, without making it."""

    def __init__(self, app: Kernel) -> None:
        self._app = app

    def route(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> dict[str, Any]:
        """The options of a call of the task `name` with these options: `task_routes` under what the call says, with its
        `queue` as a `Queue` (the default one, where nobody names any or an exchange).

        Raises what routers raise, `QueueNotFound` and `ImproperlyConfigured`.
        """
        routing = self._app.publisher.routing
        task = task_type if task_type is not None else self._app.tasks.get(name)
        found = layered(routing.find(name, args, kwargs or {}, options, task), options)
        if found.get("queue") is not None or found.get("exchange") is None:
            found["queue"] = routing.topology.find(found.get("queue") or routing.topology.default_name)
        return found

    def lookup_route(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> Mapping[str, Any] | None:
        """What `task_routes` says of a call; None when it says nothing."""
        return self._app.publisher.routing.find(name, args, kwargs or {}, options or {}, task_type) or None
