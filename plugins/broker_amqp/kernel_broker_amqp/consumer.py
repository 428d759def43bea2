"""One worker's claims and its lease.

RabbitMQ pushes: what came and was not fetched yet is buffered, and the credit of each queue follows what `fetch` asks
for, so that little is. The lease is the connection's life: the server takes everything back when the connection ends,
which a guard thread sees to when nobody renews in time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

from kernel import errors
from kernel.interfaces.broker import ConsumeOptions, Delivery, Settled, Settlement, Verdict
from kernel_broker_amqp import letters
from kernel_broker_amqp.arrivals import PAUSES, Arrivals
from kernel_broker_amqp.credit import Credit
from kernel_broker_amqp.ended import Ended
from kernel_broker_amqp.envelope import restated
from kernel_broker_amqp.guard import IDLE_SECONDS, Guard
from kernel_broker_amqp.handouts import Handouts
from kernel_broker_amqp.holds import Holds
from kernel_broker_amqp.line import Claim, Line, consume_frames
from kernel_broker_amqp.publisher import Parcel
from kernel_broker_amqp.shared import Shared


class AmqpConsumer:
    """Made by `AmqpBroker.consume`. A claim's token names the line that delivered it: late ones are refused."""

    def __init__(
        self,
        shared: Shared,
        queues: Sequence[str],
        options: ConsumeOptions,
        closed: Callable[[AmqpConsumer], None],
    ) -> None:
        self._shared = shared
        self._queues = list(dict.fromkeys(queues))
        self._options = options
        self._closed = closed
        self._id = uuid.uuid4().hex
        self._lines = 0
        self._line: Line | None = None
        self._holds = Holds(shared, self._id)
        self._arrivals = Arrivals(self._holds)
        self._ended = Ended()
        self._credit = Credit(shared)
        self._handouts = Handouts(shared, self._ended, self._id)
        self._lock = threading.RLock()
        self._woken = threading.Event()
        self._is_closed = False
        self._has_lost = False
        """A line with claims was lost, and no renewal has said so yet."""
        self._told: Line | None = None
        self._fetched_at = time.monotonic()
        self._guard = Guard(
            options.lease,
            shared.hand_over_after,
            lapse=self._lapse,
            hand_over=self._hand_over_now,
            idle=self._share,
        )
        try:
            with self._lock:
                self._connect()
        except BaseException:
            self._guard.stop()
            raise
        self._guard.start()

    @property
    def buffered(self) -> dict[str, int]:
        """For the numbers of the broker: what the server counts as delivered and nobody has fetched."""
        line = self._line
        return {} if line is None or not line.alive else {name: len(tap.buffer) for name, tap in line.taps.items()}

    @property
    def claimed(self) -> dict[str, int]:
        line = self._line
        found = dict.fromkeys(self._queues, 0)
        if line is not None and line.alive:
            for claim in tuple(line.unsettled.values()):
                found[claim.tap.queue] += 1
            for name, count in self.buffered.items():
                found[name] -= count
        return found

    # --- the line -----------------------------------------------------------------------------------------------

    def _connect(self) -> Line:
        """A line that can be used; a new one when the last was lost, and with it all claims."""
        line = self._line
        if line is not None and line.alive:
            return line
        if line is not None:
            if line is not self._told and any(not claim.done for claim in line.unsettled.values()):
                self._has_lost = True
            self._told = None
            self._ended.lost(tuple(line.unsettled.values()))
            fault = line.wire.lost
            line.wire.close()
            if fault is not None and fault.silent:
                self._shared.doubt(str(fault))
            self._line = None
        shared = self._shared
        shared.ensure(self._queues)
        beat = min(shared.server.heartbeat, max(1.0, self._options.lease / 2)) if shared.server.heartbeat else 0
        wire = shared.server.connect(heartbeat=beat, role=f"consumer {self._options.owner}")
        try:
            self._lines += 1
            line = Line(wire, self._queues, number=self._lines)
            name, _, _ = line.channel.declare_queue("", durable=False, exclusive=True, auto_delete=True)
            shared.pauses.listen(line.channel, name)
            wire.send(consume_frames(line.channel.number, name, PAUSES, 0))
            for queue in shared.pauses.paused(self._queues):
                line.taps[queue].paused = True
        except BaseException:
            wire.close()
            raise
        self._guard.renewed()
        self._ended.connected()
        self._line = line
        return line

    def _lapse(self) -> None:
        """The lease ran out: the server gets everything back."""
        line = self._line
        if line is not None:
            line.lapsed = True
            line.wire.sever("the lease ran out: nobody renewed it in time")

    # --- claiming -----------------------------------------------------------------------------------------------

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[Delivery]:
        end = time.monotonic() + timeout
        with self._lock:
            while not self._is_closed and limit > 0:
                try:
                    taken = self._step(self._connect(), limit, max_bytes, end)
                except errors.OperationalError:
                    if self._is_closed:
                        break
                    if not self._guard.lapsed:
                        raise
                    continue
                if taken is not None:
                    self._fetched_at = time.monotonic()
                    return taken
        return []

    def _share(self) -> None:
        """By the guard, while nobody fetches: the server is heard, or found silent, and nothing is kept from others."""
        line = self._line
        if line is None or time.monotonic() - self._fetched_at < IDLE_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            if line is self._line and line.alive and time.monotonic() - self._fetched_at >= IDLE_SECONDS:
                self._arrivals.sort(line, line.wire.read(0))
                for tap in line.taps.values():
                    if tap.pipes or tap.buffer:
                        line.narrow(tap)
        finally:
            self._lock.release()

    def _step(self, line: Line, limit: int, max_bytes: int, end: float) -> list[Delivery] | None:
        """What is there, when something is or the time is over; else None, after a wait."""
        if self._guard.hand_over_due:
            self._guard.hand_over_due = False
            self._hand_over(line)
        self._arrivals.sort(line, line.wire.read(0))
        self._credit.grant(line, limit, max_bytes)
        taken = self._handouts.take(line, limit, max_bytes)
        left = end - time.monotonic()
        if not taken and left > 0 and not self._woken.is_set():
            found = line.wire.read(left)
            self._arrivals.sort(line, found)
            # Whoever waited for it has it at once: what else there is to do can be done while it runs.
            taken = self._handouts.take(line, limit, max_bytes) if found and not self._is_closed else []
            if not taken:
                return None
        self._woken.clear()
        return taken

    # --- ends ---------------------------------------------------------------------------------------------------

    def _mine(self, delivery: Delivery) -> Claim | None:
        """The claim, when it stands: its line lives, the lease too, and nothing has ended it."""
        claim = delivery.key
        line = self._line
        if self._is_closed or line is None or not line.alive or self._guard.lapsed:
            return None
        return claim if isinstance(claim, Claim) and claim.line is line and not claim.done else None

    def start(self, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
        with self._lock:
            self._look()
            claims = [self._mine(delivery) for delivery in deliveries]
            fresh = list(dict.fromkeys(claim for claim in claims if claim is not None and not claim.recorded))
            if fresh and self._line is not None:
                self._move(self._line, fresh, start=True)
            return [
                Settled.DONE if claim is not None and self._mine(delivery) is claim else Settled.STALE
                for claim, delivery in zip(claims, deliveries, strict=True)
            ]

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        if not all(item.is_plain for item in settlements):
            raise NotImplementedError("the AMQP broker has no atomic_end: store and publish before you settle")
        with self._lock:
            self._look()
            found = [Settled.STALE] * len(settlements)
            acked: list[Claim] = []
            copied: list[Claim] = []
            returned: list[Claim] = []
            parcels: list[Parcel] = []
            met: set[Claim] = set()
            for at, item in enumerate(settlements):
                claim = self._mine(item.delivery)
                if claim is None:
                    if item.verdict is Verdict.ACK and not item.early:
                        self._remember(item.delivery.key)
                    continue
                if claim in met:
                    continue
                met.add(claim)
                found[at] = Settled.DONE
                if item.verdict is Verdict.REQUEUE and not self._needs_copy(claim, item):
                    returned.append(claim)
                    continue
                if item.verdict is not Verdict.ACK:
                    parcels.append(self._copy(claim, item))
                    copied.append(claim)
                else:
                    acked.append(claim)
            self._shared.store(parcels)
            line = self._line
            if met and line is not None:
                line.settle(acked + copied if copied else acked, returned)
                self._ended.acked(acked)
            return found

    def _remember(self, key: object) -> None:
        """What ended here while its connection was gone need not run again; not so where its lease had run out."""
        if isinstance(key, Claim) and not key.line.lapsed and not self._guard.lapsed:
            self._ended.refused(key)

    def _look(self) -> None:
        """Hear what the server has to say, so that a connection that is gone is not written to."""
        line = self._line
        if line is not None and line.alive:
            with suppress(errors.OperationalError):
                self._arrivals.sort(line, line.wire.read(0))

    def _needs_copy(self, claim: Claim, item: Settlement) -> bool:
        return item.charged or item.delay > 0 or claim.moved or claim.tap.gone

    def _copy(self, claim: Claim, item: Settlement) -> Parcel:
        """The message as it goes on: with its starts, into its queue, the ladder, or the dead letters."""
        message = claim.read()
        starts = claim.starts + bool(item.charged)
        queue = claim.tap.queue
        if item.verdict is Verdict.DEAD:
            self._shared.letters.keep([queue])
            return letters.parcel(message, queue, item.reason, starts)
        return (
            self._shared.address(queue, time.time() + item.delay if item.delay > 0 else 0.0),
            restated(message, {"starts": starts}),
            message.body,
        )

    # --- copies -------------------------------------------------------------------------------------------------

    def _move(self, line: Line, claims: Sequence[Claim], *, start: bool) -> None:
        """Confirm copies into holding queues of ours, and see them come: then they are the claims."""
        wanted = self._holds.send(line, claims, start=start)
        deadline = time.monotonic() + self._shared.timeout
        while any(not self._holds.is_here(line, each) for each in wanted):
            left = deadline - time.monotonic()
            if left <= 0:
                raise errors.OperationalError(
                    f"{line.wire.shown} did not deliver {len(wanted)} copies within {self._shared.timeout:g} s"
                )
            self._arrivals.sort(line, line.wire.read(left))

    def _hand_over_now(self) -> bool:
        """By the guard; False when a fetch is under way, which is woken to do it."""
        if not self._lock.acquire(blocking=False):
            line = self._line
            if line is not None:
                line.wire.wake()
            return False
        try:
            line = self._line
            if line is not None and line.alive and not self._is_closed:
                self._arrivals.sort(line, line.wire.read(0))
                self._hand_over(line)
        finally:
            self._lock.release()
        return True

    def _hand_over(self, line: Line) -> None:
        """Before the server's patience with a delivery ends: a copy takes its place, or it goes back."""
        limit = time.monotonic() - self._shared.hand_over_after
        old = [claim for claim in line.unsettled.values() if claim.at <= limit]
        for tap in line.taps.values():
            if tap.buffer and tap.buffer[0].at <= limit:
                line.narrow(tap)
        held = [claim for claim in old if not claim.done]
        if held:
            self._move(line, held, start=False)

    # --- the lease ----------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        if self._is_closed:
            return False
        line = self._line
        held = line is not None and line.alive and not self._guard.lapsed and not self._has_lost
        self._has_lost = False
        if not held:
            self._told = line
        self._guard.renewed()
        return held

    def wake(self) -> None:
        self._woken.set()
        line = self._line
        if line is not None:
            line.wire.wake()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._guard.stop()
        self.wake()
        with self._lock:
            line, self._line = self._line, None
            try:
                if line is not None and line.alive:
                    self._give_back(line)
            finally:
                if line is not None:
                    line.wire.close()
                self._closed(self)

    def _give_back(self, line: Line) -> None:
        """Uncharged: what has a recorded start goes back as a copy without it, the rest with the channel."""
        with suppress(errors.OperationalError):
            moved = [claim for claim in line.unsettled.values() if claim.moved]
            copies = [
                (self._shared.address(c.tap.queue, 0.0), restated(c.read(), {"starts": c.starts}), c.body)
                for c in moved
            ]
            self._shared.store(copies)
            line.settle(moved, [])
            self._holds.delete(line)
            line.channel.close()
