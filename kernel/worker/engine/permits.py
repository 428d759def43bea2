"""Who may settle by himself what he runs, and go on with what follows (`kernel.interfaces.shortcut`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel.extensions import Extensions
from kernel.interfaces.broker import Consumer, Delivery
from kernel.interfaces.shortcut import Lender, Permit
from kernel.worker.claims.ledger import Item, Ledger
from kernel.worker.engine.commands import Revoked
from kernel.worker.executors import Executors

_OUR_OWN: Final = "expiry"
"""The plugin whose admission what has no `expires` needs not."""


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
        self.take_back(item)
        if not self._usable or item.permit or item.early_ack or item.obituary or item.joined or item.delivery.seen:
            return
        lender = self._lender
        item.permit = lender.lend(item.delivery) if lender is not None else None
        if item.permit is not None:
            item.next_seq = self._ledger.reserve(1 + item.permit.following - item.permit.last)

    def take_back(self, item: Item) -> None:
        """It was given to nobody, or whoever had it did nothing with it."""
        if item.permit is not None and not item.unsure and self._lender is not None:
            self._lender.hand_in(item.permit)
            item.permit = None

    def left(self, item: Item) -> None:
        """Its claim is over."""
        permit, lender = item.permit, self._lender
        if permit is not None and lender is not None:
            (lender.call_in if item.unsure else lender.hand_in)(permit)
            item.permit = None

    def carried_out(self, item: Item | None, note: bytes) -> tuple[Delivery, Permit] | None:
        """An end was carried out under the permit of `item`, as far as it is still known; what was claimed with it."""
        lender = self._lender
        if lender is None:
            return None
        found = lender.take_over(item.delivery if item is not None else None, note)
        if item is not None and item.permit is not None:
            if found is None:
                lender.hand_in(item.permit)
            item.permit = None
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
        allowed = idle and self._usable and not self._revoked and not self._judged()
        if allowed is not self._allowed:
            self._allowed = allowed
            self._executors.let_go_on(allowed)

    def _judged(self) -> bool:
        return any(name != _OUR_OWN for name, _ in self._extensions.hot.kernel_task_admit or ())
