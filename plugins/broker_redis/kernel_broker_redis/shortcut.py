"""Ends of claims over another connection than their consumer's, and claims that go with them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from kernel_lib_redis import RedisServer

from kernel.interfaces.broker import Delivery, Settled, Settlement
from kernel.interfaces.shortcut import Finished, Permit
from kernel.message import pack_parts, unpack_parts
from kernel_broker_redis import answers, ends, envelope, scripts
from kernel_broker_redis.layout import Layout

_OUTCOMES: Final = (Settled.STALE, Settled.DONE, Settled.JOINED, Settled.STANDING, Settled.DONE)
"""By the numbers that the server answers; with the last one the message is claimed."""
_CLAIMED: Final = 4


class RedisShortcut:
    """Implements `kernel.interfaces.shortcut.Shortcut`. Made by `RedisBroker.shortcut`."""

    def __init__(self, server: RedisServer, layout: Layout, queues: Sequence[str], place: ends.Place) -> None:
        self._server = server
        self._layout = layout
        self._place = place
        self._queue_of = {key: name for name in queues for key in layout.lists(name)}
        self._lists = [layout.queue(queues[0]), len(self._queue_of), *self._queue_of]

    def finish(self, settlement: Settlement, permit: Permit, *, claims: bool) -> Finished:
        delivery = settlement.delivery
        delivery.key = permit.place, permit.number
        consumer = consumer_of(delivery.token)
        ((_, words),) = ends.finishes([settlement], self._place)
        claims = claims and len(settlement.publications) == 1 and permit.following >= permit.last
        if not claims:
            (done,) = self._run(scripts.FINISH, consumer, *words, fits=answers.is_outcomes(1, _CLAIMED - 1))
            return Finished(_OUTCOMES[done])
        done = self._run(scripts.GO_ON, consumer, permit.following, *self._lists, *words, fits=answers.is_number)
        if done != _CLAIMED:
            return Finished(_OUTCOMES[done])
        place, _, raw = words[-3:]
        note = pack_note(str(place), permit.following, permit.last, raw if isinstance(raw, bytes) else b"")
        following, lent = taken_over(note, consumer, self._queue_of)
        return Finished(Settled.DONE, following, lent, note)

    def _run(self, script: Any, *words: object, fits: Any) -> Any:
        return self._server.script(script, self._layout.prefix, self._layout.sep, *words, fits=fits)


def consumer_of(token: str) -> str:
    """The consumer whose claim a token is of."""
    return token.partition("-")[0]


def pack_note(place: str, number: int, last: int, raw: bytes) -> bytes:
    """What a consumer is told of a claim: in which list, under which number, up to which there may be others, and the
    message."""
    return pack_parts([place.encode(), b"%d %d" % (number, last), raw])


def taken_over(note: bytes, consumer: str, queue_of: dict[str, str]) -> tuple[Delivery, Permit]:
    """The claim that a note tells of. Raises ValueError for what is none."""
    place, numbers, raw = unpack_parts(note)
    number, last = map(int, numbers.split())
    key = place.decode()
    if key not in queue_of:
        raise ValueError(f"a claim in {key!r:.80}, which is no list of this consumer's")
    token = f"{consumer}-{number}"
    delivery = Delivery(envelope.decode(raw), queue_of[key], token, key=(key, number), claimed_at=time.time())
    return delivery, Permit(key, number, number - 1, last)
