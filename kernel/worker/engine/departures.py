"""How messages leave: what is said of their ends becomes settlements, and what the broker answers is acted on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kernel.extensions import Extensions
from kernel.interfaces.backend import Record
from kernel.interfaces.broker import Delivery, Settled, Settlement, Verdict
from kernel.worker.assignment import Ending, Obituary, Step
from kernel.worker.claims.item import Item, Place
from kernel.worker.claims.ledger import Ledger
from kernel.worker.claims.pump import Pump
from kernel.worker.engine.dispatch import Dispatcher
from kernel.worker.engine.fate import Fate
from kernel.worker.engine.pace import Pace
from kernel.worker.engine.permits import Permits, advanced
from kernel.worker.engine.shutdown import Shutdown, Stage

_log = logging.getLogger("kernel.worker")


class Departures:
    """Owned by the engine's loop. What is to be settled goes to the pump with the next `flush`. With `stores` an end is
    a single transaction: its records, parts and publications are settled with it."""

    def __init__(
        self,
        ledger: Ledger,
        dispatcher: Dispatcher,
        pump: Pump,
        *,
        extensions: Extensions,
        pace: Pace,
        permits: Permits,
        shutdown: Shutdown,
        stores: bool,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._pump = pump
        self._extensions = extensions
        self._pace = pace
        self._permits = permits
        self._shutdown = shutdown
        self._stores = stores
        self._pairs: dict[str, list[tuple[Item, Settlement]]] = {}
        self.processed = 0
        """How many tasks ended."""

    # ends ---------------------------------------------------------------------------------------------------

    def done(self, task: str, ends: Sequence[tuple[int, float]], records: Sequence[Record] = ()) -> None:
        """Tasks of one name ended with nothing but an ACK: number and runtime of each, and its record where they have
        any."""
        stored = {seq: record for (seq, _), record in zip(ends, records, strict=True)} if records else None
        left: list[Item] = []
        runtimes: list[float] = []
        for item, runtime in self._ledger.end(ends):
            if not item.joined:
                runtimes.append(runtime)
            if item.acked:
                left.append(item)
            else:
                settlement = Settlement(item.delivery, Verdict.ACK)
                if stored is not None and self._stores:
                    settlement.records = (stored[item.seq],)
                self._put(item, settlement)
        if left:
            self._leave(*left)
        self.processed += len(runtimes)
        if task:
            self._pace.note(task, *runtimes)

    def ended(self, ending: Ending) -> None:
        """A task ended, in any way."""
        for item, runtime in self._ledger.end([(ending.seq, ending.runtime)]):
            if not item.joined:
                self.processed += 1
                if ending.task:
                    self._pace.note(ending.task, runtime)
            if item.acked:
                self._leave(item)
            else:
                item.unsure = ending.unsure
                self._put(item, self._settlement(item, ending))

    def _settlement(self, item: Item, ending: Ending) -> Settlement:
        made = Settlement(
            item.delivery, ending.verdict, delay=ending.delay, charged=ending.charged, reason=ending.reason
        )
        # Where an end is no single transaction, all this was carried out before the ending came.
        if self._stores:
            made.records, made.publications = ending.records, ending.publications
            made.parts, made.completes = ending.parts, ending.completes
            self._dispatcher.joins.begin(len(ending.parts))
        return made

    def carried_out(self, steps: Sequence[Step]) -> Item | None:
        """The ends of a task, and of those that followed it one by one under its claim, were carried out where they
        ran; what runs there next."""
        item = self._ledger.get(steps[0].ending.seq)
        if item is None or item.place is not Place.SENT:
            return None  # of a number that was taken back
        hot, last = self._extensions.hot, steps[-1].ending
        delivery: Delivery | None = item.delivery
        for ending, following in steps:
            self.processed += 1
            self._pace.note(ending.task, ending.runtime)
            if delivery is not None:
                self._extensions.observe(hot.kernel_message_settled, delivery, ending.verdict)
            delivery = advanced(item.delivery, following) if following is not None else None
            if delivery is not None and ending is not last:
                self._extensions.observe(hot.kernel_message_received, delivery)
        running = self._permits.carried_out(item, len(steps), steps[-1].following)
        self._dispatcher.left(item)
        if running is None:
            self._pump.has_room()
        return running

    # verdicts -----------------------------------------------------------------------------------------------

    def meet(self, item: Item, fate: Fate) -> None:
        """What becomes of it is known, and it does not run."""
        if fate.obituary is not None:
            self._bury(item, fate.obituary)
        else:
            self.settle(item, fate.verdict, charged=fate.charged, delay=fate.delay, reason=fate.reason)

    def give_back(self, item: Item) -> None:
        """Others may run it, at once."""
        self.settle(item, Verdict.REQUEUE)

    def settle(
        self, item: Item, verdict: Verdict, *, charged: bool = False, delay: float = 0.0, reason: str = ""
    ) -> None:
        """It ends here, with nothing but a verdict."""
        if item.acked:
            _log.warning("%s[%s] was acknowledged early and cannot go back: it is gone", item.name, item.id)
            self._leave(item)
            return
        self._ledger.move(item, Place.SETTLING)
        self._put(item, Settlement(item.delivery, verdict, charged=charged, delay=delay, reason=reason))

    def unsendable(self, item: Item, error: Exception) -> None:
        """No executor can be given it, as it is."""
        _log.error("task %s[%s] is kept as a dead letter: it cannot be sent to a child", item.name, item.id)
        self.settle(item, Verdict.DEAD, reason=f"it cannot be handed out: {type(error).__name__}: {error}"[:2000])

    def acknowledge(self, item: Item) -> None:
        """It is the broker's no more, and is to run when the broker has said so."""
        self._put(item, Settlement(item.delivery, Verdict.ACK, early=True))

    def _bury(self, item: Item, obituary: Obituary) -> None:
        """End it without running it: a child carries out the end."""
        item.obituary = obituary
        self._ledger.move(item, Place.WAITING)
        self._dispatcher.ready.add_front(item)

    def _put(self, item: Item, settlement: Settlement) -> None:
        queue = item.delivery.queue
        pairs = self._pairs.get(queue)
        if pairs is None:
            pairs = self._pairs[queue] = []
        pairs.append((item, settlement))

    def flush(self) -> None:
        """Hand the pump what is to be settled."""
        if self._pairs:
            pairs, self._pairs = self._pairs, {}
            self._pump.settle(pairs)

    # what the broker says -----------------------------------------------------------------------------------

    def settled(self, pairs: Sequence[tuple[Item, Settlement]], outcomes: Sequence[Settled]) -> list[Item]:
        """The broker has answered. Those that it let go of before they ran: they are to run now."""
        left: list[Item] = []
        to_run: list[Item] = []
        calls = []
        for (item, settlement), outcome in zip(pairs, outcomes, strict=True):
            if settlement.parts:
                self._dispatcher.joins.end(len(settlement.parts))
            if outcome is not Settled.DONE:
                self._not_done(item, settlement, outcome)
                continue
            calls.append((item.delivery, settlement.verdict))
            if item.place is Place.PREPARING:
                item.acked = True
                to_run.append(item)
            else:
                left.append(item)
        self._extensions.observe_all(self._extensions.hot.kernel_message_settled, calls)
        self._dispatcher.left(*left)
        return to_run

    def _not_done(self, item: Item, settlement: Settlement, outcome: Settled) -> None:
        if outcome is not Settled.STALE:
            self._follow(item, again=outcome is Settled.STANDING)
            return
        if item.place is Place.PREPARING:
            self._dispatcher.end_preparing()
        # An end that was tried before may have been done then.
        self.forget(item, worked=settlement.verdict is not Verdict.REQUEUE and not item.unsure)

    def _follow(self, item: Item, *, again: bool) -> None:
        """It has ended, and what follows takes a process where tasks are: it is worked out there, and nothing is run.
        `again`: it may have been done before."""
        item.joined, item.soft, item.hard = True, None, None
        item.delivery.seen = item.delivery.seen or again
        # Whatever is still said of it under its number was before.
        self._ledger.renumber(item)
        self._ledger.move(item, Place.WAITING)
        if self._shutdown.stage is Stage.COLD:
            self.give_back(item)  # to whoever gets it
        else:
            self._dispatcher.ready.add_front(item)

    def forget(self, item: Item, *, worked: bool = True) -> None:
        """Its claim was not ours any more; whether something was `worked` here that is in vain."""
        text = "what it did here was refused" if worked else "others have it"
        _log.log(logging.WARNING if worked else logging.DEBUG, "lease of %s[%s] lost: %s", item.name, item.id, text)
        self._leave(item)

    def _leave(self, *items: Item) -> None:
        """They are nobody's any more, and there was no settlement that would have told the pump of the room."""
        self._dispatcher.left(*items)
        self._pump.has_room()
