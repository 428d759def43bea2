"""One worker's claims and its lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from kernel_lib_redis import Link, Listener, RedisServer, unfitting

from kernel import errors
from kernel.interfaces.broker import ConsumeOptions, Delivery, Settled, Settlement
from kernel_broker_redis import ends, scripts
from kernel_broker_redis.claims import Claims
from kernel_broker_redis.door import Door
from kernel_broker_redis.holdings import Holdings
from kernel_broker_redis.layout import Layout
from kernel_broker_redis.owner import Owner
from kernel_broker_redis.registration import Registration
from kernel_broker_redis.settling import Settling

_AT_DOOR: Final = 2
_GRACE: Final = 0.001
_UNATTENDED: Final = 2.0


class RedisConsumer:
    """Made by `RedisBroker.consume`. Fetches by itself; what claims are, how they end and what becomes of them when a
    server forgets is in rooms of their own."""

    def __init__(
        self,
        server: RedisServer,
        layout: Layout,
        queues: Sequence[str],
        options: ConsumeOptions,
        *,
        place: ends.Place,
        closed: Callable[[RedisConsumer], None],
    ) -> None:
        self._server = server
        self._layout = layout
        self._closed = closed
        self.owner = Owner(server, layout, options)
        unsure: set[str] = set()
        self._held = Holdings()
        lists = [key for name in queues for key in layout.lists(name)]
        self._registration = Registration(self.owner, lists, self._held, void=unsure.clear)
        self._claims = Claims(self.owner, layout, queues, registration=self._registration, held=self._held)
        self._settling = Settling(
            self.owner, self._held, self._registration, place=place, claims=lambda: self._claims.made, unsure=unsure
        )
        self._woken = False
        self._listens = False
        self._is_closed = False
        self._fetching = threading.Lock()
        self._fetched_at = 0.0
        self._at_door = 0, 0
        self._door = Door(server, self._claims.front, layout.own(queues[0], f"aside:{self.owner.id}"))
        self._bell = Listener(server)
        try:
            self._bell.subscribe_now([layout.wake(self.owner.id)], server.timeout)
            self.renew()
        except BaseException:
            self._bell.close()
            raise

    # --- claiming -----------------------------------------------------------------------------------------------

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[Delivery]:
        end = time.monotonic() + timeout
        with self._fetching:
            try:
                heard = self._at_door[0] if self._door.waits else self._claims.made
                self._registration.mend(lambda number: number <= heard and self._claims.is_sure(number))
                while not self._is_closed and limit > 0:
                    taken = self._step(limit, max_bytes, end)
                    if taken:
                        # What comes to the door must not lie there while there may be no room for it.
                        taken += self._leave()
                    if taken or self._woken or time.monotonic() >= end:
                        self._woken = False
                        return taken
            except errors.OperationalError:
                self._drop_door()
                raise
            finally:
                self._fetched_at = time.monotonic()
        return []

    def _step(self, limit: int, max_bytes: int, end: float) -> list[Delivery]:
        """Claim once, or wait once."""
        claims = self._claims
        if self._door.waits:
            taken = self._stand(end)
            return taken if claims.drained or not taken else self._and_more(taken, limit, max_bytes)
        left = end - time.monotonic()
        if left <= 0 or not claims.drained:
            return self._claim(limit, max_bytes)
        pause = min(left, claims.look_at - time.monotonic())
        if pause <= 0:
            claims.drained = False
        elif not claims.may_wait or self._door.rests:
            if self._rung(pause):
                claims.drained = False
        elif not self._woken:
            self._go_to_door(limit, max_bytes, claims.look_at - time.monotonic())
        return []

    def _claim(self, limit: int, max_bytes: int) -> list[Delivery]:
        """What could be claimed now."""
        with self._claims.lock:
            return [] if self._is_closed else self._claims.make(limit, max_bytes)

    def _rung(self, seconds: float, beside: Link | None = None) -> bool:
        """Whether the server rings within so many seconds; no longer than until somebody wakes us, or there is
        something to be read from `beside`."""
        self._listens = True
        try:
            # Whoever wakes us sees that we listen, or is seen here.
            return not self._woken and bool(self._bell.read(seconds, beside))
        finally:
            self._listens = False

    # --- at the door --------------------------------------------------------------------------------------------

    def _go_to_door(self, limit: int, max_bytes: int, seconds: float) -> None:
        """Wait for a push into the first list, or for the time to look at all. What is claimed then is little: the
        answer may find nobody who fetches."""
        first, limit = self._at_door = self._claims.reserve(_AT_DOOR), min(limit, _AT_DOOR)
        words = self._claims.words(first, limit, max_bytes)
        self._door.wait(seconds, scripts.CLAIM, self._layout.prefix, self._layout.sep, self.owner.id, *words)

    def _stand(self, end: float) -> list[Delivery]:
        """Stand there, until somebody comes or rings."""
        door = self._door
        # A push that was over before this call may not have come through yet.
        rung = self._rung(max(_GRACE, min(end - time.monotonic(), door.left)), door.link)
        if door.ready():
            return self._enter(door.answer())
        # The claim behind looks at every list, whatever ends the wait.
        return self._enter(door.leave()) if rung else []

    def _enter(self, reply: Any) -> list[Delivery]:
        """What the claim at the door brought, if it was made."""
        first, limit = self._at_door
        if reply is None:
            self._claims.drained = False
            return []
        if not self._claims.fits(reply):
            self._claims.unheard(first, limit)
            self._door.drop()
            raise unfitting(reply, self._server.shown)
        return self._claims.came(reply, first)

    def _and_more(self, taken: list[Delivery], limit: int, max_bytes: int) -> list[Delivery]:
        """Behind the first ones there are others."""
        limit, max_bytes = limit - len(taken), max_bytes - sum(each.size for each in taken)
        if limit > 0 and max_bytes > 0:
            # What was taken must be handed out, whatever happens to the server.
            with suppress(errors.OperationalError):
                taken += self._claim(limit, max_bytes)
        return taken

    def _leave(self) -> list[Delivery]:
        """Away from the door, with what came to it. Raises nothing."""
        try:
            return self._enter(self._door.leave()) if self._door.waits else []
        except errors.OperationalError:
            self._drop_door()
            return []

    def _drop_door(self) -> None:
        self._claims.drained = False
        if self._door.waits:
            self._claims.unheard(*self._at_door)
        self._door.drop()

    def _give_way(self) -> None:
        """A worker that has no room, or claims no more, must not stand at the door."""
        if not self._door.waits or time.monotonic() - self._fetched_at < _UNATTENDED:
            return
        if self._fetching.acquire(blocking=False):
            try:
                self._settling.give_back(self._leave())
            finally:
                self._fetching.release()

    # --- ends ---------------------------------------------------------------------------------------------------

    def start(self, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
        if not deliveries or self._is_closed:
            return [Settled.STALE] * len(deliveries)
        return self._settling.start(deliveries)

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        if self._is_closed:
            return [Settled.STALE] * len(settlements)
        self._give_way()
        return self._settling.settle(settlements)

    def lend(self, delivery: Delivery) -> str | None:
        key: str = delivery.key[0]
        return key

    def finished(self, delivery: Delivery) -> None:
        # Should a server not have heard of its end, neither has it what belonged to it.
        self._held.put_back(delivery.key[1])

    # --- the lease ----------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        if self._is_closed:
            return False
        with suppress(errors.OperationalError):
            self._give_way()
        return self._registration.renew(self._claims.made)

    def wake(self) -> None:
        self._woken = True
        if self._listens:
            self._bell.wake()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._bell.close()
        self._door.close()
        try:
            # A claim that is under way would be made after its owner was gone.
            with self._claims.lock:
                self.owner.run(scripts.RELEASE)
        finally:
            self._closed(self)
