"""What a consumer has claimed and not settled, as it knows it itself."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from kernel import errors
from kernel.interfaces.broker import Delivery
from kernel_broker_redis import envelope

_REMEMBERED: Final = 10_000

Number = int


class Holdings:
    """Claims in hand, by number.

    A server may know less than was settled on it (a replica that lagged), or nothing at all (it was flushed). The
    first is seen by what it has and we have not, the second is mended by what we have and it has not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Number, Delivery] = {}
        # Of what was settled, what went back or was buried, by the newest. All others were done with.
        self._put_back: dict[Number, None] = {}
        self._unknown = 0
        """Up to this number it is not known how a claim ended."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, deliveries: Mapping[Number, Delivery]) -> None:
        self._held.update(deliveries)

    def acknowledged(self, numbers: Iterable[Number]) -> None:
        """They are done with."""
        held = self._held
        for number in numbers:
            held.pop(number, None)

    def put_back(self, number: Number) -> None:
        """It went back into its queue, or is a dead letter. Any thread."""
        with self._lock:
            self._held.pop(number, None)
            self._put_back[number] = None
            while len(self._put_back) > _REMEMBERED:
                oldest = next(iter(self._put_back))
                del self._put_back[oldest]
                self._unknown = max(self._unknown, oldest)

    def void(self, last: Number) -> None:
        """Claims up to this number are no longer ours."""
        for number in [each for each in list(self._held) if each <= last]:
            self._held.pop(number, None)
        self._unknown = max(self._unknown, last)

    def strays(self, found: Iterable[Number]) -> Iterator[tuple[Number, bool]]:
        """Of the claims that the server counts as ours, those that we settled, and whether they were done with."""
        for number in found:
            if number not in self._held:
                yield number, number > self._unknown and number not in self._put_back

    def restorable(self) -> list[list[object]]:
        """For each claim its list, number, starts (-1: never seen) and envelope."""
        words: list[list[object]] = []
        for delivery in list(self._held.values()):
            raw = _envelope(delivery)
            if raw is not None:
                words.append([*delivery.key, delivery.starts if delivery.seen else -1, raw])
        return words


def _envelope(delivery: Delivery) -> bytes | None:
    message = delivery.message
    if message.content_type == envelope.UNREADABLE:
        return message.body
    try:
        return envelope.encode(message, delivery.queue)
    except errors.InvalidTaskError:
        return None  # no list could hold it
