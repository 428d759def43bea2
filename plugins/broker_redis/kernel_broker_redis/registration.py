"""What a server knows of a consumer: its lease, and what it holds. A server may forget either, and is told again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from kernel import errors
from kernel_broker_redis import answers, scripts
from kernel_broker_redis.holdings import Holdings
from kernel_broker_redis.owner import Owner

_log = logging.getLogger("kernel.redis")

_RESTORED_AT_ONCE: Final = 100
_FORGOTTEN: Final = 2
"""How a server tells that it began with nothing since we last heard of it."""


class Registration:
    """Of a consumer of these lists. `held` is what it holds, and `void` is called when that is no longer its own.

    `settling` is held by whoever settles, and by whoever tells a server again what is held.
    """

    def __init__(self, owner: Owner, lists: Sequence[str], held: Holdings, *, void: Callable[[], None]) -> None:
        self._owner = owner
        self._lists = lists
        self._held = held
        self._void = void
        self.settling = threading.Lock()
        self.epoch = b""
        """By which a server knows that it has not forgotten."""
        self._until = 0.0
        self._is_forgotten = False
        self._is_lost = False
        self._compared = 0

    def renew(self, claims: int) -> bool:
        """Renew the lease; whether what was claimed, up to the claim of this number, is ours still."""
        kept = self._ask(claims)
        # Whoever settles now does it himself.
        if self._is_forgotten and self.settling.acquire(blocking=False):
            try:
                with suppress(errors.OperationalError):
                    self._restore()
            finally:
                self.settling.release()
        # A claim may have found before that the lease was lost.
        kept, self._is_lost = kept and not self._is_lost, False
        return kept

    def _ask(self, claims: int) -> bool:
        asked = time.monotonic()
        known = self.epoch
        how, self.epoch = self._owner.run(
            scripts.RENEW, self._owner.name, self._owner.lease, claims, known, *self._lists, fits=answers.is_lease
        )
        if not how and self.epoch != known:
            # A claim of ours came first, and its answer has not been read.
            how = _FORGOTTEN
        kept = not how or self.made_again(how, claims)
        self._until = asked + self._owner.seconds
        return kept

    def made_again(self, how: int, claims: int) -> bool:
        """The server did not know us. Whether what we have up to this claim is ours still: what a server has forgotten
        while our lease held can be nobody else's."""
        if how == _FORGOTTEN and time.monotonic() < self._until:
            self._is_forgotten = True
            return True
        self._is_lost, self._is_forgotten = True, False
        self._held.void(claims)
        self._void()
        return False

    def was_forgotten(self, claims: int) -> bool:
        """Ask whether the server has forgotten what we hold; if so, tell it again. For whoever has `settling`."""
        if not self._is_forgotten:
            self._ask(claims)
        return self._is_forgotten and self._restore()

    def _restore(self) -> bool:
        """Tell the server again what we hold; False when it has forgotten us once more."""
        claims = self._held.restorable()
        for begin in range(0, len(claims), _RESTORED_AT_ONCE):
            words = [word for claim in claims[begin : begin + _RESTORED_AT_ONCE] for word in claim]
            if not self._owner.run(scripts.RESTORE, *words, fits=answers.is_number):
                return False
        self._is_forgotten = False
        _log.warning("%s has lost all it had; it was told again of %d claims", self._owner.server.shown, len(claims))
        return True

    def mend(self, is_sure: Callable[[int], bool]) -> None:
        """Before anything is claimed: what the server knows of us, and we of it, is made the same. `is_sure` tells of a
        claim whether we have heard of it, if it was made."""
        with self.settling:
            if self._is_forgotten:
                self._restore()
            connected = self._owner.server.connected
            if connected != self._compared:
                # Who answers now may be another, and know less.
                self._compare(is_sure)
                self._compared = self._owner.server.connected

    def _compare(self, is_sure: Callable[[int], bool]) -> None:
        """Settle again what a server holds for us though we settled it: a replica that had not heard of it."""
        found = self._owner.run(scripts.HELD, *self._lists, fits=answers.is_numbers(len(self._lists)))
        words: list[object] = []
        for key, numbers in zip(self._lists, found, strict=True):
            # Claims that nobody heard of are given back by the next one.
            sure = [number for number in map(int, numbers) if is_sure(number)]
            # The oldest is put back last, as always.
            for number, done_with in self._held.strays(sorted(sure, reverse=True)):
                words += [key, number, "a" if done_with else "r", 0, 0, ""]
        if words:
            count = len(words) // 6
            shown = self._owner.server.shown
            _log.warning("%s had not heard of %d settlements; they are made again", shown, count)
            self._owner.run(scripts.END, *words, fits=answers.is_outcomes(count))
