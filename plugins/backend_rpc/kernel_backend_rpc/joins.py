"""The parts of chords, in a queue of each chord on the broker's own server.

Whoever brings a part publishes it there, confirmed, and is told how many there are. Whoever finds enough of them takes
all, alone, as the one consumer that the queue may have, and puts all back: the server does both in one step, also for a
connection that ends. What came twice is dropped. With a part of each member a note goes along who completed the chord,
so that the same member may do so again. A member that adds another one leaves a note of that before its own part is
there. What lies in the queue is read in its order, and comes to the same whoever reads it (`Gathered`).

Who finds somebody else at it has nothing to do: that one looks again after it has let go. Only a member that may have
been here before waits: what holds the parts may be left of its own earlier run, and will not look again.

Which copy of a body began first is an exchange that nothing is ever sent through: the server makes one of a name once,
and refuses to make it again with another alternate exchange, whose name is that of the copy. It is bound to the queue
of the chord, and goes with it.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from kernel_lib_amqp import AmqpServer, Wire, frames, properties
from kernel_lib_amqp.channel import Channel, bind_queue, declare_exchange, look_at_queue, purge_queue
from kernel_lib_amqp.faults import ChannelClosed

from kernel import errors
from kernel.interfaces.backend import ChordPart, ChordState
from kernel_backend_rpc import gathered
from kernel_backend_rpc.gathered import Gathered

_REFUSED: Final = 403
_NOT_FOUND: Final = 404
_UNEQUAL: Final = 406
_IN_USE: Final = "exclusive use"
_TAG: Final = "parts"
_IDLE: Final = 1.0
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25
_REMEMBERED: Final = 1000
_EMPTY_TABLE: Final = b"\0\0\0\0"
_ALTERNATE: Final = "alternate-exchange"
_tag = struct.Struct(">Q").unpack_from

_T = TypeVar("_T")


class Joins:
    """One connection for all threads of a process, made when it is needed. `lifetime` in seconds is how long a chord
    is kept that nobody asks for."""

    def __init__(self, server: AmqpServer, *, timeout: float, lifetime: float | None) -> None:
        self._server = server
        self._timeout = timeout
        # Queues of other types do not know a consumer that is the only one.
        self._arguments: dict[str, Any] = {"x-queue-type": "classic"}
        if lifetime is not None:
            self._arguments["x-expires"] = max(1, round(lifetime * 1000))
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._channel: Channel | None = None
        self._sent = 0
        # How many members of a chord's are known to be added: until there are so many more, nobody need look.
        self._added: OrderedDict[str, int] = OrderedDict()
        # Queues whose parts a connection of this process took, or was to, and of which it does not know that they are
        # back: it may be gone, and the server has not noticed.
        self._left: set[str] = set()

    def add(self, batch: Sequence[ChordPart]) -> list[ChordState]:
        """Raises `OperationalError`; then some parts may be there, which changes nothing when they come again."""
        places: dict[str, list[int]] = {}
        for at, part in enumerate(batch):
            places.setdefault(part.chord_id, []).append(at)
        found: dict[int, ChordState] = {}
        for chord_id, where in places.items():
            parts = [batch[at] for at in where]
            found.update(zip(where, self._add(_queue(chord_id), parts), strict=True))
        return [found[at] for at in range(len(batch))]

    def grow(self, chord_id: str, index: int) -> None:
        """As `Growing.grow_chord`. Raises `OperationalError`."""
        self._insist(partial(self._bring, _queue(chord_id), [gathered.added(index)]))

    def begin(self, chord_id: str, copy: str, number: int | None) -> bool:
        """As `Backend.begin_body`, which is told whether the copy was the first by the server's own metadata: as
        durable as its queues and exchanges are. Raises `OperationalError`."""
        return self._insist(partial(self._begin, _queue(chord_id), copy, number))

    def close(self) -> None:
        with self._lock:
            self._drop()

    # --- one chord ------------------------------------------------------------------------------------------

    def _add(self, queue: str, parts: Sequence[ChordPart]) -> list[ChordState]:
        self._insist(partial(self._bring, queue, [gathered.part(part) for part in parts]))
        deadline, pause = time.monotonic() + self._timeout, _FIRST_PAUSE
        while (found := self._insist(partial(self._look, queue, parts))) is None:
            if time.monotonic() > deadline:
                raise errors.OperationalError(
                    f"another connection to {self._server.shown} has had the parts in {queue} for {self._timeout:g} s: "
                    "they come back when it has looked at them, or when the server notices that it is gone"
                )
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return found

    def _bring(self, queue: str, bodies: Sequence[bytes]) -> None:
        self._declare(queue)
        self._publish(queue, bodies)

    def _look(self, queue: str, parts: Sequence[ChordPart]) -> list[ChordState] | None:
        """None for somebody else at it, whom these have to wait for."""
        size, least = parts[0].size, 0
        while True:
            waiting, holders = self._state(queue)
            added = self._added.get(queue, 0)
            # A part and a note of each that was added.
            if not holders and waiting < max(least, size + 2 * added):
                self._left.discard(queue)
                arrived, size = min(max(0, waiting - added), size + added - 1), size + added
                return [ChordState(False, arrived, size) for _ in parts]
            if holders or not self._hold(queue):
                waits = queue in self._left or any(part.again for part in parts)
                return None if waits else [ChordState(False, 0, size + added) for _ in parts]
            found, kept = self._take(queue, size, waiting)
            states = self._states(queue, parts, found)
            self._put_back(queue)
            if states is not None:
                return states
            # What is there is known to be too little.
            least = kept + 1

    def _states(self, queue: str, parts: Sequence[ChordPart], found: Gathered) -> list[ChordState] | None:
        """None for a chord that is not complete."""
        if found.done:
            return [ChordState(False, found.size, found.size) for _ in parts]
        if found.added:
            self._remember(queue, found.added)
        if not found.complete:
            return None
        if found.last is None:
            found.last = parts[-1].index
            self._publish(queue, [gathered.last(found.last)])
        size, records = found.size + found.added, found.records
        return [
            ChordState(True, size, size, records) if part.index == found.last else ChordState(False, size, size)
            for part in parts
        ]

    def _remember(self, queue: str, added: int) -> None:
        self._added[queue] = added
        self._added.move_to_end(queue)
        while len(self._added) > _REMEMBERED:
            self._added.popitem(last=False)

    def _take(self, queue: str, size: int, waiting: int) -> tuple[Gathered, int]:
        """All that is in the queue, without what changes nothing, and how much that is. It is to be put back."""
        channel, found, kept = self._open(), Gathered(size), 0
        for tag, body in self._receive(queue, waiting):
            if found.take(body):
                kept += 1
            else:
                channel.ack(tag)
        return found, kept

    def _receive(self, queue: str, waiting: int) -> list[tuple[int, bytes]]:
        """Tags and bodies of all messages that are there, of which so many were waiting."""
        channel = self._open()
        found: list[tuple[int, bytes]] = []

        def read(seconds: float) -> bool:
            came = channel.wire.read(seconds)
            for _, method, args, _, body in came:
                if method == frames.BASIC_DELIVER:
                    found.append((_tag(args, 1 + args[0])[0], body))
            return bool(came)

        while len(found) < waiting and read(_IDLE):
            pass  # all of them may take longer than an answer is given
        while True:
            left, _ = self._state(queue)
            # It is answered when all that the queue had given to the channel was sent.
            channel.qos(0)
            read(0.0)
            if not left:
                return found

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
            self._publish(queue, [gathered.DONE])
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

    def _state(self, queue: str) -> tuple[int, int]:
        """How many messages wait, and how many connections take them."""
        _, waiting, holders = self._open().declare_queue(queue, passive=True)
        return waiting, holders

    def _hold(self, queue: str) -> bool:
        """Take the parts of this chord, if nobody else does."""
        # From here on: the answer may be what is lost.
        self._left.add(queue)
        try:
            self._open().consume(queue, _TAG, exclusive=True)
        except ChannelClosed as exc:
            if exc.code != _REFUSED or _IN_USE not in str(exc):
                raise
            self._drop()
            return False
        return True

    def _put_back(self, queue: str) -> None:
        """What a channel has not acknowledged goes back when it closes, and with it goes its consumer."""
        channel = self._open()
        channel.close()
        channel.reopen()
        channel.confirm_select()
        self._sent = 0
        self._left.discard(queue)

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

    def _insist(self, step: Callable[[], _T]) -> _T:
        """An idle connection may be found broken only now; nothing is changed by doing it twice."""
        with self._lock:
            try:
                return self._whole(step)
            except errors.OperationalError:
                return self._whole(step)

    def _whole(self, step: Callable[[], _T]) -> _T:
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
