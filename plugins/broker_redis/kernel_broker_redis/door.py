"""Waiting at one list, where a push by anybody ends the wait at once."""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import Any, Final

from kernel_lib_redis import Link, RedisServer, Script
from redis import exceptions

from kernel import errors

_REST: Final = 1.0
_MOMENT: Final = 0.001


class Door:
    """A connection that moves the first message of a list aside as soon as there is one, and claims right behind.

    Both commands are on the server before the message is, so nothing travels between them. What was moved lies in a
    list of the consumer's own, where the claim finds it, or the next claim, or whoever takes over a dead consumer.
    The server is told how long to wait: with a bound on both sides, silence is told from idleness.
    For one thread, save for `close`. Every method may raise `OperationalError`; then `drop` it.
    """

    def __init__(self, server: RedisServer, source: str, aside: str) -> None:
        self._server = server
        self._source = source
        self._aside = aside
        self._link: Link | None = None
        self._id = 0
        self._overdue: float | None = None
        self._rests_until = 0.0
        self._closed = False

    @property
    def waits(self) -> bool:
        """Whether the two commands are on the server."""
        return self._overdue is not None

    @property
    def rests(self) -> bool:
        """Whether the server refused to wait a moment ago."""
        return time.monotonic() < self._rests_until

    @property
    def link(self) -> Link | None:
        """What becomes readable when the wait is over."""
        return self._link if self.waits else None

    @property
    def left(self) -> float:
        """Seconds until an answer is overdue."""
        return 0.0 if self._overdue is None else max(0.0, self._overdue - time.monotonic())

    def wait(self, seconds: float, script: Script, *words: object) -> None:
        """Begin to wait, for at most so many seconds; `script` claims afterwards in any case."""
        link = self._link
        if link is None or link.broken:
            link = self._connect()
        move = ("BLMOVE", self._source, self._aside, "RIGHT", "LEFT", f"{max(0.001, seconds):.3f}")
        self._overdue = time.monotonic() + seconds + self._server.timeout
        link.send([move, script.by_digest(link.keys, words)])

    def _connect(self) -> Link:
        link = self._server.connect()
        if self._closed:
            link.close()
            raise errors.OperationalError("the consumer is closed")
        self._link = link
        self._id = int(link.call("CLIENT", "ID"))
        return link

    def ready(self) -> bool:
        """Whether there is an answer. Raises `OperationalError` when there should have been one for long."""
        link = self._link
        if link is None or self._overdue is None:
            return False
        if link.readable():
            return True
        if time.monotonic() > self._overdue:
            link.close()
            raise errors.OperationalError(f"{link.shown} has not answered a fetch for {self._server.timeout:g} s")
        return False

    def answer(self) -> Any:
        """What the script answered; None when it has to be run again."""
        link = self._link
        if link is None or self._overdue is None:
            return None
        found = [_answer(link), _answer(link)]
        self._overdue = None
        if isinstance(found[0], exceptions.ResponseError):
            # It is full, or is not the one to write to any more: not asked again at once.
            self._rests_until = time.monotonic() + _REST
            link.close()
        return None if isinstance(found[1], exceptions.ResponseError) else found[1]

    def leave(self) -> Any:
        """End the wait, if there is one; as `answer`."""
        if self._overdue is None:
            return None
        while not self.ready():
            if self._server.call("CLIENT", "UNBLOCK", self._id):
                break
            # It has begun to answer, or not yet to wait: asked over another connection, the server may be ahead.
            self._pause()
        return self.answer()

    def _pause(self) -> None:
        """Until something can be read, or for a moment."""
        if self._link is not None:
            select.select([self._link], [], [], _MOMENT)

    def drop(self) -> None:
        """Throw the connection away; what it moved aside is found by the next claim."""
        self._overdue = None
        if self._link is not None:
            self._link.close()

    def close(self) -> None:
        """From any thread."""
        self._closed = True
        link = self._link
        if link is not None:
            with suppress(errors.OperationalError):
                link.close()


def _answer(link: Link) -> Any:
    try:
        return link.receive()
    except exceptions.ResponseError as exc:
        return link.refused(exc)
