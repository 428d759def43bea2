"""How a worker comes to its end: what goes back, what is waited for, and when nothing is left to wait for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from kernel.worker.claims.item import Item, Place
from kernel.worker.claims.lease import Renewer
from kernel.worker.claims.ledger import Ledger
from kernel.worker.claims.pump import Pump
from kernel.worker.engine.dispatch import Dispatcher
from kernel.worker.engine.shutdown import Shutdown, Stage
from kernel.worker.executors import Executors

_log = logging.getLogger("kernel.worker")

_STORE_SECONDS: Final = 10.0
"""How long an end is tried again whose result cannot be stored."""
_WITH_THE_PUMP: Final = (Place.SETTLING, Place.PREPARING)


class Closing:
    """Advances the end of a worker that was asked to end. Owned by the engine's loop; `give_back` lets others
    have a message, `announce` tells whoever wants to know that a stage begins."""

    def __init__(
        self,
        shutdown: Shutdown,
        ledger: Ledger,
        dispatcher: Dispatcher,
        executors: Executors,
        *,
        pump: Pump,
        renewer: Renewer,
        give_back: Callable[[Item], None],
        announce: Callable[[str], None],
    ) -> None:
        self._shutdown = shutdown
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._executors = executors
        self._pump = pump
        self._renewer = renewer
        self._give_back = give_back
        self._announce = announce
        self._drained = False

    def advance(self) -> None:
        """One turn of the end; call it until `over`."""
        cold = self._shutdown.stage is Stage.COLD
        if self._shutdown.begins:
            _log.info("%s shutdown: %s", self._shutdown.stage.value, self._shutdown.reason)
            self._pump.stop_claiming()
            self._executors.give_up_at(time.monotonic() + _STORE_SECONDS)
            self._announce(self._shutdown.reason)
            if cold:
                self._dispatcher.recall()
                self._executors.terminate()
        if cold:
            self._abandon()
        else:
            self._dispatcher.withdraw(self._give_back)

    def _abandon(self) -> None:
        """Cold: whatever has not ended goes back, uncharged, as soon as nothing can run it any more."""
        for item in self._dispatcher.ready.clear():
            self._give_back(item)
        if self._executors.finished or self._shutdown.past_patience:
            for item in self._ledger:
                if item.place is Place.SENT:
                    self._give_back(item)

    def over(self) -> bool:
        """Whether everything has ended that will end."""
        if self._shutdown.past_patience:
            return True
        if self._shutdown.stage is Stage.RUN or self._shutdown.lingers:
            return False
        if len(self._ledger) and not self._settles_no_more():
            return False
        if not self._drained:
            self._drained = True
            self._executors.drain()
        return self._executors.finished

    def _settles_no_more(self) -> bool:
        """Whether all that is left waits for a broker that does not come back: the lease is over by now, or the
        pump has ended."""
        if not (self._pump.ended or self._renewer.is_lost):
            return False
        return all(item.place in _WITH_THE_PUMP for item in self._ledger)


def all_of(*steps: Callable[[], object]) -> None:
    """One after the other: whatever of it fails, the rest is done."""
    for step in steps:
        try:
            step()
        except Exception:
            _log.exception("the end of the worker met an error and goes on")
