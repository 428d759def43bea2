"""Who may settle by himself what he runs, and go on with what follows (`kernel.interfaces.shortcut`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel.extensions import Extensions
from kernel.interfaces.broker import Consumer, Delivery
from kernel.interfaces.shortcut import Lender
from kernel.message import Message
from kernel.worker.assignment import Lent
from kernel.worker.claims.item import Item
from kernel.worker.claims.ledger import Ledger
from kernel.worker.engine.admission import is_judged
from kernel.worker.engine.commands import Revoked
from kernel.worker.executors import Executors

_LINKS: Final = 1024
"""How many may follow one after the other under one claim, each with a number of its own."""


class Permits:
    """Owned by the engine's loop. `consumer` gives the consumer, once there is one."""

    def __init__(
        self,
        ledger: Ledger,
        executors: Executors,
        extensions: Extensions,
        revoked: Revoked,
        *,
        consumer: Callable[[], Consumer | None],
        usable: bool,
    ) -> None:
        self._ledger = ledger
        self._executors = executors
        self._extensions = extensions
        self._revoked = revoked
        self._consumer = consumer
        self._usable = usable and executors.goes_on
        self._allowed = False
        self._known: Lender | None = None

    def give(self, item: Item) -> None:
        """It is about to be sent alone, and nothing else waits."""
        item.lent = None
        if not self._usable or item.early_ack or item.obituary or item.joined or item.delivery.seen:
            return
        lender = self._lender
        key = lender.lend(item.delivery) if lender is not None else None
        if key is not None:
            first = self._ledger.reserve(_LINKS)
            item.lent = Lent(key, first, first + _LINKS - 1)

    def carried_out(self, item: Item, count: int, following: Message | None) -> Item | None:
        """Its end, and so many in all under its claim, were carried out by whoever ran it; what he runs next, entered
        into the ledger."""
        delivery, lent = item.delivery, item.lent
        if following is None or lent is None:
            if self._lender is not None:
                self._lender.finished(delivery)
            return None
        seq = lent.following + count - 1
        found = self._ledger.enter(advanced(delivery, following), seq=seq)
        found.lent = Lent(lent.key, seq + 1, lent.last)
        return found

    @property
    def _lender(self) -> Lender | None:
        if self._known is None and self._usable:
            consumer = self._consumer()
            self._known = consumer if isinstance(consumer, Lender) else None
        return self._known

    def allow(self, idle: bool) -> None:
        """Whether whoever ends something may go on with what follows: if nothing else waits, and no plugin or command
        has a say in what may run."""
        allowed = idle and self._usable and not self._revoked and not is_judged(self._extensions)
        if allowed is not self._allowed:
            self._allowed = allowed
            self._executors.let_go_on(allowed)


def advanced(delivery: Delivery, following: Message) -> Delivery:
    """What runs under the claim of another message, which has ended."""
    claim = Delivery(following, delivery.queue, delivery.token, key=delivery.key, claimed_at=delivery.claimed_at)
    claim.advanced = True
    return claim
