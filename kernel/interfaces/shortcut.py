"""A short way for ends: the process that ran a task settles its message by itself, and goes on with what follows.

The worker's consumer owns all claims. Whoever runs a message that was lent to him (`Lender.lend`) may end the claim
over a connection of his own (`Shortcut.finish`). If what follows is one message that would come to lie where this one
lay, and nothing else waits, he need not end it: he stores the result (`Shortcut.advance`), and runs that message next,
under the same claim. So a link of a chain costs one round trip, and no message.

Nothing depends on his living. Who gets the first message of such a row again finds its record, and publishes what
follows, as after any end that was not settled; that finds its own record, and so on up to the one that has none. So
that he need not go far, the claim is made that of what runs by then now and again (`moves`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from kernel.interfaces.broker import Delivery, Settled, Settlement
from kernel.message import Publication


class Advanced(enum.Enum):
    DONE = "done"
    """The records are stored, and the claim stands for what follows."""
    STALE = "stale"
    """The claim is not there any more: nothing was done."""
    WAITED_FOR = "waited for"
    """Something else waits, or what follows belongs elsewhere or must not run now: nothing was done."""


class Shortcut(Protocol):
    """For one thread at a time. `settlement.delivery` needs message, queue, token and, as `key`, what was lent. Raises
    `OperationalError` when the outcome is unknown: then the consumer is to settle, which does no harm if it is done."""

    def finish(self, settlement: Settlement) -> Settled:
        """Settle a plain ACK with its records and publications, as `Consumer.settle`."""
        ...

    def advance(
        self,
        settlement: Settlement,
        following: Publication,
        *,
        moves: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> Advanced:
        """Store the records of an end, of which there is one at least, and leave the claim as it is, for `following`,
        which is all that is published with this end. With `moves`, whoever gets its message again gets `following`.
        Whoever goes on is to look whether the lease holds.

        `meanwhile`, which never raises, is called at most once: while the server is at work, if it has to be asked."""
        ...


@runtime_checkable
class Shortcuts(Protocol):
    """A broker with the capability `shortcuts`."""

    def shortcut(self, queues: Sequence[str]) -> Shortcut:
        """For processes of a worker whose consumer claims from these queues."""
        ...


@runtime_checkable
class Lender(Protocol):
    """The consumer of such a broker. These methods do no I/O, and any thread may call them."""

    def lend(self, delivery: Delivery) -> str | None:
        """The `key` of a delivery for another process, which may settle it; None while nothing is lent."""
        ...

    def finished(self, delivery: Delivery) -> None:
        """Somebody has settled it by `Shortcut.finish`."""
        ...
