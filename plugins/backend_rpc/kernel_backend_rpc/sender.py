"""Replies on their way out: a batch is sent in one piece and confirmed as a whole."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from kernel_lib_amqp import AmqpServer, Wire, frames, properties
from kernel_lib_amqp.channel import Channel

from kernel import errors
from kernel_backend_rpc.letters import Letter

_EMPTY_TABLE: Final = b"\0\0\0\0"
_MOST_BYTES: Final = 1024 * 1024
_tag = struct.Struct(">Q").unpack_from

Reply = tuple[str, str, Letter]
"""To whom, in answer to which call, and what."""


class Sender:
    """One connection for all threads of a process, made when it is needed."""

    def __init__(self, server: AmqpServer, *, timeout: float, persistent: bool) -> None:
        self._server = server
        self._timeout = timeout
        self._mode = 2 if persistent else 1
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._sent = 0

    def send(self, replies: Sequence[Reply]) -> None:
        """All of them, confirmed by the server. Raises `OperationalError`: some may have been sent."""
        with self._lock:
            for batch in _batches(replies):
                try:
                    self._send(batch)
                except errors.OperationalError:
                    # An idle connection may be found broken only now; of a reply that comes twice the first counts.
                    self._drop()
                    self._send(batch)

    def _send(self, batch: Sequence[Reply]) -> None:
        wire = self._open()
        parts: list[bytes] = []
        for to, task_id, letter in batch:
            known = {"delivery_mode": self._mode, "correlation_id": task_id}
            head = properties.dump(letter.content_type, letter.content_encoding, _EMPTY_TABLE, known)
            parts += frames.publish(1, frames.address("", to, mandatory=False), head, letter.body, wire.frame_max)
        try:
            wire.refuse_blocked(self._timeout)
            wire.send(b"".join(parts))
            self._confirm(wire, self._sent + len(batch))
        except BaseException:
            # What is still to be confirmed would be taken for an answer to something else.
            self._drop()
            raise

    def _open(self) -> Wire:
        if self._wire is None:
            wire = self._server.connect(role="replies")
            try:
                Channel(wire, 1).confirm_select()
            except BaseException:
                wire.close()
                raise
            self._wire, self._sent = wire, 0
        return self._wire

    def _confirm(self, wire: Wire, last: int) -> None:
        """Until everything up to the tag `last` is confirmed."""
        missing = set(range(self._sent + 1, last + 1))
        while missing:
            _, method, args, _, _ = wire.answer(1, (frames.BASIC_ACK, frames.BASIC_NACK), self._timeout)
            if method == frames.BASIC_NACK:
                raise errors.OperationalError(f"{self._server.shown} could not take a reply; its log says why")
            tag = _tag(args)[0]
            if args[8] & 1:
                missing = {number for number in missing if number > tag}
            else:
                missing.discard(tag)
        self._sent = last

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            with suppress(errors.KernelError):
                wire.close()

    def close(self) -> None:
        with self._lock:
            self._drop()


def _batches(replies: Sequence[Reply]) -> list[Sequence[Reply]]:
    """Of about a megabyte each."""
    batches: list[Sequence[Reply]] = []
    start = size = 0
    for at, (_, _, letter) in enumerate(replies):
        size += len(letter.body)
        if size > _MOST_BYTES and at > start:
            batches.append(replies[start:at])
            start, size = at, len(letter.body)
    return [*batches, replies[start:]]
