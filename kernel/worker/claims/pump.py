"""The pump: the one thread that claims from the broker and settles with it.

Both are batches, and both may block: a database may be locked for seconds. So they have a thread, and what the
engine does meanwhile (dispatch, outcomes, time limits) goes on. The loop hands it work and gets events back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kernel import errors
from kernel.interfaces.broker import Broker, ConsumeOptions, Consumer, Delivery, QueueSpec, Settled, Settlement, Verdict
from kernel.worker.claims.item import Item
from kernel.worker.claims.rhythm import Rhythm
from kernel.worker.claims.turns import Turns
from kernel.worker.failpoints import Failpoints
from kernel.worker.outage import Outage

_log = logging.getLogger("kernel.worker")

_FETCH_SECONDS: Final = 5.0
_BATCH: Final = 500
_SETTLE_BATCH: Final = 128
"""What one transaction ends: few enough that a claim never waits for long."""
_CROWDED_BATCH: Final = 10
"""The same, and what is claimed together, while several queues are busy: one must not wait for another's. At one batch
a beat a queue that burns down beside others gives some of its rate (to about 5,000 tasks/s) for their latency."""
_CROWDED_SECONDS: Final = 1.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 3.0
"""Between two attempts: who comes back is found soon, however long it was away."""
_STOPPING_SECONDS: Final = 6.0
"""How long a worker that stops goes on trying to settle."""


@dataclass(frozen=True, slots=True)
class Claimed:
    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class WasSettled:
    pairs: Sequence[tuple[Item, Settlement]]
    outcomes: Sequence[Settled]


@dataclass(frozen=True, slots=True)
class WasStarted:
    pairs: Sequence[tuple[Item, Settled]]


@dataclass(frozen=True, slots=True)
class Failed:
    """The pump has given up: the broker cannot be used."""

    error: Exception


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The renewer's: what is held may have other owners by now."""


Event = Claimed | WasSettled | WasStarted | Failed | LeaseLost


