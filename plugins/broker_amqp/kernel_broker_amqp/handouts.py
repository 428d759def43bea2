"""What came over a line and goes to the worker: queues take turns, and what is not for it now is sorted out."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kernel import errors
from kernel.interfaces.broker import Delivery
from kernel_broker_amqp.ended import Ended
from kernel_broker_amqp.envelope import due_of, state_of
from kernel_broker_amqp.line import Claim, Line
from kernel_broker_amqp.shared import Shared


class Handouts:
    """Of the consumer `name`. Used under its lock."""

    def __init__(self, shared: Shared, ended: Ended, name: str) -> None:
        self._shared = shared
        self._ended = ended
        self._name = name
        self._turn = 0

    def take(self, line: Line, limit: int, max_bytes: int) -> list[Delivery]:
        """Up to `limit` of what is buffered, of `max_bytes` together. Raises `OperationalError`."""
        taps = [tap for tap in line.taps.values() if tap.buffer and not tap.paused]
        if not taps:
            return []
        self._turn += 1
        at = self._turn % len(taps)
        taps = taps[at:] + taps[:at]
        taken: list[Delivery] = []
        later: list[tuple[Claim, float]] = []
        over: list[Claim] = []
        size = 0
        now = time.time()
        while taps and len(taken) < limit:
            for tap in tuple(taps):
                claim = tap.buffer[0]
                message = claim.read()
                weight = message.size
                if taken and size + weight > max_bytes:
                    taps = []
                    break
                tap.buffer.popleft()
                if not tap.buffer:
                    taps.remove(tap)
                if claim.redelivered and self._ended.has(claim):
                    over.append(claim)
                    continue
                if claim.is_early(now):
                    later.append((claim, due_of(message)))
                    continue
                size += weight
                tap.size = tap.size * 0.9 + weight * 0.1 if tap.size else float(weight)
                taken.append(self._delivery(claim, now))
                tap.handed_out(1)
                if len(taken) >= limit:
                    break
        if over:
            line.settle(over, [])
            self._ended.acked(over)
        if later:
            try:
                self._postpone(line, later)
            except errors.OperationalError:
                # Tried again with the next claim. What was taken beside them is nobody's but the caller's by now.
                for claim, _ in reversed(later):
                    claim.tap.buffer.appendleft(claim)
                if not taken:
                    raise
        return taken

    def _delivery(self, claim: Claim, now: float) -> Delivery:
        message = claim.read()
        claim.address()
        starts = state_of(message).get("starts")
        if isinstance(starts, int):
            claim.starts = max(0, starts)
        return Delivery(
            message,
            claim.tap.queue,
            f"{self._name}-{claim.line.number}-{claim.tag}",
            key=claim,
            starts=claim.starts,
            seen=claim.redelivered or starts is not None,
            claimed_at=now,
        )

    def _postpone(self, line: Line, later: Sequence[tuple[Claim, float]]) -> None:
        """What a foreign producer put into the queue before its time waits on the ladder."""
        parcels = [(self._shared.address(claim.tap.queue, due), claim.head, claim.body) for claim, due in later]
        self._shared.store(parcels)
        line.settle([claim for claim, _ in later], [])
