"""Delays on the ladder that Celery and kombu use: a queue for each power of two seconds, each letting its messages
go to the next one down when their time there is over, and a routing key whose digits say on which rungs to wait.

Seconds are as fine as that ladder goes; what is left of one is waited for before, in a queue for each tenth.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Final

from kernel_lib_amqp import ChannelClosed
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.faults import PRECONDITION_FAILED
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    MAX_LEVEL,
    MAX_NUMBER_OF_BITS_TO_USE,
    level_name,
)

from kernel_broker_amqp import names
from kernel_broker_amqp.admin import Admin

_STEP_MS: Final = 100
_LONGEST: Final = (1 << MAX_NUMBER_OF_BITS_TO_USE) - 1
_RESTS: Final = range(_STEP_MS, 1000, _STEP_MS)
_FRACTION: Final = "kernel_delayed_{}ms"
LADDER: Final = level_name(0)[:-1]
"""How the exchanges are called from which messages come off the ladder."""


class Delays:
    """The ladder of one virtual host. Usable from any thread."""

    def __init__(self, admin: Admin, queue_type: str) -> None:
        self._admin = admin
        self._type = queue_type
        self._lock = threading.Lock()
        self._ready = False
        self._bound: set[str] = set()

    def forget(self) -> None:
        """What was declared may be gone."""
        with self._lock:
            self._ready = False
            self._bound.clear()

    def address(self, queue: str, due: float) -> tuple[str, str]:
        """Exchange and routing key that bring a message to `queue` when it is due, or at once when that is past.

        Declares what is missing. A delay of more than 8 years is cut to that.
        """
        if due <= time.time():
            return "", queue
        self._declare(queue)
        # After what may have taken its time.
        left = max(0.0, due - time.time())
        steps = -int(-left * 1000 // _STEP_MS)
        seconds, rest = divmod(steps * _STEP_MS, 1000)
        digits = ".".join(f"{min(seconds, _LONGEST):0{MAX_NUMBER_OF_BITS_TO_USE}b}")
        exchange = _FRACTION.format(rest) if rest else level_name(MAX_LEVEL)
        return exchange, f"{digits}.{names.tail(queue)}"

    def _declare(self, queue: str) -> None:
        with self._lock:
            if not self._ready:
                self._admin.run(self._ladder)
                self._ready = True
            if queue not in self._bound:
                self._admin.run(
                    lambda channel: channel.bind_queue(queue, CELERY_DELAYED_DELIVERY_EXCHANGE, names.pattern(queue))
                )
                self._bound.add(queue)

    def _ladder(self, channel: Channel) -> None:
        channel.declare_exchange(CELERY_DELAYED_DELIVERY_EXCHANGE, "topic")
        for level in range(MAX_LEVEL + 1):
            self._rung(channel, level)
        for rest in _RESTS:
            _fraction(channel, rest)

    def _rung(self, channel: Channel, level: int) -> None:
        """From below, so that what a rung lets go always has where to go."""
        name = level_name(level)
        below = level_name(level - 1) if level else CELERY_DELAYED_DELIVERY_EXCHANGE
        arguments: dict[str, Any] = {
            "x-queue-type": self._type,
            "x-overflow": "reject-publish",
            "x-message-ttl": 1000 << level,
            "x-dead-letter-exchange": below,
        }
        if self._type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        channel.declare_exchange(name, "topic")
        try:
            channel.declare_queue(name, arguments=arguments)
        except ChannelClosed as exc:
            if exc.code != PRECONDITION_FAILED:
                raise
            # Somebody declared it with the other type of queue: it does the same.
            channel.reopen()
        skipped = "*." * (MAX_LEVEL - level)
        channel.bind_queue(name, name, f"{skipped}1.#")
        channel.bind_exchange(below, name, f"{skipped}0.#")

    def levels(self) -> list[str]:
        """Queues in which delayed messages wait, in the order in which they pass them."""
        return [_FRACTION.format(rest) for rest in _RESTS] + [level_name(level) for level in range(MAX_LEVEL, -1, -1)]


def _fraction(channel: Channel, rest: int) -> None:
    name = _FRACTION.format(rest)
    channel.declare_exchange(name, "fanout")
    channel.declare_queue(name, arguments={"x-message-ttl": rest, "x-dead-letter-exchange": level_name(MAX_LEVEL)})
    channel.bind_queue(name, name)


def belongs(routing_key: str, queue: str) -> bool:
    """Whether a message on the ladder is for this queue."""
    return routing_key[2 * MAX_NUMBER_OF_BITS_TO_USE :] == names.tail(queue)


def release(channel: Channel) -> None:
    """Give back what was only looked at."""
    with suppress(ChannelClosed):
        channel.close()
    channel.reopen()
