"""What becomes of tasks whose process died."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kernel import states
from kernel.interfaces.broker import Verdict
from kernel.worker.assignment import Obituary
from kernel.worker.claims.item import Item
from kernel.worker.claims.ledger import Ledger
from kernel.worker.engine.departures import Departures
from kernel.worker.engine.dispatch import Dispatcher
from kernel.worker.engine.fate import Fate
from kernel.worker.engine.shutdown import Shutdown, Stage
from kernel.worker.executors import Death
from kernel.worker.manifest import TaskFacts

_TRIES: Final = 3
"""How many processes may die over one end that is decided."""
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 5.0


class Postmortem:
    """Owned by the engine's loop."""

    def __init__(
        self,
        ledger: Ledger,
        dispatcher: Dispatcher,
        departures: Departures,
        shutdown: Shutdown,
        *,
        tasks: Mapping[str, TaskFacts],
        limit: int | None,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._departures = departures
        self._shutdown = shutdown
        self._tasks = tasks
        self._limit = limit

    def hold(self, death: Death) -> None:
        """Nothing that the dead child held may wait for the lease, which this engine goes on renewing."""
        accounts = self._ledger.account(death.held, death.living, recalled=death.recalled)
        for item in accounts.unstarted:
            self._dispatcher.put_back(item)
        for item in accounts.running:
            item.attempts += 1
            item.unsure = item.lent is not None
            cold = self._shutdown.stage is Stage.COLD
            facts = self._tasks.get(item.name)
            self._departures.meet(item, judge(item, death, facts, limit=self._limit, cold=cold, tries=_TRIES))


def judge(item: Item, death: Death, facts: TaskFacts | None, *, limit: int | None, cold: bool, tries: int) -> Fate:
    """The fate of `item`, whose user code had started in the dead child.

    Only the task that a child was killed for ends by its time limit; its neighbours go back uncharged. A death
    that nobody ordered is charged: the start counts, and at `limit` the message is kept as a dead letter.
    """
    if item.obituary is not None:  # it died of its own end (on_failure, errbacks): not for ever
        if item.attempts < tries:
            return Fate(obituary=item.obituary)
        reason = f"its end could not be carried out, {tries} processes died over it: {item.obituary.text}"
        return Fate(verdict=Verdict.DEAD, reason=reason)
    if death.killed == item.seq and item.revoked:
        return Fate(obituary=Obituary(states.REVOKED, "TaskRevokedError", "terminated"))
    if death.killed == item.seq:
        text = f"TimeLimitExceeded({item.hard},)"
        return Fate(obituary=Obituary(states.FAILURE, "TimeLimitExceeded", text))
    if item.early_ack:
        return Fate(obituary=Obituary(states.FAILURE, "WorkerLostError", _lost(death)))
    if death.killed is not None or cold:
        return Fate()
    if facts is not None and facts.reject_on_worker_lost is False:
        return Fate(obituary=Obituary(states.FAILURE, "WorkerLostError", _lost(death)))
    starts = item.delivery.starts + 1
    if limit is not None and starts >= limit:
        text = f"started {starts} times and never ended (task_delivery_limit is {limit}): {_lost(death)}"
        return Fate(obituary=Obituary(states.FAILURE, "WorkerLostError", text, Verdict.DEAD))
    delay = 0.0 if starts == 1 else min(_FIRST_DELAY * 2**starts, _LONGEST_DELAY)
    return Fate(charged=True, delay=delay)


def _lost(death: Death) -> str:
    return f"the process {death.pid} that ran it died"
