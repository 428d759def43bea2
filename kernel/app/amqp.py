"""`Amqp`: what users find under ``app.amqp``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.app.connection import Connection
    from kernel.app.pools import ProducerPool
    from kernel.app.producer import Producer


class Amqp:
    """Producers of an app, under the name that users know, whatever the broker is."""

    def __init__(self, app: Kernel) -> None:
        self.app = app

    def Producer(self, connection: Connection, *args: Any, **kwargs: Any) -> Producer:  # noqa: N802 - Celery's name
        """A producer over `connection`."""
        from kernel.app.producer import Producer

        return Producer(connection, *args, **kwargs)

    @property
    def producer_pool(self) -> ProducerPool:
        """The same as `app.producer_pool`."""
        return self.app.producer_pool

    def __repr__(self) -> str:
        return f"<Amqp of {self.app!r}>"