class Pump:
    """`room` says how many messages and bytes may be claimed now; `post` takes events, and `opened` is called before
    the first claim, both on this thread. `connect_retries` is for the first connection (None: for ever); with
    `retry` off a connection that is lost later ends the pump."""

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[QueueSpec],
        options: ConsumeOptions,
        *,
        room: Callable[[], tuple[int, int]],
        post: Callable[[Event], None],
        failpoints: Failpoints,
        opened: Callable[[], None] = lambda: None,
        connect_retries: int | None = 100,
        retry: bool = True,
        close_broker: bool = True,
    ) -> None:
        self._broker = broker
        self._queues = queues
        self._options = options
        self._room = room
        self._post = post
        self._failpoints = failpoints
        self._opened = opened
        self._connect_retries = connect_retries
        self._retry = retry
        self._close_broker = close_broker
        self._settlements: Turns[tuple[Item, Settlement]] = Turns()
        self._in_hand: list[tuple[Item, Settlement]] = []
        self._busy_queues: dict[str, float] = {}
        self._rhythm = Rhythm()
        self._starts: deque[Item] = deque()
        self._kicked = threading.Event()
        self._fetching = False
        self._claiming = True
        self._stopping = False
        self.outage = Outage()
        self.consumer: Consumer | None = None
        self.connected = threading.Event()
        self.fetched_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="kernel-pump", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # the loop's side ----------------------------------------------------------------------------------------

    def settle(self, pairs: Mapping[str, Sequence[tuple[Item, Settlement]]]) -> None:
        """Settle these, of each queue, in their order."""
        now = time.monotonic()
        for queue, of_queue in pairs.items():
            self._settlements.extend(queue, of_queue)
            self._busy_queues[queue] = now
        self.kick()

    def begin(self, item: Item) -> None:
        """Record the start of a message that was seen before."""
        self._starts.append(item)
        self.kick()

    def kick(self) -> None:
        """There is work, or room."""
        if not self._kicked.is_set():
            self._kicked.set()
        if self._fetching and self.consumer is not None:
            self.consumer.wake()

    def has_room(self) -> None:
        """There is room again. Who waits for messages waits with room for some."""
        if not self._fetching:
            self.kick()

    def stop_claiming(self) -> None:
        self._claiming = False
        self.kick()

    @property
    def ended(self) -> bool:
        """Whether its thread is over: nothing will be settled any more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def stop(self, timeout: float) -> bool:
        """Settle what is left, close the consumer, end; whether it did so in time."""
        self._stopping = True
        self._claiming = False
        self.kick()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive() and not len(self._settlements) and not self._in_hand

    # the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if not self._connect():
                return
            while not self._stopping or len(self._settlements) or self._starts:
                self._step()
        except Exception as exc:  # whatever a driver raises must not end the worker without a word
            _log.critical("the broker cannot be used any more", exc_info=exc)
            self._post(Failed(exc))
        finally:
            self._close()

    def _connect(self) -> bool:
        tries, pause = 0, _FIRST_PAUSE
        while not self._stopping:
            try:
                self._broker.open()
                self._broker.declare(self._queues)
                self.consumer = self._broker.consume([queue.name for queue in self._queues], self._options)
            except errors.OperationalError as exc:
                tries += 1
                if self._connect_retries is not None and tries > self._connect_retries:
                    self._post(Failed(exc))
                    return False
                self.outage.failed("cannot reach the broker", pause, exc, level=logging.ERROR)
                self._kicked.wait(pause)
                self._kicked.clear()
                pause = min(pause * 2, _LONGEST_PAUSE)
            except errors.KernelError as exc:
                self._post(Failed(exc))
                return False
            else:
                if tries:
                    self.outage.ended("the broker is reached")
                self._opened()
                self.connected.set()
                return True
        return False

    def _step(self) -> None:
        pause = 0.0 if self._stopping or self._starts else self._rhythm.pause(time.monotonic())
        if pause:
            time.sleep(pause)
        self._kicked.clear()
        self._work(self._start_batch)
        self._work(self._settle_batch)
        limit, max_bytes = self._room() if self._claiming else (0, 0)
        if limit <= 0:
            if not len(self._settlements) and not self._starts and not self._stopping:
                self._kicked.wait(_FETCH_SECONDS)
            return
        self._work(lambda: self._fetch(limit, max_bytes))

    def _work(self, step: Callable[[], None]) -> None:
        """Do a step until it works: what it has in hand is not lost while the broker is away."""
        tries, pause, began = 0, _FIRST_PAUSE, time.monotonic()
        while True:
            try:
                step()
                break
            except errors.OperationalError as exc:
                if not self._retry or (self._stopping and time.monotonic() - began >= _STOPPING_SECONDS):
                    raise
                tries += 1
                self.outage.failed("the broker failed", pause, exc)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        if tries:
            self.outage.ended("the broker works again")

    def _share(self, most: int) -> int:
        """How much may be done together: less while more than one queue is busy."""
        if len(self._busy_queues) < 2:
            return most
        since = time.monotonic() - _CROWDED_SECONDS
        busy = sum(1 for moment in list(self._busy_queues.values()) if moment > since)
        return min(most, _CROWDED_BATCH) if busy > 1 else most

    def _fetch(self, limit: int, max_bytes: int) -> None:
        assert self.consumer is not None
        self._fetching = True
        try:
            busy = self._kicked.is_set() or self._stopping or len(self._settlements) > 0 or len(self._starts) > 0
            timeout = 0.0 if busy else _FETCH_SECONDS
            deliveries = self.consumer.fetch(min(limit, self._share(_BATCH)), max_bytes, timeout)
        finally:
            self._fetching = False
            self.fetched_at = time.monotonic()
        if deliveries:
            if self._failpoints:
                self._failpoints.hit("claim.done")
            self._post(Claimed(deliveries))

    def _start_batch(self) -> None:
        batch = [self._starts[at] for at in range(min(len(self._starts), _BATCH))]
        if not batch:
            return
        assert self.consumer is not None
        outcomes = self.consumer.start([item.delivery for item in batch])
        for _ in batch:
            self._starts.popleft()
        if self._failpoints:
            self._failpoints.hit("start.recorded")
        self._post(WasStarted(list(zip(batch, outcomes, strict=True))))

    def _settle_batch(self) -> None:
        # In hand until it is settled: while the broker is away, the same batch is tried again.
        batch = self._in_hand = self._in_hand or self._settlements.take(self._share(_SETTLE_BATCH))
        self._rhythm.went(len(batch), time.monotonic())
        if not batch:
            return
        assert self.consumer is not None
        if self._failpoints:
            self._failpoints.hit("settle.before")
        outcomes = self._settle(batch)
        self._in_hand = []
        if self._failpoints:
            self._failpoints.hit("settle.sent")
            if Settled.JOINED in outcomes:
                self._failpoints.hit("settle.joined")
        self._post(WasSettled(batch, outcomes))

    def _settle(self, batch: Sequence[tuple[Item, Settlement]]) -> Sequence[Settled]:
        """Settle all of them; one that the driver cannot take must not keep the others from it."""
        assert self.consumer is not None
        settlements = [settlement for _, settlement in batch]
        try:
            return self.consumer.settle(settlements)
        except errors.OperationalError:
            raise
        except Exception as exc:
            if len(settlements) == 1:
                return [self._bury(settlements[0], exc)]
            _log.error("settling %d messages failed, now one by one: %r", len(settlements), exc)
        return [self._settle([pair])[0] for pair in batch]

    def _bury(self, settlement: Settlement, error: Exception) -> Settled:
        """Keep a message whose end cannot be stored as a dead letter, with the reason."""
        assert self.consumer is not None
        reason = f"its end ({settlement.verdict.value}) could not be stored: {type(error).__name__}: {error}"[:2000]
        _log.error("%s", reason, exc_info=error)
        try:
            return self.consumer.settle([Settlement(settlement.delivery, Verdict.DEAD, reason=reason)])[0]
        except errors.OperationalError:
            raise
        except Exception as exc:
            _log.critical("the lease will give it back, it cannot even be kept as a dead letter", exc_info=exc)
            return Settled.STALE

    def _close(self) -> None:
        try:
            if self.consumer is not None:
                self.consumer.close()
            if self._close_broker:
                self._broker.close()
        except Exception as exc:
            _log.warning("closing the broker failed: %s", exc)
