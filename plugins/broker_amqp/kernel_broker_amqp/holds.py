"""Holding queues: where a copy of a claimed message stands in for it.

A copy is confirmed into a queue of this consumer's, which the consumer reads at once: while the consumer lives the
copy is its claim. When it dies, the copy's time is over, and the dead-letter exchange brings it to its queue.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from kernel_lib_amqp import frames, properties

from kernel import errors
from kernel_broker_amqp import names
from kernel_broker_amqp.envelope import restated, state
from kernel_broker_amqp.line import Claim, Line, consume_frames
from kernel_broker_amqp.shared import Shared

HOLD: Final = b"hold"
"""With a number behind it: the names of consumers of holding queues."""
_TTL_MS: Final = 1000
"""Within this the consumer must have got a copy; on its death that time is long over."""
_UNUSED_MS: Final = 24 * 3600 * 1000


class Holds:
    """Those of one consumer. Used under its lock."""

    def __init__(self, shared: Shared, consumer: str) -> None:
        self._shared = shared
        self._id = consumer

    def send(self, line: Line, claims: Sequence[Claim], *, start: bool) -> list[str]:
        """Confirmed copies of these claims; the names by which their coming is known."""
        wanted: list[str] = []
        parcels = []
        for claim in claims:
            queue = self._declared(line, claim.tap.queue)
            name = uuid.uuid4().hex
            known: dict[str, Any] = {"starts": claim.starts + (start or claim.recorded), "move": name}
            if start:
                known["start"] = True
            parcels.append((frames.address("", queue, mandatory=True), restated(claim.read(), known), claim.body))
            line.moves[name] = claim
            wanted.append(name)
        self._shared.store(parcels)
        return wanted

    def _declared(self, line: Line, queue: str) -> str:
        name = names.hold(self._id, queue)
        if name not in line.holds:
            arguments = {
                "x-message-ttl": _TTL_MS,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": queue,
                "x-expires": _UNUSED_MS,
            }
            self._shared.admin.run(lambda channel: channel.declare_queue(name, arguments=arguments))
            line.wire.send(consume_frames(line.channel.number, name, HOLD + b"%d" % len(line.holds), 0))
            line.holds.add(name)
        return name

    def is_here(self, line: Line, name: str) -> bool:
        return name not in line.moves

    def arrived(self, line: Line, tag: int, head: bytes) -> None:
        """A copy was delivered."""
        known = state(properties.split(head)[2])
        claim = line.moves.pop(str(known.get("move")), None)
        if claim is None:
            # Of an earlier line of ours: its claim is nobody's now.
            line.drop(tag, to_queue=True)
        elif claim.done or (known.get("start") and claim.recorded):
            line.drop(tag, to_queue=False)
        else:
            line.moved(claim, tag, time.monotonic())
            claim.recorded = claim.recorded or bool(known.get("start"))

    def delete(self, line: Line) -> None:
        with suppress(errors.OperationalError):
            for name in line.holds:
                line.channel.delete_queue(name, if_empty=True)
