"""The parts of chords, in a queue of each chord on the broker's own server.

Whoever brings a part publishes it there, confirmed, and is told how many there are. Whoever finds enough of them takes
all, alone: a queue that is exclusive to its connection is the lock, which ends with it. What came twice is dropped.
With a part of each member it puts a note there who completed the chord, and all of it back, so that the same member may
do so again. Who finds it locked has nothing to do: whoever holds the lock looks again after it has let go.

Which copy of a body began first is an exchange that nothing is ever sent through: the server makes one of a name once,
and refuses to make it again with another alternate exchange, whose name is that of the copy. It is bound to the queue
of the chord, and goes with it.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from kernel_lib_amqp import AmqpServer, Wire, frames, properties
from kernel_lib_amqp.channel import Channel, bind_queue, declare_exchange, look_at_queue, purge_queue
from kernel_lib_amqp.faults import ChannelClosed

from kernel import errors
from kernel.interfaces.backend import ChordPart, ChordState, Record

_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_UNEQUAL: Final = 406
_TOGETHER: Final = 500
_EMPTY_TABLE: Final = b"\0\0\0\0"
_DONE: Final = b'{"done": true}'
_ALTERNATE: Final = "alternate-exchange"
_tag = struct.Struct(">Q").unpack_from


@dataclass(slots=True)
class _Taken:
    """What was in the queue: parts by member, who completed the chord, and whether its body ran."""

    parts: dict[int, Record] = field(default_factory=dict)
    last: int | None = None
    done: bool = False


class Joins:
    """One connection for all threads of a process, made when it is needed. `lifetime` in seconds is how long a chord
    is kept that nobody asks for."""

    def __init__(self, server: AmqpServer, *, timeout: float, lifetime: float | None) -> None:
        self._server = server
        self._timeout = timeout
        self._arguments: dict[str, Any] = {}
        if lifetime is not None:
            self._arguments["x-expires"] = max(1, round(lifetime * 1000))
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._channel: Channel | None = None
        self._sent = 0

    def add(self, batch: Sequence[ChordPart]) -> list[ChordState]:
        """Raises `OperationalError`; then some parts may be there, which changes nothing when they come again."""
        places: dict[str, list[int]] = {}
        for at, part in enumerate(batch):
            places.setdefault(part.chord_id, []).append(at)
        found: dict[int, ChordState] = {}
        for chord_id, where in places.items():
            parts = [batch[at] for at in where]
            found.update(zip(where, self._insist(partial(self._add, chord_id, parts)), strict=True))
        return [found[at] for at in range(len(batch))]

    def begin(self, chord_id: str, copy: str, number: int | None) -> bool:
        """As `Backend.begin_body`, which is told whether the copy was the first by the server's own metadata: as
        durable as its queues and exchanges are. Raises `OperationalError`."""
        return bool(self._insist(partial(self._begin, _queue(chord_id), copy, number)))

    def close(self) -> None:
        with self._lock:
            self._drop()

    # --- one chord ------------------------------------------------------------------------------------------

    def _add(self, chord_id: str, parts: Sequence[ChordPart]) -> list[ChordState]:
        queue, size = _queue(chord_id), parts[0].size
        self._declare(queue)
        self._publish(queue, [_written(part) for part in parts])
        while (count := self._count(queue)) >= size:
            if not self._hold(queue):
                break
            try:
                taken = self._take(queue, count)
                if taken.done:
                    return [ChordState(False, size, size) for _ in parts]
                if len(taken.parts) == size:
                    return self._complete(queue, parts, taken)
            finally:
                self._let_go(queue)
        return [ChordState(False, min(count, size - 1), size) for _ in parts]

    def _complete(self, queue: str, parts: Sequence[ChordPart], taken: _Taken) -> list[ChordState]:
        size = len(taken.parts)
        if taken.last is None:
            taken.last = parts[-1].index
            self._publish(queue, [json.dumps({"last": taken.last}).encode()])
        records = [taken.parts[index] for index in range(size)]
        return [
            ChordState(True, size, size, records) if part.index == taken.last else ChordState(False, size, size)
            for part in parts
        ]

    def _take(self, queue: str, count: int) -> _Taken:
        """All that is in the queue, which it goes back to, without what is there twice."""
        channel = self._open()
        taken, twice = _Taken(), []
        while count > 0:
            got = channel.get_many(queue, min(count, _TOGETHER))
            for message in got:
                found = json.loads(message.body)
                index = found.get("index")
                if "done" in found:
                    taken.done = True
                elif "last" in found:
                    taken.last = found["last"]
                elif index in taken.parts:
                    twice.append(message.tag)
                else:
                    taken.parts[index] = _read(found)
            count = self._count(queue) if got else 0
        for tag in twice:
            channel.ack(tag)
        # What a channel has not acknowledged goes back when it closes.
        channel.close()
        channel.reopen()
        channel.confirm_select()
        self._sent = 0
        return taken

    def _begin(self, queue: str, copy: str, number: int | None) -> bool:
        name = f"{queue}.{number or 0}"
        calls = [
            look_at_queue(queue),
            declare_exchange(name, auto_delete=True, arguments={_ALTERNATE: f"{name}.{copy}"}),
            bind_queue(queue, name),
        ]
        if number is None:
            calls.append(purge_queue(queue))
        try:
            self._open().call_all(calls)
        except ChannelClosed as exc:
            self._drop()
            if exc.code == _UNEQUAL and _ALTERNATE in str(exc):
                return False
            if exc.code != _NOT_FOUND:
                raise
            # The chord has expired, or it was never known here.
            self._declare(queue)
            self._open().call_all(calls)
        if number is None:
            self._publish(queue, [_DONE])
        return True

    # --- on the server --------------------------------------------------------------------------------------

    def _declare(self, queue: str) -> None:
        try:
            self._open().declare_queue(queue, arguments=self._arguments)
        except ChannelClosed as exc:
            # Another worker's settings are older or newer: the queue is there, which is enough.
            if exc.code != _UNEQUAL:
                raise
            self._drop()

    def _count(self, queue: str) -> int:
        return self._open().declare_queue(queue, passive=True)[1]

    def _hold(self, queue: str) -> bool:
        """Be the only one who takes parts of this chord; False where somebody is."""
        try:
            self._open().declare_queue(_lock_of(queue), durable=False, exclusive=True, auto_delete=True)
        except ChannelClosed as exc:
            if exc.code != _LOCKED:
                raise
            self._drop()
            return False
        return True

    def _let_go(self, queue: str) -> None:
        if self._channel is not None:
            self._channel.delete_queue(_lock_of(queue))

    def _publish(self, queue: str, bodies: Sequence[bytes]) -> None:
        channel = self._open()
        wire = channel.wire
        head = properties.dump("application/json", "utf-8", _EMPTY_TABLE, {"delivery_mode": 2})
        where = frames.address("", queue, mandatory=False)
        pieces: list[bytes] = []
        for body in bodies:
            pieces += frames.publish(channel.number, where, head, body, wire.frame_max)
        wire.refuse_blocked(self._timeout)
        wire.send(b"".join(pieces))
        missing = set(range(self._sent + 1, self._sent + len(bodies) + 1))
        while missing:
            answers = (frames.BASIC_ACK, frames.BASIC_NACK)
            _, method, args, _, _ = wire.answer(channel.number, answers, self._timeout)
            if method == frames.BASIC_NACK:
                raise errors.OperationalError(
                    f"{self._server.shown} could not take a part of a chord; its log says why"
                )
            tag = _tag(args)[0]
            missing = {number for number in missing if number > tag} if args[8] & 1 else missing - {tag}
        self._sent += len(bodies)

    def _open(self) -> Channel:
        if self._channel is None:
            wire = self._server.connect(role="chords")
            try:
                channel = Channel(wire, 1)
                channel.confirm_select()
            except BaseException:
                wire.close()
                raise
            self._wire, self._channel, self._sent = wire, channel, 0
        return self._channel

    def _insist(self, step: Any) -> Any:
        """An idle connection may be found broken only now; nothing is changed by doing it twice."""
        with self._lock:
            try:
                return self._whole(step)
            except errors.OperationalError:
                return self._whole(step)

    def _whole(self, step: Any) -> Any:
        try:
            return step()
        except BaseException:
            # What is still to be answered would be taken for an answer to something else.
            self._drop()
            raise

    def _drop(self) -> None:
        wire, self._wire, self._channel = self._wire, None, None
        if wire is not None:
            with suppress(errors.KernelError):
                wire.close()


def _queue(chord_id: str) -> str:
    return f"kernel.chord.{chord_id}"


def _lock_of(queue: str) -> str:
    return f"{queue}.lock"


def _written(part: ChordPart) -> bytes:
    record = part.record
    return json.dumps(
        {
            "index": part.index,
            "id": record.id,
            "state": record.state,
            "attempt": record.attempt,
            "type": record.content_type,
            "encoding": record.content_encoding,
            "result": base64.b64encode(record.result).decode(),
        }
    ).encode()


def _read(found: dict[str, Any]) -> Record:
    return Record(
        id=found["id"],
        state=found["state"],
        attempt=found["attempt"],
        content_type=found["type"],
        content_encoding=found["encoding"],
        result=base64.b64decode(found["result"]),
    )
