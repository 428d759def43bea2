"""Transactions of the caller's: what waits for their commit, and who knows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from kernel.message import Publication


class Held(Protocol):
    """A call that waits for a transaction of the caller's."""

    @property
    def enlists(self) -> bool:
        """Whether `enlist` may have something to do."""
        ...

    def open(self) -> None:
        """Open what `enlist` needs, if it `enlists`; to be called before it, on any thread. May take as long as
        connecting to a broker does. Raises `OperationalError`."""
        ...

    def enlist(self, connection: Any) -> bool:
        """Store it inside the transaction that is open on `connection`, a ``sqlalchemy.Connection``, right before that
        is committed. False, and nothing is done, when the broker is not on the same database. Raises `OperationalError`
        and what the connection raises."""
        ...

    def send(self) -> None:
        """Publish it, or say that what was enlisted is there; once, after the commit. Raises what `delay` raises."""
        ...


@runtime_checkable
class Unit(Protocol):
    """A transaction that is open, or will be as soon as its owner uses it; found by the hook
    `kernel_find_transaction`."""

    def hold(self, held: Held) -> None:
        """Keep `held` until the outermost transaction commits, and send it then, after those held before. Forget it
        when that is rolled back, or the savepoint is in which it was held."""
        ...


@runtime_checkable
class Enlists(Protocol):
    """A broker on a database, which can store messages in a transaction of the caller's there. Optional for brokers."""

    def publish_within(self, connection: Any, batch: Sequence[Publication]) -> Callable[[], None] | None:
        """Store messages in the transaction that is open on `connection`, a ``sqlalchemy.Connection``: they are there
        when it commits, and only then. What is returned is to be called after the commit, and wakes who waits for
        them. None, and nothing is stored, when the connection leads to another database.

        Raises `PublishRefused` for a message that the broker does not take, `OperationalError`, and what the
        connection raises.
        """
        ...
