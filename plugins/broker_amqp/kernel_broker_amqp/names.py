"""Names of what we keep on the server beside the queues."""

from __future__ import annotations

import hashlib
from typing import Final

PAUSES: Final = "kernel.pauses"
"""A fanout exchange: which queue was paused or resumed."""
PAUSED: Final = "kernel.paused"
"""A direct exchange, and a queue that keeps nothing. A queue is paused while its name is bound."""
QUEUES: Final = "kernel.queues"
"""A direct exchange in which the name of every queue of ours is bound, and the queue that lists them."""
MARKS: Final = "kernel.queues.marks"
"""Where those bindings lead: a queue that keeps nothing."""
_MOST: Final = 255
_BITS: Final = 28


def dead(queue: str) -> str:
    return _fitting("kernel.dead.", queue, _MOST)


def hold(consumer: str, queue: str) -> str:
    return _fitting(f"kernel.hold.{consumer}.", queue, _MOST)


def tail(queue: str) -> str:
    """The end of a routing key in the ladder of delays: the queue's name, where a pattern can hold it."""
    words = queue.split(".")
    if "*" in words or "#" in words:
        return f"kernel-{_digest(queue)}"
    return _fitting("", queue, _MOST - 2 * _BITS)


def pattern(queue: str) -> str:
    """What binds a queue to the end of the ladder: exactly its own name after the digits, not one that ends with it."""
    return "*." * _BITS + tail(queue)


def _fitting(prefix: str, name: str, most: int) -> str:
    whole = prefix + name
    if len(whole.encode("utf-8", "surrogatepass")) <= most:
        return whole
    return f"{prefix}kernel-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
