"""One worker's claims and its lease."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from kernel_lib_redis import Listener, RedisServer

from kernel import errors
from kernel.interfaces.broker import ConsumeOptions, Delivery, Settled, Settlement, Verdict
from kernel_broker_redis import envelope, scripts
from kernel_broker_redis.door import Door
from kernel_broker_redis.layout import Layout

_LOOK_EVERY: Final = 1.0
"""Seconds between looks for what foreign producers pushed into other lists than the first: they wake nobody."""
_AT_DOOR: Final = 2
_GRACE: Final = 0.001
_UNATTENDED: Final = 2.0
_NO_DOUBT: Final = -1, -1
_MAX_REASON: Final = 4000
_AT_ONCE: Final = 1000


class RedisConsumer:
    """Made by `RedisBroker.consume`.

    A claim's token is the consumer's id and a number that grows and is never used again, so a settlement that comes
    late finds nothing.
    """

    def __init__(
        self,
        server: RedisServer,
        layout: Layout,
        queues: Sequence[str],
        options: ConsumeOptions,
        closed: Callable[[RedisConsumer], None],
    ) -> None:
        self._server = server
        self._layout = layout
        self._queues = list(queues)
        self._lists = {name: layout.lists(name) for name in queues}
        self._queue_of = {key: name for name, keys in self._lists.items() for key in keys}
        self._order: list[str] = []
        self._options = options
        self._closed = closed
        self._id = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._claims = 0
        self._doubt = _NO_DOUBT
        self._unsure: set[str] = set()
        self._turn = 0
        self._idle = False
        self._woken = threading.Event()
        self._is_closed = False
        self._fetching = threading.Lock()
        self._fetched_at = 0.0
        self._drained = False
        self._look_at = 0.0
        self._may_wait = False
        self._at_door = 0, 0
        self._front = layout.queue(self._queues[0])
        self._door = Door(server, self._front, layout.own(self._queues[0], f"aside:{self._id}"))
        self._bell = Listener(server)
        try:
            self._bell.subscribe_now([layout.wake(self._id)], server.timeout)
            self.renew()
        except BaseException:
            self._bell.close()
            raise

    # --- claiming -----------------------------------------------------------------------------------------------

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[Delivery]:
        end = time.monotonic() + timeout
        with self._fetching:
            try:
                while not self._is_closed and limit > 0:
                    taken = self._step(limit, max_bytes, end)
                    if taken:
                        # What comes to the door must not lie there while there may be no room for it.
                        taken += self._leave()
                    if taken or self._woken.is_set() or time.monotonic() >= end:
                        self._woken.clear()
                        return taken
            except errors.OperationalError:
                self._drop_door()
                raise
            finally:
                self._fetched_at = time.monotonic()
        return []

    def _step(self, limit: int, max_bytes: int, end: float) -> list[Delivery]:
        """Claim once, or wait once."""
        if self._door.waits:
            taken = self._stand(end)
            return taken if self._drained or not taken else self._and_more(taken, limit, max_bytes)
        left = end - time.monotonic()
        if left <= 0 or not self._drained:
            return self._claim(limit, max_bytes)
        pause = min(left, self._look_at - time.monotonic())
        if pause <= 0:
            self._drained = False
        elif not self._may_wait or self._door.rests:
            if self._bell.read(pause):
                self._drained = False
        elif not self._woken.is_set():
            self._go_to_door(limit, max_bytes, self._look_at - time.monotonic())
        return []

    # --- at the door --------------------------------------------------------------------------------------------

    def _go_to_door(self, limit: int, max_bytes: int, seconds: float) -> None:
        """Wait for a push into the first list, or for the time to look at all. What is claimed then is little: the
        answer may find nobody who fetches."""
        with self._lock:
            self._at_door = self._claims, min(limit, _AT_DOOR)
            self._claims += _AT_DOOR
        words = self._words(*self._at_door, max_bytes, doubt=_NO_DOUBT)
        self._door.wait(seconds, scripts.CLAIM, self._layout.prefix, self._layout.sep, self._id, *words)

    def _stand(self, end: float) -> list[Delivery]:
        """Stand there, until somebody comes or rings."""
        door = self._door
        # A push that was over before this call may not have come through yet.
        rung = self._bell.read(max(_GRACE, min(end - time.monotonic(), door.left)), door.link)
        if door.ready():
            return self._enter(door.answer())
        # The claim behind looks at every list, whatever ends the wait.
        return self._enter(door.leave()) if rung else []

    def _enter(self, reply: Any) -> list[Delivery]:
        """What the claim at the door brought, if it was made."""
        first, limit = self._at_door
        if reply is None:
            self._drained = False
            return []
        return self._came(reply, first, limit)

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
        self._drained = False
        if self._door.waits:
            self._unheard(*self._at_door)
        self._door.drop()

    def _give_way(self) -> None:
        """A worker that has no room, or claims no more, must not stand at the door."""
        if not self._door.waits or time.monotonic() - self._fetched_at < _UNATTENDED:
            return
        if self._fetching.acquire(blocking=False):
            try:
                back = self._leave()
                words = [word for each in back for word in (*each.key, "r", 0, 0, "")]
                if words:
                    self._run(scripts.END, *words)
            finally:
                self._fetching.release()

    # --- claims -------------------------------------------------------------------------------------------------

    def _unheard(self, first: int, count: int) -> None:
        """Claims with these numbers may have been made, and nobody knows which."""
        low, high = self._doubt
        self._doubt = (first if low < 0 else min(low, first)), max(high, first + count)

    def _words(self, first: int, limit: int, max_bytes: int, *, doubt: tuple[int, int]) -> list[object]:
        return [
            self._options.owner, self._lease, first, limit, max_bytes, int(self._idle),
            len(self._layout.steps), *doubt, self._front, *self._order,
        ]  # fmt: skip

    def _claim(self, limit: int, max_bytes: int) -> list[Delivery]:
        """What could be claimed now."""
        with self._lock:
            if self._is_closed:
                return []
            queues = self._queues[self._turn :] + self._queues[: self._turn]
            self._turn = (self._turn + 1) % len(self._queues)
            self._order = [key for name in queues for key in self._lists[name]]
            first = self._claims
            # Before the call: numbers of a claim that we never hear of are not used again.
            self._claims += limit
            try:
                reply = self._run(scripts.CLAIM, *self._words(first, limit, max_bytes, doubt=self._doubt))
            except errors.OperationalError:
                self._unheard(first, limit)
                raise
            self._doubt = _NO_DOUBT
        return self._came(reply, first, limit)

    def _came(self, reply: Sequence[Any], first: int, limit: int) -> list[Delivery]:
        now, look, _, drained, may_wait = reply[:5]
        self._may_wait = bool(may_wait)
        self._drained = self._idle = bool(drained)
        pause = _LOOK_EVERY if look < 0 else min(_LOOK_EVERY, max(0.001, (look - now) / 1000))
        self._look_at = time.monotonic() + pause
        return self._deliveries(self._order, reply, first)

    def _deliveries(self, lists: Sequence[str], reply: Sequence[Any], first: int) -> list[Delivery]:
        if reply[2]:
            # The lease had run out, and with it everything that was held.
            self._unsure.clear()
        at = time.time()
        return [
            self._delivery(self._queue_of[lists[reply[i]]], lists[reply[i]], first + n, reply[i + 1], reply[i + 2], at)
            for n, i in enumerate(range(5, len(reply), 3), 1)
        ]

    def _delivery(self, queue: str, key: str, number: int, starts: int, raw: bytes, at: float) -> Delivery:
        return Delivery(
            envelope.decode(raw),
            queue,
            f"{self._id}-{number}",
            key=(key, number),
            starts=max(0, starts),
            seen=starts >= 0,
            claimed_at=at,
        )

    @property
    def _lease(self) -> int:
        return max(1, round(self._options.lease * 1000))

    def _run(self, script: Any, *args: object) -> Any:
        return self._server.script(script, self._layout.prefix, self._layout.sep, self._id, *args)

    # --- ends ---------------------------------------------------------------------------------------------------

    def start(self, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
        if not deliveries or self._is_closed:
            return [Settled.STALE] * len(deliveries)
        found = [Settled.STALE] * len(deliveries)
        mine = [(at, delivery) for at, delivery in enumerate(deliveries) if self._is_mine(delivery)]
        for begin in range(0, len(mine), _AT_ONCE):
            part = mine[begin : begin + _AT_ONCE]
            words = [word for _, delivery in part for word in (*delivery.key, "s", 0, "", "")]
            for (at, _), done in zip(part, self._run(scripts.END, *words), strict=True):
                found[at] = Settled.DONE if done else Settled.STALE
        return found

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        if any(item.records or item.publications for item in settlements):
            raise NotImplementedError("the Redis broker has no atomic_end: store and publish before you settle")
        found = [Settled.STALE] * len(settlements)
        if self._is_closed:
            return found
        self._give_way()
        mine = [at for at, item in enumerate(settlements) if self._is_mine(item.delivery)]
        acks = [at for at in mine if settlements[at].verdict is Verdict.ACK]
        rest = [at for at in mine if settlements[at].verdict is not Verdict.ACK]
        # The oldest is put back last, and so comes to lie in front.
        rest.sort(key=lambda at: -settlements[at].delivery.key[1])
        try:
            done = [*self._ack(settlements, acks), *self._end(settlements, rest)]
        except errors.OperationalError:
            # They may be done: when they are settled again, their absence does not mean that others have them.
            self._unsure.update(settlements[at].delivery.token for at in mine)
            raise
        for at, was_there in zip([*acks, *rest], done, strict=True):
            token = settlements[at].delivery.token
            if was_there or token in self._unsure:
                found[at] = Settled.DONE
            self._unsure.discard(token)
        return found

    def _is_mine(self, delivery: Delivery) -> bool:
        return delivery.token.startswith(self._id)

    def _ack(self, settlements: Sequence[Settlement], indexes: list[int]) -> list[int]:
        if not indexes:
            return []
        groups: dict[str, list[int]] = {}
        for at in indexes:
            groups.setdefault(settlements[at].delivery.key[0], []).append(at)
        words: list[object] = []
        for key, members in groups.items():
            words += [key, len(members), *(settlements[at].delivery.key[1] for at in members)]
        replies = self._run(scripts.ACK, *words)
        order = [at for members in groups.values() for at in members]
        answers = dict(zip(order, replies, strict=True))
        return [answers[at] for at in indexes]

    def _end(self, settlements: Sequence[Settlement], indexes: list[int]) -> list[int]:
        done: list[int] = []
        for begin in range(0, len(indexes), _AT_ONCE):
            words: list[object] = []
            for at in indexes[begin : begin + _AT_ONCE]:
                words += _end_words(settlements[at])
            done += self._run(scripts.END, *words)
        return done

    # --- the lease ----------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        if self._is_closed:
            return False
        with suppress(errors.OperationalError):
            self._give_way()
        lists = [key for keys in self._lists.values() for key in keys]
        if self._run(scripts.RENEW, self._options.owner, self._lease, self._claims, *lists):
            return True
        self._unsure.clear()
        return False

    def wake(self) -> None:
        self._woken.set()
        self._bell.wake()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._bell.close()
        self._door.close()
        try:
            # A claim that is under way would be made after its owner was gone.
            with self._lock:
                self._run(scripts.RELEASE)
        finally:
            self._closed(self)


def _end_words(item: Settlement) -> tuple[object, ...]:
    key, number = item.delivery.key
    if item.verdict is Verdict.REQUEUE:
        delay = max(0, round(item.delay * 1000)) if item.delay > 0 else 0
        return key, number, "r", int(item.charged), delay, ""
    letter, task = envelope.name_of(item.delivery.message)
    reason = item.reason if len(item.reason) <= _MAX_REASON else item.reason[: _MAX_REASON - 3] + "..."
    # As text that any encoding takes: halves of surrogate pairs are escaped.
    name = (letter or "unreadable").encode("utf-8", "backslashreplace")
    return key, number, "d", int(item.charged), name, json.dumps({"task": task, "reason": reason})
