"""What ended here and the server may not know of: its connection went before the acknowledgement, or with it.

Such a message comes again. Whoever ended it can tell that it is over, and acknowledges it without running it.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Final

from kernel_broker_amqp.line import Claim

_RECENT: Final = 512
_RECENT_SECONDS: Final = 5.0
"""An acknowledgement that was sent so long before the connection was lost has arrived."""
_LARGEST: Final = 16 * 1024
"""Of a body that is kept for the case that its acknowledgement was lost."""
_KNOWN: Final = 5000
_KNOWN_SECONDS: Final = 60.0
"""After a new connection: what comes again comes first."""


class Ended:
    """Of one consumer, used under its lock. Forgets the oldest when it is full: they run again, as without it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Sequence[Claim]]] = deque()
        self._count = 0
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._until = 0.0

    def acked(self, claims: Sequence[Claim]) -> None:
        """The acknowledgements of these are on their way."""
        if not claims:
            return
        now = time.monotonic()
        recent = self._recent
        recent.append((now, claims))
        self._count += len(claims)
        while recent and (self._count > _RECENT or now - recent[0][0] > _RECENT_SECONDS):
            self._count -= len(recent.popleft()[1])

    def refused(self, claim: Claim) -> None:
        """It ended, and its connection is gone."""
        if not claim.done:
            claim.done = True
            self._know(claim)

    def lost(self, unsettled: Iterable[Claim]) -> None:
        """The connection is gone: what was sent last may not have arrived. `unsettled` has not ended yet."""
        oldest = time.monotonic() - _RECENT_SECONDS
        for at, claims in self._recent:
            for claim in claims if at >= oldest else ():
                if len(claim.body) <= _LARGEST:
                    self._know(claim)
        self._recent.clear()
        self._count = 0
        if self._known:
            for claim in unsettled:
                # Published twice in the same words: which of them comes again cannot be told, so it runs.
                if not claim.done:
                    self._known.pop(_key(claim), None)

    def connected(self) -> None:
        self._until = time.monotonic() + _KNOWN_SECONDS

    def has(self, claim: Claim) -> bool:
        """Whether this delivery is of what ended here; said once for each end."""
        if not self._known or not claim.redelivered:
            return False
        if time.monotonic() > self._until:
            self._known.clear()
            return False
        key = _key(claim)
        count = self._known.pop(key, 0)
        if count > 1:
            self._known[key] = count - 1
        return count > 0

    def _know(self, claim: Claim) -> None:
        self._until = max(self._until, time.monotonic() + _KNOWN_SECONDS)
        key = _key(claim)
        self._known[key] = self._known.get(key, 0) + 1
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)


def _key(claim: Claim) -> bytes:
    """The same for each delivery of one message, and for no other one of another attempt."""
    message = claim.read()
    found = hashlib.blake2b(claim.tap.queue.encode(), digest_size=16)
    try:
        # The server counts deliveries in headers of its own.
        headers = {name: value for name, value in message.headers.items() if not name.startswith("x-")}
        found.update(repr((headers, message.properties)).encode(errors="replace"))
    except Exception:  # unreadable: the same bytes are the same message
        found.update(claim.head)
    found.update(claim.body)
    return found.digest()
