"""Claims of one consumer: their numbers, and what comes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from kernel import errors
from kernel.interfaces.broker import Delivery
from kernel_broker_redis import answers, scripts
from kernel_broker_redis.holdings import Holdings
from kernel_broker_redis.layout import Layout
from kernel_broker_redis.owner import Owner
from kernel_broker_redis.reader import Reader
from kernel_broker_redis.registration import Registration

_LOOK_EVERY: Final = 1.0
"""Seconds between looks for what foreign producers pushed into other lists than the first: they wake nobody."""
_NO_DOUBT: Final = -1, -1


class Claims:
    """A claim's token is the consumer's id and a number that grows and is never used again, so a settlement that comes
    late finds nothing. For the thread that fetches, save for `made` and `lock`."""

    def __init__(
        self, owner: Owner, layout: Layout, queues: Sequence[str], *, registration: Registration, held: Holdings
    ) -> None:
        self._owner = owner
        self._steps = len(layout.steps)
        self._queues = list(queues)
        self._lists = {name: layout.lists(name) for name in queues}
        self._queue_of = {key: name for name, keys in self._lists.items() for key in keys}
        self.front = layout.queue(self._queues[0])
        """The first list, at whose door one can stand."""
        self._registration = registration
        self._held = held
        self._reader = Reader()
        self.lock = threading.Lock()
        """Held while a claim is under way."""
        self.made = 0
        """The number of the last one."""
        self._doubt = _NO_DOUBT
        self._order: list[str] = []
        self._turn = 0
        self._idle = False
        self.drained = False
        """Whether nothing was left that is due."""
        self.may_wait = False
        """Whether it may stand at the door: nothing but a push there can bring anything before `look_at`."""
        self.look_at = 0.0
        """When (monotonic) to look again in any case."""

    def reserve(self, count: int) -> int:
        """Numbers of claims to be made at the door: the last one before them."""
        with self.lock:
            first = self.made
            self.made += count
        return first

    def words(self, first: int, limit: int, max_bytes: int, *, doubt: tuple[int, int] = _NO_DOUBT) -> list[object]:
        """The arguments of `scripts.CLAIM`."""
        return [
            self._owner.name, self._owner.lease, first, limit, max_bytes, int(self._idle),
            self._steps, *doubt, self.front, self._registration.epoch, *self._order,
        ]  # fmt: skip

    def unheard(self, first: int, count: int) -> None:
        """Claims with these numbers may have been made, and nobody knows which."""
        low, high = self._doubt
        self._doubt = (first if low < 0 else min(low, first)), max(high, first + count)

    def is_sure(self, number: int) -> bool:
        """Whether nobody doubts that we heard of the claim with this number, if it was made."""
        low, high = self._doubt
        return not low < number <= high

    def make(self, limit: int, max_bytes: int) -> list[Delivery]:
        """What could be claimed now. For whoever has `lock`."""
        queues = self._queues[self._turn :] + self._queues[: self._turn]
        self._turn = (self._turn + 1) % len(self._queues)
        self._order = [key for name in queues for key in self._lists[name]]
        first = self.made
        # Before the call: numbers of a claim that we never hear of are not used again.
        self.made += limit
        try:
            words = self.words(first, limit, max_bytes, doubt=self._doubt)
            reply = self._owner.run(scripts.CLAIM, *words, fits=answers.is_claim(len(self._order)))
        except errors.OperationalError:
            self.unheard(first, limit)
            raise
        self._doubt = _NO_DOUBT
        return self.came(reply, first)

    def fits(self, reply: Any) -> bool:
        """Whether this is the answer to a claim."""
        return answers.is_claim(len(self._order))(reply)

    def came(self, reply: Sequence[Any], first: int) -> list[Delivery]:
        """What a claim brought, by its answer."""
        now, look, how, drained, may_wait = reply[: answers.HEAD]
        self.may_wait = bool(may_wait)
        self.drained = self._idle = bool(drained)
        pause = _LOOK_EVERY if look < 0 else min(_LOOK_EVERY, max(0.001, (look - now) / 1000))
        self.look_at = time.monotonic() + pause
        if how:
            self._registration.made_again(how, first)
        return self._deliveries(reply, first)

    def _deliveries(self, reply: Sequence[Any], first: int) -> list[Delivery]:
        decode, order, queue_of = self._reader.decode, self._order, self._queue_of
        head, at = self._owner.id, time.time()
        found: dict[int, Delivery] = {}
        indexes, starts_of, raws = (reply[answers.HEAD + word :: 3] for word in range(3))
        for number, (index, starts, raw) in enumerate(zip(indexes, starts_of, raws, strict=True), first + 1):
            key = order[index]
            found[number] = Delivery(
                decode(raw),
                queue_of[key],
                f"{head}-{number}",
                key=(key, number),
                starts=starts if starts > 0 else 0,
                seen=starts >= 0,
                claimed_at=at,
            )
        self._held.add(found)
        return [*found.values()]
