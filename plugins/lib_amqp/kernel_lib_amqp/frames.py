"""AMQP 0-9-1 on the wire: frames cut out of bytes in bulk, and the few methods that we speak ourselves.

A method is known by one number, class and method of the specification together (``60 << 16 | 40`` is basic.publish).
Arguments stay bytes until somebody asks for them.
"""

from __future__ import annotations

import struct
from typing import Final

from kernel_lib_amqp.faults import ConnectionLost

Frame = tuple[int, int, bytes, bytes, bytes]
"""Channel, method, its arguments; for one with content also the header from its flags on, and the body."""

END: Final = b"\xce"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

CONNECTION_CLOSE: Final = 10 << 16 | 50
CONNECTION_CLOSE_OK: Final = 10 << 16 | 51
CONNECTION_BLOCKED: Final = 10 << 16 | 60
CONNECTION_UNBLOCKED: Final = 10 << 16 | 61
CHANNEL_OPEN: Final = 20 << 16 | 10
CHANNEL_OPEN_OK: Final = 20 << 16 | 11
CHANNEL_FLOW: Final = 20 << 16 | 20
CHANNEL_CLOSE: Final = 20 << 16 | 40
CHANNEL_CLOSE_OK: Final = 20 << 16 | 41
EXCHANGE_DECLARE: Final = 40 << 16 | 10
EXCHANGE_DECLARE_OK: Final = 40 << 16 | 11
EXCHANGE_BIND: Final = 40 << 16 | 30
EXCHANGE_BIND_OK: Final = 40 << 16 | 31
QUEUE_DECLARE: Final = 50 << 16 | 10
QUEUE_DECLARE_OK: Final = 50 << 16 | 11
QUEUE_BIND: Final = 50 << 16 | 20
QUEUE_BIND_OK: Final = 50 << 16 | 21
QUEUE_PURGE: Final = 50 << 16 | 30
QUEUE_PURGE_OK: Final = 50 << 16 | 31
QUEUE_DELETE: Final = 50 << 16 | 40
QUEUE_DELETE_OK: Final = 50 << 16 | 41
QUEUE_UNBIND: Final = 50 << 16 | 50
QUEUE_UNBIND_OK: Final = 50 << 16 | 51
BASIC_QOS: Final = 60 << 16 | 10
BASIC_QOS_OK: Final = 60 << 16 | 11
BASIC_CONSUME: Final = 60 << 16 | 20
BASIC_CONSUME_OK: Final = 60 << 16 | 21
BASIC_CANCEL: Final = 60 << 16 | 30
BASIC_CANCEL_OK: Final = 60 << 16 | 31
BASIC_PUBLISH: Final = 60 << 16 | 40
BASIC_RETURN: Final = 60 << 16 | 50
BASIC_DELIVER: Final = 60 << 16 | 60
BASIC_GET: Final = 60 << 16 | 70
BASIC_GET_OK: Final = 60 << 16 | 71
BASIC_GET_EMPTY: Final = 60 << 16 | 72
BASIC_ACK: Final = 60 << 16 | 80
BASIC_REJECT: Final = 60 << 16 | 90
BASIC_NACK: Final = 60 << 16 | 120
CONFIRM_SELECT: Final = 85 << 16 | 10
CONFIRM_SELECT_OK: Final = 85 << 16 | 11

_WITH_CONTENT: Final = frozenset((BASIC_DELIVER, BASIC_RETURN, BASIC_GET_OK))
_WITHOUT_CONTENT: Final = frozenset(
    (
        CONNECTION_CLOSE, CONNECTION_CLOSE_OK, CONNECTION_BLOCKED, CONNECTION_UNBLOCKED, CHANNEL_OPEN_OK, CHANNEL_FLOW,
        CHANNEL_CLOSE, CHANNEL_CLOSE_OK, EXCHANGE_DECLARE_OK, EXCHANGE_BIND_OK, QUEUE_DECLARE_OK, QUEUE_BIND_OK,
        QUEUE_PURGE_OK, QUEUE_DELETE_OK, QUEUE_UNBIND_OK, BASIC_QOS_OK, BASIC_CONSUME_OK, BASIC_CANCEL,
        BASIC_CANCEL_OK, BASIC_GET_EMPTY, BASIC_ACK, BASIC_NACK, CONFIRM_SELECT_OK,
    )
)  # fmt: skip
"""What a server may send besides. Anything else means that the stream is out of step, and what follows cannot be
trusted."""
_METHOD, _HEADER, _BODY, _BEAT = 1, 2, 3, 8
_head = struct.Struct(">BHI").unpack_from
_method_id = struct.Struct(">I").unpack_from
_content_size = struct.Struct(">Q").unpack_from
_method_head = struct.Struct(">BHII").pack
_header_head = struct.Struct(">BHIHHQ").pack
_body_head = struct.Struct(">BHI").pack
_tag_frame = struct.Struct(">BHIIQBB").pack


