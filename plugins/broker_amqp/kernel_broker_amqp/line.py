"""One channel's deliveries: what came over it and is not settled, and the credit of each queue.

A line is thrown away as a whole when its connection or channel ends: what it delivered cannot be settled any more.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Final

from kernel_lib_amqp import Wire, frames
from kernel_lib_amqp.channel import Channel

from kernel import errors
from kernel.message import Message
from kernel_broker_amqp.delays import LADDER
from kernel_broker_amqp.envelope import AmqpMessage, due_of, state_of
from kernel_broker_amqp.reader import Reader

_NACK_REQUEUE: Final = 2
_RATE_SECONDS: Final = 0.05
_DENSE: Final = 1000.0
"""Messages a second from which on a few are kept ahead."""
_AHEAD_SECONDS: Final = 0.01


class Claim:
    """A delivered message, buffered or handed out. `at` is when this delivery was made (monotonic), and `args` what
    the server said of it."""

    __slots__ = ("args", "at", "body", "done", "head", "line", "message", "moved", "pipe", "recorded", "redelivered",
                 "starts", "tag", "tap")  # fmt: skip

    def __init__(
        self, line: Line, tap: Tap, pipe: Pipe, tag: int, args: bytes, head: bytes, body: bytes, at: float
    ) -> None:
        self.line = line
        self.tap = tap
        self.pipe: Pipe | None = pipe
        self.tag = tag
        self.args = args
        self.redelivered = args[args[0] + 9] != 0
        self.head = head
        self.body = body
        self.at = at
        self.message: Message | None = None
        self.starts = 0
        self.recorded = False
        self.moved = False
        self.done = False

    def read(self) -> Message:
        if self.message is None:
            # Of one that went through an exchange the headers will say so, and they are no more those of its kind.
            came_directly = not self.args[self.args[0] + 10]
            make = self.line.reader.read if came_directly else AmqpMessage
            self.message = make(self.head, self.body)
        return self.message

    def address(self) -> None:
        """Note in the headers to which exchange it was sent, by a producer that does not say so itself."""
        at = self.args[0] + 10
        if not self.args[at]:
            return
        exchange, at = frames.read_short(self.args, at)
        # What cannot be read has no headers to note it in.
        with contextlib.suppress(errors.InvalidTaskError):
            headers = self.read().headers
            if not exchange.startswith(LADDER) and "kernel_exchange" not in headers:
                headers.update(kernel_exchange=exchange, kernel_routing_key=frames.read_short(self.args, at)[0])

    def is_early(self, now: float) -> bool:
        """Whether its time is still ahead. Of what waited on the ladder, or was claimed before, the server's clock
        has said that it is not, whatever the clocks of this machine and of its sender say."""
        due = due_of(self.read())
        if due <= now:
            return False
        exchange, _ = frames.read_short(self.args, self.args[0] + 10)
        return not exchange.startswith(LADDER) and "starts" not in state_of(self.read())


class Pipe:
    """A consumer on the server, with the prefetch that it was made with."""

    __slots__ = ("given_up", "name", "outstanding", "prefetch", "tap")

    def __init__(self, tap: Tap, name: bytes, prefetch: int) -> None:
        self.tap = tap
        self.name = name
        self.prefetch = prefetch
        self.outstanding = 0
        self.given_up = False
        """What still comes of it goes back."""


class Tap:
    """A queue on a line: its consumers on the server, and what came and was not handed out."""

    __slots__ = ("_counted", "_rate", "_since", "buffer", "crowded_since", "gone", "paused", "pipes", "queue", "size")

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.pipes: list[Pipe] = []
        self.buffer: deque[Claim] = deque()
        self.paused = False
        self.gone = False
        self.size = 0.0
        """Of a message, as the last ones were."""
        self.crowded_since: float | None = None
        self._counted = 0
        self._since = 0.0
        self._rate = 0.0

    def handed_out(self, count: int) -> None:
        self._counted += count

    def ahead(self, now: float) -> int:
        """How many to have here before they are asked for: while thousands are handed out each second, who asks shall
        not wait until the server has heard of the last acknowledgements. `now` is monotonic."""
        passed = now - self._since
        if passed >= _RATE_SECONDS:
            self._rate = self._counted / passed
            self._counted, self._since = 0, now
        return int(self._rate * _AHEAD_SECONDS) if self._rate >= _DENSE else 0

    @property
    def room(self) -> int:
        """How many more the server may send."""
        return sum(pipe.prefetch - pipe.outstanding for pipe in self.pipes)


class Line:
    """A connection's one channel, and what is unsettled on it, by tag and in the order of tags. `number` tells it from
    the consumer's others."""

    def __init__(self, wire: Wire, queues: Sequence[str], *, number: int = 1) -> None:
        self.wire = wire
        self.number = number
        self.channel = Channel(wire)
        self.taps = {queue: Tap(queue) for queue in queues}
        self.pipes: dict[bytes, Pipe] = {}
        self.unsettled: dict[int, Claim] = {}
        self.reader = Reader()
        self.moves: dict[str, Claim] = {}
        self.holds: set[str] = set()
        self.lapsed = False
        """Whether its lease ran out: what was claimed on it may have other owners since."""
        self._count = 0

    @property
    def alive(self) -> bool:
        return self.wire.lost is None

    # --- credit -------------------------------------------------------------------------------------------------

    def widen(self, tap: Tap, prefetch: int) -> None:
        """One more consumer on this queue; nobody waits for the server's word."""
        self._count += 1
        pipe = Pipe(tap, b"k%d" % self._count, prefetch)
        tap.pipes.append(pipe)
        self.pipes[pipe.name] = pipe
        self.wire.send(consume_frames(self.channel.number, tap.queue, pipe.name, prefetch))

    def stop(self, tap: Tap) -> None:
        """End its consumers. What came of them, or is under way, stays and is handed out."""
        for pipe in tap.pipes:
            self.wire.send(
                frames.method(self.channel.number, frames.BASIC_CANCEL, bytes((len(pipe.name),)) + pipe.name + b"\0")
            )
        tap.pipes.clear()
        tap.crowded_since = None

    def narrow(self, tap: Tap) -> None:
        """End its consumers and give back what was not handed out. Who gets it next, we ourselves perhaps, has to
        take it for a task that was begun: to be done only where others shall have it."""
        self.stop(tap)
        for pipe in self.pipes.values():
            pipe.given_up = pipe.given_up or pipe.tap is tap
        back = list(tap.buffer)
        tap.buffer.clear()
        self.settle([], back)

    # --- ends ---------------------------------------------------------------------------------------------------

    def settle(self, acked: Sequence[Claim], returned: Sequence[Claim]) -> None:
        """Acknowledge some and give others back to where they were. `multiple` reaches as far as all is settled."""
        number, unsettled = self.channel.number, self.unsettled
        parts: list[bytes] = []
        for claim in returned:
            self._forget(claim)
            parts.append(frames.settle(number, frames.BASIC_NACK, claim.tag, _NACK_REQUEUE))
        for claim in acked:
            self._forget(claim)
        if acked:
            lowest = next(iter(unsettled), None)
            tags = sorted(claim.tag for claim in acked)
            through = 0
            for tag in tags:
                if lowest is not None and tag > lowest:
                    break
                through = tag
            if through:
                parts.append(frames.settle(number, frames.BASIC_ACK, through, 1))
            parts += [frames.settle(number, frames.BASIC_ACK, tag, 0) for tag in tags if tag > through]
        if parts:
            self.wire.send(b"".join(parts))

    def _forget(self, claim: Claim) -> None:
        claim.done = True
        del self.unsettled[claim.tag]
        if claim.pipe is not None:
            claim.pipe.outstanding -= 1

    def moved(self, claim: Claim, tag: int, at: float) -> None:
        """A copy of the claim has come: it takes the claim's place, and the old delivery is done with."""
        del self.unsettled[claim.tag]
        if claim.pipe is not None:
            claim.pipe.outstanding -= 1
            claim.pipe = None
        old, claim.tag, claim.at, claim.moved = claim.tag, tag, at, True
        self.unsettled[tag] = claim
        self.wire.send(frames.settle(self.channel.number, frames.BASIC_ACK, old, 0))

    def drop(self, tag: int, *, to_queue: bool) -> None:
        """A copy that nobody needs, or (`to_queue`) one that the work queue gets back through its holding queue."""
        method = frames.BASIC_NACK if to_queue else frames.BASIC_ACK
        self.wire.send(frames.settle(self.channel.number, method, tag, 0))


def consume_frames(channel: int, queue: str, name: bytes, prefetch: int) -> bytes:
    qos = frames.method(channel, frames.BASIC_QOS, b"\0\0\0\0" + min(prefetch, 0xFFFF).to_bytes(2, "big") + b"\0")
    args = b"".join((b"\0\0", frames.short(queue), bytes((len(name),)), name, b"\0", b"\0\0\0\0"))
    return qos + frames.method(channel, frames.BASIC_CONSUME, args)
