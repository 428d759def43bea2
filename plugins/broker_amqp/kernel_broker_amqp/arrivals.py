"""What the server sends over a consumer's line, sorted: messages, copies, words about its queues."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from kernel_lib_amqp import frames
from kernel_lib_amqp.frames import Frame

from kernel_broker_amqp.holds import HOLD, Holds
from kernel_broker_amqp.line import Claim, Line, Tap

PAUSES: Final = b"pauses"
"""The name of the consumer that hears of queues that are paused."""
_tag = struct.Struct(">Q").unpack_from


class Arrivals:
    """Of one consumer. Used under its lock."""

    def __init__(self, holds: Holds) -> None:
        self._holds = holds

    def sort(self, line: Line, found: Sequence[Frame]) -> None:
        """Raises `OperationalError` where the server has closed the channel."""
        now = time.monotonic()
        pipes, unsettled = line.pipes, line.unsettled
        for _, method, args, head, body in found:
            if method == frames.BASIC_DELIVER:
                end = 1 + args[0]
                pipe = pipes.get(args[1:end])
                tag = _tag(args, end)[0]
                if pipe is None:
                    self._special(line, args[1:end], tag, head, body)
                    continue
                claim = Claim(line, pipe.tap, pipe, tag, args, head, body, now)
                unsettled[tag] = claim
                pipe.outstanding += 1
                if pipe.given_up:
                    line.settle([], [claim])
                else:
                    pipe.tap.buffer.append(claim)
            elif method == frames.BASIC_CANCEL_OK:
                # After this nothing comes of it any more.
                pipes.pop(args[1 : 1 + args[0]], None)
            elif method == frames.BASIC_CANCEL:
                _cancelled(line, frames.read_short(args, 0)[0].encode())
            elif method == frames.CHANNEL_CLOSE:
                line.wire.sever("the server closed the channel")
                line.wire.check(line.channel.number)

    def _special(self, line: Line, name: bytes, tag: int, head: bytes, body: bytes) -> None:
        if name.startswith(HOLD):
            self._holds.arrived(line, tag, head)
        elif name == PAUSES:
            line.drop(tag, to_queue=False)
            with suppress(ValueError, KeyError, TypeError):
                notice = json.loads(body)
                _pause(line, line.taps[notice["queue"]], paused=bool(notice["paused"]))


def _pause(line: Line, tap: Tap, *, paused: bool) -> None:
    if tap.paused != paused:
        tap.paused = paused
        if paused:
            line.narrow(tap)


def _cancelled(line: Line, name: bytes) -> None:
    """The server ended a consumer: its queue was deleted. What was delivered from it is ours still."""
    pipe = line.pipes.get(name)
    if pipe is not None and pipe in pipe.tap.pipes:
        pipe.tap.pipes.remove(pipe)
        pipe.tap.gone = True
