"""What was claimed comes in: it waits for its turn, or what becomes of it is known already. What has to be on the
broker before it may run is put there when its turn has come."""

from __future__ import annotations

from collections.abc import Sequence

from kernel.interfaces.broker import Delivery, Settled
from kernel.worker.claims.item import Item
from kernel.worker.claims.ledger import Ledger
from kernel.worker.claims.pump import Pump
from kernel.worker.engine.admission import Admission
from kernel.worker.engine.departures import Departures
from kernel.worker.engine.dispatch import Dispatcher


class Arrivals:
    """Owned by the engine's loop."""

    def __init__(
        self, ledger: Ledger, admission: Admission, dispatcher: Dispatcher, departures: Departures, *, pump: Pump
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._dispatcher = dispatcher
        self._departures = departures
        self._pump = pump

    def take_in(self, deliveries: Sequence[Delivery], *, ends: bool) -> None:
        """Messages that were claimed together. All go back if the worker `ends`."""
        items = self._ledger.enter_all(deliveries)
        if ends:
            for item in items:
                self._departures.give_back(item)
            return
        fates = self._admission.decide_all(items)
        for item, fate in zip(items, fates, strict=True):
            has_copy = self._ledger.name(item)
            if fate is not None:
                self._departures.meet(item, fate)
            else:
                self._dispatcher.admit(item, has_copy=has_copy)

    def went_on(self, item: Item) -> None:
        """It runs already, in the place of what it follows: whatever is found now, nothing waited, and nobody had a
        say."""
        self._admission.decide(item)
        self._ledger.name(item)
        self._dispatcher.went_on(item)

    def prepare(self, item: Item) -> None:
        """Put on the broker what must be there before it may start."""
        if item.early_ack:
            self._departures.acknowledge(item)
        else:
            self._pump.begin(item)

    def recorded(self, item: Item, outcome: Settled) -> None:
        """Its start is on the broker, or its claim was not ours any more."""
        if outcome is Settled.STALE:
            self._dispatcher.end_preparing()
            self._departures.forget(item)
        else:
            self.go_on(item)

    def go_on(self, item: Item) -> None:
        """What had to be on the broker is there."""
        self._dispatcher.prepared(item)
        fate = self._admission.revoked(item)  # meanwhile, perhaps
        if fate is not None and self._dispatcher.ready.remove(item):
            self._departures.meet(item, fate)
