"""Queues, exchanges and single messages on one channel of a connection."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from kernel_lib_amqp import frames, tables
from kernel_lib_amqp.frames import Frame, short
from kernel_lib_amqp.wire import Wire

_NUMBERS: Final = 1000
_EMPTY_TABLE: Final = b"\0\0\0\0"
_tag = struct.Struct(">Q").unpack_from
_count = struct.Struct(">I").unpack_from
_two = struct.Struct(">II").unpack_from


class Got(NamedTuple):
    """A message that was asked for: `head` is its content header from the flags on."""

    tag: int
    redelivered: bool
    routing_key: str
    head: bytes
    body: bytes


Call = tuple[int, bytes, int]
"""A method, its arguments, and the method that answers it."""


class Channel:
    """An open channel. Every method waits for the server's answer, at most as long as the connection's timeout, and
    raises `ChannelClosed` when the server closes the channel instead: `reopen` makes it usable again."""

    def __init__(self, wire: Wire, number: int = 1) -> None:
        self.wire = wire
        self.number = number
        wire.open_channel(number)

    def reopen(self) -> None:
        """Under another number, so that nothing which is still under way is taken for the new one's."""
        self.number = self.number % _NUMBERS + 1
        self.wire.open_channel(self.number)

    def close(self) -> None:
        self.wire.close_channel(self.number)

    def _call(self, method: int, args: bytes, *replies: int) -> Frame:
        return self.wire.call(self.number, method, args, replies)

    def call_all(self, calls: Sequence[Call]) -> None:
        """Several methods in one go. The first that the server refuses raises, and none after it was done."""
        self.wire.send(b"".join(frames.method(self.number, method, args) for method, args, _ in calls))
        for _, _, reply in calls:
            self.wire.answer(self.number, (reply,))

    def declare_queue(
        self,
        name: str,
        *,
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> tuple[str, int, int]:
        """Its name (the server's choice for an empty one), waiting messages, consumers."""
        flags = passive | durable << 1 | exclusive << 2 | auto_delete << 3
        reply = self._call(*_queue_declare(name, flags, arguments))[2]
        found, at = frames.read_short(reply, 0)
        messages, consumers = _two(reply, at)
        return found, messages, consumers

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        args = b"".join((b"\0\0", short(name), bytes((if_unused | if_empty << 1,))))
        return int(_count(self._call(frames.QUEUE_DELETE, args, frames.QUEUE_DELETE_OK)[2])[0])

    def purge_queue(self, name: str) -> int:
        return int(_count(self._call(*purge_queue(name))[2])[0])

    def bind_queue(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        self._call(*bind_queue(queue, exchange, routing_key, arguments))

    def unbind_queue(self, queue: str, exchange: str, routing_key: str = "") -> None:
        args = b"".join((b"\0\0", short(queue), short(exchange), short(routing_key), _EMPTY_TABLE))
        self._call(frames.QUEUE_UNBIND, args, frames.QUEUE_UNBIND_OK)

    def declare_exchange(
        self,
        name: str,
        kind: str = "direct",
        *,
        passive: bool = False,
        durable: bool = True,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(
            *declare_exchange(
                name, kind, passive=passive, durable=durable, auto_delete=auto_delete, arguments=arguments
            )
        )

    def bind_exchange(self, destination: str, source: str, routing_key: str = "") -> None:
        args = b"".join((b"\0\0", short(destination), short(source), short(routing_key), b"\0", _EMPTY_TABLE))
        self._call(frames.EXCHANGE_BIND, args, frames.EXCHANGE_BIND_OK)

    def qos(self, prefetch: int) -> None:
        """For consumers made from now on; 0 is without limit."""
        args = b"".join((_EMPTY_TABLE, min(prefetch, 0xFFFF).to_bytes(2, "big"), b"\0"))
        self._call(frames.BASIC_QOS, args, frames.BASIC_QOS_OK)

    def consume(
        self,
        queue: str,
        tag: str,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        flags = no_ack << 1 | exclusive << 2
        args = b"".join((b"\0\0", short(queue), short(tag), bytes((flags,)), _table(arguments)))
        self._call(frames.BASIC_CONSUME, args, frames.BASIC_CONSUME_OK)

    def cancel(self, tag: str) -> None:
        self._call(frames.BASIC_CANCEL, short(tag) + b"\0", frames.BASIC_CANCEL_OK)

    def get_many(self, queue: str, count: int, *, no_ack: bool = False) -> list[Got]:
        """Up to so many messages, asked for in one go."""
        ask = frames.method(self.number, frames.BASIC_GET, b"".join((b"\0\0", short(queue), bytes((no_ack,)))))
        self.wire.send(ask * count)
        found = []
        for _ in range(count):
            _, method, args, head, body = self.wire.answer(self.number, (frames.BASIC_GET_OK, frames.BASIC_GET_EMPTY))
            if method == frames.BASIC_GET_OK:
                key = frames.read_short(args, frames.read_short(args, 9)[1])[0]
                found.append(Got(_tag(args)[0], bool(args[8]), key, head, body))
        return found

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.wire.send(frames.settle(self.number, frames.BASIC_ACK, tag, int(multiple)))

    def publish_to_nobody(self) -> None:
        """A message that the server drops: it tells what it has against those who publish."""
        where = frames.address("", "", mandatory=False)
        self.wire.send(b"".join(frames.publish(self.number, where, b"\0\0", b"", self.wire.frame_max)))

    def confirm_select(self) -> None:
        self._call(frames.CONFIRM_SELECT, b"\0", frames.CONFIRM_SELECT_OK)


# --- calls for `Channel.call_all`; the methods of the same names say what they do ---------------------------------


def look_at_queue(name: str) -> Call:
    """Refused where there is none; one that expires when nobody uses it is used by this."""
    return _queue_declare(name, 1, None)


def _queue_declare(name: str, flags: int, arguments: Mapping[str, Any] | None) -> Call:
    args = b"".join((b"\0\0", short(name), bytes((flags,)), _table(arguments)))
    return frames.QUEUE_DECLARE, args, frames.QUEUE_DECLARE_OK


def purge_queue(name: str) -> Call:
    return frames.QUEUE_PURGE, b"".join((b"\0\0", short(name), b"\0")), frames.QUEUE_PURGE_OK


def bind_queue(queue: str, exchange: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None) -> Call:
    args = b"".join((b"\0\0", short(queue), short(exchange), short(routing_key), b"\0", _table(arguments)))
    return frames.QUEUE_BIND, args, frames.QUEUE_BIND_OK


def declare_exchange(
    name: str,
    kind: str = "direct",
    *,
    passive: bool = False,
    durable: bool = True,
    auto_delete: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Call:
    flags = passive | durable << 1 | auto_delete << 2
    args = b"".join((b"\0\0", short(name), short(kind), bytes((flags,)), _table(arguments)))
    return frames.EXCHANGE_DECLARE, args, frames.EXCHANGE_DECLARE_OK


def _table(arguments: Mapping[str, Any] | None) -> bytes:
    return tables.dump(arguments) if arguments else _EMPTY_TABLE
