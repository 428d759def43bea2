"""Publishing: batches written in one go, confirms awaited in bulk."""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from kernel_lib_amqp import AmqpServer, Blocked, ChannelClosed, ConnectionLost, frames
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.frames import Frame

from kernel import errors
from kernel.interfaces.broker import STORED, PublishOutcome, PublishState

_log = logging.getLogger("kernel.amqp")

_KEPT: Final = 8
"""Connections that are kept for the next call; more are made while that many are in use."""
_BYTES_AT_ONCE: Final = 64 * 1024
_tag = struct.Struct(">Q").unpack_from
_code = struct.Struct(">H").unpack_from

Parcel = tuple[bytes, bytes, bytes]
"""Address, content header, body."""


class Publisher:
    """A connection with one channel in confirm mode, for one thread at a time."""

    def __init__(self, server: AmqpServer, *, confirms: bool) -> None:
        self._confirms = confirms
        self.wire = server.connect(role="publisher")
        try:
            self._channel = Channel(self.wire)
            self._sent = 0
            if confirms:
                self._channel.confirm_select()
        except BaseException:
            self.wire.close()
            raise

    @property
    def usable(self) -> bool:
        """Whether the connection stands, as far as can be seen without asking."""
        with suppress(errors.OperationalError):
            while found := self.wire.read(0):
                # With confirms every return was met in its batch; without, this is where they are heard of.
                if not self._confirms and (lost := sum(frame[1] == frames.BASIC_RETURN for frame in found)):
                    _log.warning("%s: no queue took %d messages; they are lost", self.wire.shown, lost)
            self.wire.check(self._channel.number)
            return self.wire.lost is None
        return False

    def publish(self, parcels: Iterable[Parcel], timeout: float) -> list[PublishOutcome]:
        """One outcome for each. Raises `Blocked` when the server takes nothing, before anything is sent.

        The parcels are asked for while the first ones are under way already.
        """
        self.wire.refuse_blocked(timeout)
        parcels = iter(parcels)
        batch = _Batch(self._sent)
        try:
            self._send(parcels, batch)
            if not self._confirms:
                return [STORED] * len(batch.parcels)
            self._await(batch, timeout)
        except ChannelClosed as exc:
            batch.add_all(parcels)
            return self._one_by_one(batch, exc, timeout)
        except errors.OperationalError as exc:
            self.wire.sever(str(exc))
            batch.add_all(parcels)
            return batch.outcomes(str(exc))
        if batch.left:
            why = self.wire.blocked and f"; {self.wire.shown} takes no messages: {self.wire.blocked}"
            # A confirm that comes late would be counted for another message.
            self.wire.sever("a confirm is missing")
            return batch.outcomes(f"no confirm within {timeout:g} s{why}")
        return batch.outcomes("")

    def _send(self, parcels: Iterable[Parcel], batch: _Batch) -> None:
        most, number = self.wire.frame_max, self._channel.number
        parts: list[bytes] = []
        size = 0
        for parcel in parcels:
            batch.add(parcel)
            self._sent += 1
            address, head, body = parcel
            parts += frames.publish(number, address, head, body, most)
            size += len(body) + len(head)
            if size > _BYTES_AT_ONCE:
                self.wire.send(b"".join(parts))
                parts, size = [], 0
                self._note(batch, self.wire.read(0))
        if parts:
            self.wire.send(b"".join(parts))

    def _await(self, batch: _Batch, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while batch.left and (left := deadline - time.monotonic()) > 0:
            self._note(batch, self.wire.read(left))

    def _note(self, batch: _Batch, found: Sequence[Frame]) -> None:
        for channel, method, args, head, _ in found:
            if channel != self._channel.number:
                continue
            if method == frames.BASIC_ACK or method == frames.BASIC_NACK:
                batch.confirm(_tag(args)[0], multiple=bool(args[8] & 1), stored=method == frames.BASIC_ACK)
            elif method == frames.BASIC_RETURN:
                batch.give_back(args, head)
            elif method == frames.CHANNEL_CLOSE:
                self.wire.check(self._channel.number)

    def _one_by_one(self, batch: _Batch, fault: ChannelClosed, timeout: float) -> list[PublishOutcome]:
        """The server closed the channel over one of them, and does not say which: the others are sent again."""
        answers = batch.outcomes(str(fault))
        if len(answers) == 1:
            answers = [PublishOutcome(PublishState.REFUSED, str(fault))]
        try:
            self._reopen()
            for at, answer in enumerate(answers):
                if answer.state is PublishState.UNKNOWN:
                    (answers[at],) = self.publish([batch.parcels[at]], timeout)
        except errors.OperationalError as exc:
            self.wire.sever(str(exc))
        return answers

    def _reopen(self) -> None:
        self._channel.reopen()
        if self._confirms:
            self._channel.confirm_select()
        self._sent = 0

    def close(self) -> None:
        self.wire.close()


class _Batch:
    """What became of messages whose tags begin after `first`."""

    def __init__(self, first: int) -> None:
        self.parcels: list[Parcel] = []
        self._first = first
        self._answers: list[PublishOutcome | None] = []
        self._floor = 0
        self.left = 0

    def add(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)
        self._answers.append(None)
        self.left += 1

    def add_all(self, parcels: Iterable[Parcel]) -> None:
        """Those that were not sent any more."""
        for parcel in parcels:
            self.add(parcel)

    def confirm(self, tag: int, *, multiple: bool, stored: bool) -> None:
        at = tag - self._first - 1
        if at >= len(self._answers):
            raise ConnectionLost(f"the server confirmed message {tag}, which was not sent")
        if at < 0:
            return
        outcome = STORED if stored else PublishOutcome(
            PublishState.REFUSED, "the server did not take it (nack): its queue is full, or has failed"
        )  # fmt: skip
        if multiple:
            for each in range(self._floor, at + 1):
                self._end(each, outcome)
            self._floor = at + 1
        else:
            self._end(at, outcome)

    def _end(self, at: int, outcome: PublishOutcome) -> None:
        if self._answers[at] is None:
            self._answers[at] = outcome
            self.left -= 1
        elif self._answers[at] is _RETURNED:
            # Its confirm: the return had come before.
            self.left -= 1
            self._answers[at] = PublishOutcome(PublishState.REFUSED, _RETURNED.reason)

    def give_back(self, args: bytes, head: bytes) -> None:
        """basic.return names no tag: the message is known by what it is, and the oldest such one is meant."""
        exchange, after = frames.read_short(args, frames.read_short(args, 2)[1])
        where = args[after - 1 - len(exchange.encode()) :]
        for at, (address, sent, _) in enumerate(self.parcels):
            if self._answers[at] is None and sent == head and address[2:-1] == where:
                self._answers[at] = _RETURNED
                return

    def outcomes(self, missing: str) -> list[PublishOutcome]:
        unknown = PublishOutcome(PublishState.UNKNOWN, missing)
        return [unknown if answer is None or answer is _RETURNED else answer for answer in self._answers]


_RETURNED: Final = PublishOutcome(PublishState.REFUSED, "no queue takes it: there is none of that name")


class Publishers:
    """Publishers for any thread, kept for the next call. After one broke, the others are looked at before use."""

    def __init__(self, server: AmqpServer, *, confirms: bool) -> None:
        self._server = server
        self._confirms = confirms
        self._lock = threading.Lock()
        self._idle: list[Publisher] = []
        self._pid = os.getpid()

    def publish(self, parcels: Iterable[Parcel], timeout: float) -> list[PublishOutcome]:
        with self._one() as publisher:
            return publisher.publish(parcels, timeout)

    def publish_all(self, parcels: Iterable[Parcel], timeout: float) -> None:
        """All of them, confirmed. Raises `OperationalError` when one is not stored for certain."""
        for outcome in self.publish(parcels, timeout):
            if outcome.state is not PublishState.STORED:
                raise errors.OperationalError(f"{self._server.shown} did not store a message: {outcome.reason}")

    @contextmanager
    def _one(self) -> Iterator[Publisher]:
        publisher = self._take()
        try:
            yield publisher
        except Blocked:
            raise
        except BaseException:
            publisher.wire.sever("left in the middle of an exchange")
            raise
        finally:
            self._give(publisher)

    def _take(self) -> Publisher:
        while True:
            with self._lock:
                if self._pid != os.getpid():
                    # The sockets are the parent's too.
                    self._pid, self._idle = os.getpid(), []
                publisher = self._idle.pop() if self._idle else None
            if publisher is None:
                return Publisher(self._server, confirms=self._confirms)
            if publisher.usable:
                return publisher
            publisher.close()

    def _give(self, publisher: Publisher) -> None:
        with self._lock:
            if publisher.wire.lost is None and len(self._idle) < _KEPT and self._pid == os.getpid():
                self._idle.append(publisher)
                return
        publisher.close()

    def doubt(self, why: str) -> None:
        """Idle connections may be dead without a word: end them. What is under way on others has its own deadline."""
        with self._lock:
            idle = self._idle if self._pid == os.getpid() else []
            for publisher in idle:
                publisher.wire.sever(why)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for publisher in idle:
            publisher.close()
