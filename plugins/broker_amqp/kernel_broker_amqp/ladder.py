"""Looking through the ladder of delays, whose queues are shared: whose messages wait there, and taking them away.

A message that was looked at goes back to its place, and shows no trace of it: the rung lets it go as a new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kernel_lib_amqp import ChannelClosed
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.faults import NOT_FOUND

from kernel_broker_amqp.admin import Admin
from kernel_broker_amqp.delays import Delays, belongs, release

_AT_ONCE: Final = 500


class Ladder:
    """What waits on it."""

    def __init__(self, admin: Admin, delays: Delays) -> None:
        self._admin = admin
        self._delays = delays

    def counts(self, queues: list[str]) -> dict[str, int]:
        """Delayed messages of these queues."""
        found = dict.fromkeys(queues, 0)
        for level in self._busy():
            with self._admin.channel() as channel:
                for _, key in _look(channel, level):
                    for queue in queues:
                        found[queue] += belongs(key, queue)
                release(channel)
        return found

    def purge(self, queue: str) -> int:
        count = 0
        for level in self._busy():
            with self._admin.channel() as channel:
                for tag, key in _look(channel, level):
                    if belongs(key, queue):
                        channel.ack(tag)
                        count += 1
                release(channel)
        return count

    def _busy(self) -> Iterator[str]:
        """Rungs on which something waits; none before there is a ladder."""
        levels = self._delays.levels()
        if self._admin.depth(levels[0]) is not None:
            for level in levels:
                depth = self._admin.depth(level)
                if depth is not None and depth[0] > 0:
                    yield level


def _look(channel: Channel, level: str) -> list[tuple[int, str]]:
    """Tag and routing key of each message of a rung, all unsettled."""
    found: list[tuple[int, str]] = []
    try:
        while True:
            part = channel.get_many(level, _AT_ONCE)
            found += [(each.tag, each.routing_key) for each in part]
            if len(part) < _AT_ONCE:
                return found
    except ChannelClosed as exc:
        if exc.code != NOT_FOUND:
            raise
        channel.reopen()
        return []
