"""Over what the messages of a call are sent: the options `producer`, `publisher` and `connection`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kernel.app.connection import Connection
from kernel.app.producer import Producer
from kernel.interfaces.sender import Sender

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.deliver import Way


class Foreign:
    """A way over an object of another library, found by a plugin (hook `kernel_find_sender`); made for one call, so
    that nothing here keeps the object, and the plugin knows what is declared."""

    def __init__(self, sender: Sender, shown: str) -> None:
        self.broker = sender
        self.shown = shown
        self.declared_queues: set[str] = set()


def way_of(app: Kernel, options: Mapping[str, Any]) -> Way | None:
    """What the options of a call say; None when they say nothing. Raises TypeError for what cannot be sent with."""
    for option in ("producer", "publisher", "connection"):
        given = options.get(option)
        if given is None:
            continue
        if isinstance(given, Producer):
            return given.connection
        if isinstance(given, Connection):
            return given
        sender = app.extensions.decide("kernel_find_sender", given=given)
        if sender is None:
            raise TypeError(f"{option} is {given!r:.80}, over which nothing can be published here; {_remedy(given)}")
        return Foreign(sender, f"the broker of {option}={given!r:.60}")
    return None


def _remedy(given: object) -> str:
    ours = "app.producer_pool.acquire(block=True), app.amqp.Producer(connection) or app.connection_for_write()"
    library = type(given).__module__.partition(".")[0]
    if library == "kombu":
        return f"install kernel-contrib-kombu for connections and producers of kombu's, or give one of {ours}"
    return f"give one of {ours}"
