"""A short way for ends: the process that ran a task settles its message by itself, and goes on with what follows.

The worker's consumer owns all claims. With a message it may lend a `Permit`: whoever runs that message may end the
claim over a connection of his own (`Shortcut.finish`), and if nothing else waits, claim in the same step the one
message that this end publishes, for the same consumer. He tells the engine afterwards, and runs that one next. So a
chain costs one round trip a link.

Nothing depends on his living: the permit is worth as much as the claim that it came with. When he dies before he has
told, that claim is settled first, as after any death, which makes what is still on its way worthless; then `call_in`
gives back what may have been claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kernel.interfaces.broker import Delivery, Settled, Settlement


@dataclass(frozen=True, slots=True)
class Permit:
    """What a consumer lends with a claim: where it lies and its number, the number of the claim that may be made when
    it ends, and the last one that may follow that. The driver's own; others pass it on as it is."""

    place: str
    number: int
    following: int
    last: int


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of an end. `following` is the message that was claimed with it, with its own permit in `permit`, and
    `note` what tells the consumer of it (`Lender.take_over`)."""

    settled: Settled
    following: Delivery | None = None
    permit: Permit | None = None
    note: bytes = b""


class Shortcut(Protocol):
    """For one thread at a time."""

    def finish(self, settlement: Settlement, permit: Permit, *, claims: bool) -> Finished:
        """Settle a plain ACK with its records and publications, as `Consumer.settle`; with `claims`, what is published
        is claimed if it is one message, due, for a queue of the consumer's that is not paused, and if nothing else
        waits for this consumer. `settlement.delivery` needs message, queue and token.

        Raises `OperationalError` when the outcome is unknown: then the consumer is to settle, and `Lender.call_in`
        comes after.
        """
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

    def lend(self, delivery: Delivery) -> Permit | None:
        """For a claim that is about to be run. None while it lends nothing."""
        ...

    def take_over(self, delivery: Delivery | None, note: bytes) -> tuple[Delivery, Permit] | None:
        """`delivery` (None: it is not known any more) was ended under its permit. With a `note`, the message that was
        claimed with that. Raises ValueError for a note that is none."""
        ...

    def hand_in(self, permit: Permit) -> None:
        """Nothing was done under it, and nothing will be."""
        ...

    def call_in(self, permit: Permit) -> None:
        """Nobody knows what was done under it. Called when the claim that it came with is settled: what may have been
        claimed goes back, uncharged, before the next `fetch` claims anything."""
        ...
