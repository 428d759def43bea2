"""The sending side of a broker: all that is needed to publish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from kernel.interfaces.broker import PublishOutcome, QueueSpec
from kernel.message import Publication


@runtime_checkable
class Sender(Protocol):
    """What messages can be sent with: a `Broker`, or what a plugin makes of a connection object of another library
    (hook `kernel_find_sender`)."""

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        """Make queues exist; one that exists already is left as it is. Raises `OperationalError`."""
        ...

    def publish(self, batch: Sequence[Publication], timeout: float | None = None) -> Sequence[PublishOutcome]:
        """Send messages; one outcome for each, in order. Raises `OperationalError` when nothing at all was sent."""
        ...