class Parser:
    """Cuts what was read into frames. For one thread. Raises `ConnectionLost` on what is no AMQP."""

    def __init__(self, frame_max: int, rest: bytes = b"") -> None:
        self._rest = rest
        self._most = frame_max
        self._open: dict[int, _Content] = {}

    def feed(self, data: bytes) -> list[Frame]:
        """What is complete by now, in order; heartbeats are left out."""
        buffer = self._rest + data if self._rest else data
        at, end = 0, len(buffer)
        found: list[Frame] = []
        while end - at >= 8:
            kind, channel, size = _head(buffer, at)
            stop = at + 7 + size
            if size > self._most:
                raise ConnectionLost(f"the server sent a frame of {size} bytes; {self._most} were agreed")
            if stop >= end:
                break
            if buffer[stop] != 0xCE:
                raise ConnectionLost("the server sent a frame without an end: what follows is no AMQP")
            if kind == _METHOD:
                method = _method_id(buffer, at + 7)[0]
                args = buffer[at + 11 : stop]
                if method in _WITH_CONTENT:
                    self._open[channel] = _Content(method, args)
                elif method in _WITHOUT_CONTENT:
                    found.append((channel, method, args, b"", b""))
                else:
                    raise ConnectionLost(f"the server sent the unknown method {method >> 16}.{method & 0xFFFF}")
            elif kind in (_BODY, _HEADER):
                content = self._open.get(channel)
                if content is None:
                    raise ConnectionLost("the server sent content that belongs to no method")
                done = content.header(buffer, at, stop) if kind == _HEADER else content.add(buffer[at + 7 : stop])
                if done:
                    del self._open[channel]
                    found.append((channel, content.method, content.args, content.head, content.body))
            elif kind != _BEAT or channel:
                raise ConnectionLost(f"the server sent a frame of kind {kind} on channel {channel}: that is no AMQP")
            at = stop + 1
        self._rest = buffer[at:] if at < end else b""
        return found


class _Content:
    """A message that is not complete yet."""

    __slots__ = ("args", "body", "head", "left", "method", "parts")

    def __init__(self, method: int, args: bytes) -> None:
        self.method = method
        self.args = args
        self.head = b""
        self.left = 0
        self.body = b""
        self.parts: list[bytes] | None = None

    def header(self, buffer: bytes, at: int, stop: int) -> bool:
        self.left = _content_size(buffer, at + 11)[0]
        self.head = buffer[at + 19 : stop]
        return self.left == 0

    def add(self, part: bytes) -> bool:
        self.left -= len(part)
        if self.parts is None:
            if self.left <= 0:
                self.body = part
                return True
            self.parts = []
        self.parts.append(part)
        if self.left > 0:
            return False
        self.body = b"".join(self.parts)
        return True


def short(text: str) -> bytes:
    """AMQP's short string. Raises ValueError over 255 bytes."""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) > 255:
        raise ValueError(f"{text[:60]!r}... has {len(raw)} bytes; AMQP takes names of at most 255")
    return bytes((len(raw),)) + raw


def read_short(data: bytes, at: int) -> tuple[str, int]:
    """A short string at `at`, and where the next thing begins."""
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "replace"), end


def method(channel: int, number: int, args: bytes = b"") -> bytes:
    return b"".join((_method_head(1, channel, 4 + len(args), number), args, END))


def settle(channel: int, number: int, tag: int, flags: int) -> bytes:
    """basic.ack and basic.nack (`flags`: 1 for multiple, 2 for a nack that requeues)."""
    return _tag_frame(1, channel, 13, number, tag, flags, 0xCE)


def publish(channel: int, where: bytes, head: bytes, body: bytes, frame_max: int) -> list[bytes]:
    """A message as parts to be joined. `where` is what `address` made; `head` the content header from its flags on."""
    size = len(body)
    parts = [
        _method_head(1, channel, 4 + len(where), BASIC_PUBLISH),
        where,
        END,
        _header_head(2, channel, 12 + len(head), 60, 0, size),
        head,
        END,
    ]
    most = frame_max - 8
    if size <= most:
        if size:
            parts += (_body_head(3, channel, size), body, END)
        return parts
    for at in range(0, size, most):
        part = body[at : at + most]
        parts += (_body_head(3, channel, len(part)), part, END)
    return parts


def address(exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """The arguments of basic.publish. Raises ValueError for names over 255 bytes."""
    return b"".join((b"\x00\x00", short(exchange), short(routing_key), b"\x01" if mandatory else b"\x00"))
