"""A listener that looks, too: what stands under the key that a channel is named after, then what is announced."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from hiredis import PushNotification

from kernel import errors
from kernel_lib_redis.faults import fault, unfitting
from kernel_lib_redis.link import Command, Link
from kernel_lib_redis.listener import Event, Listener
from kernel_lib_redis.server import RedisServer

_log = logging.getLogger("kernel.redis")

_FEW: Final = 8
_BATCH: Final = 500
_LINGERING: Final = 10_000
_LEFT: Final = 100
"""Channels that are left with other words."""


class Lookout(Listener):
    """Tells of a channel that was added what its key holds, if anything, and what is published there, in this order.

    A few channels are looked up on the listening connection itself, in the words that subscribe to them: that takes the
    third version of the protocol. Many, all those of a new connection, and all of a server that speaks only the second,
    are looked up over another one, by `read` alone: a server drops who listens and has too much to read. `hear` tells
    nothing then, and `is_well` says so.

    Channels that were discarded, where mostly nothing is announced any more, are left with the next words that go out,
    or by `sweep`, or when there are too many.
    """

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server)
        self._speaks = False
        # For each answer that is no push what it answers: some keys, or nothing of interest.
        self._asked_for: deque[Sequence[bytes]] = deque()
        self._unsure: set[bytes] = set()
        """Channels that are looked up when the server says that it listens for us."""
        self._due: list[bytes] = []
        self._kept: list[Event] = []
        self._lingering: dict[bytes, None] = {}

    @property
    def is_well(self) -> bool:
        """Whether `hear` tells of everything that comes."""
        return self._speaks and not self.is_cut and not self._unsure and not self._due

    def add(self, channels: Sequence[bytes]) -> None:
        """Subscribe and look; also to what it listens to already."""
        with self._lock:
            for channel in channels:
                self._channels[channel] = None
                self._lingering.pop(channel, None)
            link = self._link
            if link is None or not self._speaks or len(channels) > _FEW:
                self._unsure.update(channels)
                self._tell("SUBSCRIBE", channels)
            elif channels:
                self._asked_for.append(channels)
                # A link that breaks here is found broken by who reads.
                with contextlib.suppress(errors.OperationalError):
                    link.send([*self._left(), ("SUBSCRIBE", *channels), ("MGET", *channels)])

    def discard(self, channels: Sequence[bytes]) -> None:
        with self._lock:
            for channel in channels:
                self._channels.pop(channel, None)
                self._unsure.discard(channel)
                self._lingering[channel] = None
            many = len(self._lingering) > _LINGERING
        if many:
            self.sweep()

    def sweep(self) -> None:
        """Leave what was discarded."""
        with self._lock:
            gone, self._lingering = list(self._lingering), {}
            if gone:
                self._tell("UNSUBSCRIBE", gone)

    def _left(self) -> list[Command]:
        gone = [*islice(self._lingering, _LEFT)]
        for channel in gone:
            del self._lingering[channel]
        return [("UNSUBSCRIBE", *gone)] if gone else []

    def read(self, timeout: float, beside: Link | None = None) -> list[Event]:
        events = super().read(0.0 if self._due else timeout, beside)
        if not self._due:
            return events
        self._kept += events
        found = self._look(self._due)
        told, self._kept, self._due = found + self._kept, [], []
        return told

    def _look(self, channels: Sequence[bytes]) -> list[Event]:
        found: list[Event] = []
        for start in range(0, len(channels), _BATCH):
            part = channels[start : start + _BATCH]
            found += _standing(part, self._server.call("MGET", *part))
        return found

    def _receive(self, link: Link) -> list[Event]:
        events = super()._receive(link)
        if self._unsure:
            with self._lock:
                heard = self._unsure.intersection(event.channel for event in events if event.kind == "subscribe")
                self._unsure -= heard
            self._due += heard
        if self._due:
            # What stands is told before what was announced since.
            self._kept += events
            return []
        return events

    def _take(self, reply: Any, events: list[Event]) -> None:
        if isinstance(reply, PushNotification) or not self._speaks:
            super()._take(reply, events)
            return
        asked = self._asked_for.popleft() if self._asked_for else ()
        if isinstance(reply, BaseException):
            why = fault(reply, self._server.shown)
            _log.warning("waiting for results, but %s", why)
            raise why
        if asked and not (isinstance(reply, list) and len(reply) == len(asked)):
            raise unfitting(reply, self._server.shown)
        if asked:
            events += _standing(asked, reply)

    def _ask(self, link: Link) -> None:
        if self._speaks:
            self._asked_for.append(())
        super()._ask(link)

    def _greet(self, link: Link) -> None:
        (reply,) = link.pipeline([("HELLO", 3)])
        with self._lock:
            # Nothing is sent over the one before any more.
            self._link = None
            self._speaks = isinstance(reply, dict)
            self._asked_for.clear()
            self._lingering.clear()
            self._unsure = set(self._channels)
            self._due, self._kept = [], []


def _standing(channels: Sequence[bytes], found: Sequence[bytes | None]) -> list[Event]:
    return [Event("message", channel, raw) for channel, raw in zip(channels, found, strict=True) if raw is not None]
