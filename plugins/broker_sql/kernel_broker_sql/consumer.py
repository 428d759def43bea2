"""One worker's claims and its lease."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from kernel_lib_sql import Bell, Database, Transaction

from kernel.interfaces.backend import check_part
from kernel.interfaces.broker import ConsumeOptions, Delivery, Settled, Settlement
from kernel_broker_sql import claims, ends, leases, outbox
from kernel_broker_sql.schema import BROKER

_LONGEST_WAIT: Final = 60.0
_LOOK_EVERY: Final = 0.5
"""Seconds between looks at delays and at other consumers' leases while every batch comes back full."""


class SqlConsumer:
    """Made by `SqlBroker.consume`."""

    def __init__(
        self,
        database: Database,
        queues: Sequence[str],
        options: ConsumeOptions,
        closed: Callable[[SqlConsumer], None],
    ) -> None:
        self._database = database
        self._queues = list(dict.fromkeys(queues))
        self._options = options
        self._closed = closed
        self._turn = 0
        self._fetches = 0
        self._nonce = os.urandom(6).hex()
        self._woken = threading.Event()
        self._is_closed = False
        self._looked_at = -math.inf
        self._full = False
        self._results_at = -1
        self._lost = threading.Event()
        self._doubtful: list[str] = []
        self._bell: Bell = database.listen(map(outbox.topic, self._queues))
        with database.write(durable=False) as tx:
            self._id = self._enrol(tx)

    # --- claiming -----------------------------------------------------------------------------------------------

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[Delivery]:
        end = time.monotonic() + timeout
        while not self._is_closed and limit > 0:
            taken, pause = self._attempt(limit, max_bytes)
            left = end - time.monotonic()
            if taken or self._woken.is_set() or left <= 0:
                self._woken.clear()
                return taken
            if pause > 0:
                self._bell.wait(min(left, pause, _LONGEST_WAIT))
        return []

    def _attempt(self, limit: int, max_bytes: int) -> tuple[list[Delivery], float]:
        """What could be claimed now; if nothing, in how many seconds that may change without anyone ringing."""
        self._database.ensure(BROKER)
        upkeep = False
        # A look costs no lock. After a full batch there is certainly more, and the look is left out.
        if not self._full or time.monotonic() - self._looked_at > _LOOK_EVERY:
            with self._database.read() as tx:
                outlook = claims.look(tx, self._queues)
                peers = leases.peers(tx, self._id)
            self._looked_at = time.monotonic()
            gone = any(peer.left <= 0 or self._database.is_dead(peer.bell) for peer in peers)
            # After a lost lease we must be registered again, or nobody would ever take over from us.
            upkeep = gone or outlook.due_in <= 0 or self._lost.is_set() or bool(self._doubtful)
            if not outlook.queues and not upkeep:
                self._full = False
                self._bell.watch(peer.bell for peer in peers)
                return [], min([outlook.due_in, *(peer.left for peer in peers)])
        return self._claim(limit, max_bytes, upkeep=upkeep), 0.0

    def _claim(self, limit: int, max_bytes: int, *, upkeep: bool) -> list[Delivery]:
        self._fetches += 1
        self._turn = (self._turn + 1) % len(self._queues)
        token = f"{self._nonce}-{self._fetches}"
        claim = claims.Claim(token=token, limit=limit, max_bytes=max_bytes)
        # If the answer to the commit is lost, nobody knows of a claim that may be there, and that our lease would hold
        # for ever: the next one gives it back.
        self._doubtful.append(token)
        # Not durable: a power cut that undoes a claim has ended its owner as well.
        with self._database.write(durable=False) as tx:
            if not leases.is_registered(tx, self._id):
                # Others took over from us. What we held then is theirs; this is a new lease.
                self._id = self._enrol(tx)
                self._lost.clear()
            if upkeep:
                leases.take_over(tx, self._database, self._id)
                claims.promote(tx)
            if len(self._doubtful) > 1:
                leases.give_back(tx, self._id, self._doubtful[:-1])
            claim.take(tx, self._id, self._queues[self._turn :] + self._queues[: self._turn])
        self._doubtful.clear()
        self._full = len(claim.taken) == limit
        return claim.taken

    def start(self, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
        if not deliveries:
            return []
        with self._database.write() as tx:
            return ends.start(tx, deliveries)

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        if not settlements:
            return []
        for item in settlements:
            for part in item.parts:
                check_part(part)
        self._database.ensure(BROKER)
        if self._results_at != self._database.generation and any(map(ends.has_results, settlements)):
            # Imported for those who store results in this database, and for no other worker.
            from kernel_broker_sql import results

            results.prepare(self._database)
            self._results_at = self._database.generation
        with self._database.write() as tx:
            return ends.settle(tx, settlements)

    # --- the lease ----------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        if self._is_closed:
            return False
        with self._database.write(durable=False) as tx:
            in_time = leases.renew(tx, self._id, self._options.lease)
        if not in_time:
            self._lost.set()
            self._bell.wake()
        return in_time

    def wake(self) -> None:
        self._woken.set()
        self._bell.wake()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.wake()
        try:
            with self._database.write() as tx:
                leases.release(tx, [self._id], keep_starts=False)
        finally:
            self._bell.close()
            self._closed(self)

    def _enrol(self, tx: Transaction) -> int:
        return leases.register(
            tx, owner=self._options.owner, queues=self._queues, bell=self._bell.address, lease=self._options.lease
        )
