"""Ends of claims over another connection than their consumer's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from kernel_lib_redis import RedisServer

from kernel.interfaces.broker import Settled, Settlement
from kernel.interfaces.shortcut import Advanced
from kernel.message import Publication
from kernel_broker_redis import answers, ends, envelope, scripts
from kernel_broker_redis.layout import Layout

_SETTLED: Final = (Settled.STALE, Settled.DONE)
_ADVANCED: Final = (Advanced.STALE, Advanced.DONE, Advanced.WAITED_FOR)
"""By the numbers that the server answers."""
_WAITS: Final = ("eta", "expires", "redelivered")
"""Headers of what is not simply run."""


class RedisShortcut:
    """Implements `kernel.interfaces.shortcut.Shortcut`. Made by `RedisBroker.shortcut`. What is lent is the list of a
    claim; its number is in the token."""

    def __init__(self, server: RedisServer, layout: Layout, queues: Sequence[str], place: ends.Place) -> None:
        self._server = server
        self._layout = layout
        self._place = place
        lists = [key for name in queues for key in layout.lists(name)]
        self._looks = [layout.queue(queues[0]), len(lists), *lists]

    def finish(self, settlement: Settlement) -> Settled:
        consumer = self._claim(settlement)
        ((_, words),) = ends.finishes([settlement], self._place)
        (done,) = self._run(scripts.FINISH, consumer, *words, fits=answers.is_outcomes(1))
        return _SETTLED[done]

    def advance(
        self,
        settlement: Settlement,
        following: Publication,
        *,
        moves: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> Advanced:
        consumer = self._claim(settlement)
        key, number = settlement.delivery.key
        waits = following.due is not None or any(following.message.headers.get(name) for name in _WAITS)
        if waits or self._layout.list_of(following.queue, following.priority) != key:
            return Advanced.WAITED_FOR
        moved = envelope.encode(following.message, following.queue) if moves else b""
        words = [consumer, *self._looks, key, number, moved, *ends.record_words(settlement.records)]
        return _ADVANCED[self._run(scripts.ADVANCE, *words, fits=_is_advanced, meanwhile=meanwhile)]

    def _claim(self, settlement: Settlement) -> str:
        """The consumer whose claim it is. The delivery gets its key as the consumer has it."""
        delivery = settlement.delivery
        consumer, _, number = delivery.token.partition("-")
        if isinstance(delivery.key, str):
            delivery.key = delivery.key, int(number)
        return consumer

    def _run(
        self,
        script: Any,
        *words: object,
        fits: Callable[[Any], bool],
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        names = self._layout.prefix, self._layout.sep
        return self._server.script(script, *names, *words, fits=fits, meanwhile=meanwhile or _nothing)


def _nothing() -> None:
    """What there is to be done while the server is at work on an end that nothing follows."""


def _is_advanced(reply: Any) -> bool:
    return type(reply) is int and 0 <= reply < len(_ADVANCED)
