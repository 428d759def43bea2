"""MessagePack for kernel: JSON's data model in fewer bytes, with bytes, dates and decimals of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import msgpack

from kernel import errors
from kernel.interfaces.place import failing_place, type_name
from kernel.interfaces.serializer import INTERFACE

__all__ = ["MsgpackSerializer"]

_TIMESTAMP_AS_DATETIME: Final = 3


def _text(value: date | time) -> bytes:
    return value.isoformat().encode("ascii")


def _decode_timedelta(data: bytes) -> timedelta:
    days, seconds, microseconds = map(int, data.split(b" "))
    return timedelta(days, seconds, microseconds)


# Extension types 1 to 7 are ours; each holds ASCII text, save for the last two. Numbers, once given, stay.
# A datetime is a date too, so the order matters.
_ENCODERS: Final[tuple[tuple[type, int, Callable[[Any], bytes]], ...]] = (
    (datetime, 1, _text),
    (date, 2, _text),
    (time, 3, _text),
    (timedelta, 4, lambda value: b"%d %d %d" % (value.days, value.seconds, value.microseconds)),
    (Decimal, 5, lambda value: str(value).encode("ascii")),
    (uuid.UUID, 6, lambda value: value.bytes),
    # Only integers that MessagePack cannot hold come here: two's complement, big-endian.
    (int, 7, lambda value: value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
)
# What a subclass of these is written as.
_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (dict, dict),
    (tuple, list),
    (list, list),
    (str, str.__str__),
    (int, int),
    (float, float),
    (bytes, bytes),
    (bytearray, bytes),
)
_DECODERS: Final[Mapping[int, Callable[[bytes], Any]]] = {
    1: lambda data: datetime.fromisoformat(data.decode("ascii")),
    2: lambda data: date.fromisoformat(data.decode("ascii")),
    3: lambda data: time.fromisoformat(data.decode("ascii")),
    4: _decode_timedelta,
    5: lambda data: Decimal(data.decode("ascii")),
    6: lambda data: uuid.UUID(bytes=data),
    7: lambda data: int.from_bytes(data, "big", signed=True),
}


class MsgpackSerializer:
    """See `kernel.interfaces.serializer.Serializer`. Tuples come back as lists; keys keep their type."""

    interface = INTERFACE
    name = "msgpack"
    content_type = "application/x-msgpack"
    content_encoding = "binary"
    safe = True

    def dumps(self, value: Any) -> bytes:
        try:
            return _pack(value)
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            path, place = failing_place(value, _pack, _plain)
            raise errors.EncodeError(
                f"{path[:100]} is of type {type_name(place)} and cannot be MessagePack: {exc}; pass plain data "
                "instead, or give its class a __json__() method that returns plain data"
            ) from exc

    def loads(self, data: bytes) -> Any:
        try:
            _check_complete(data)
            return msgpack.unpackb(
                data, raw=False, strict_map_key=False, timestamp=_TIMESTAMP_AS_DATETIME, ext_hook=_extension
            )
        except (errors.DecodeError, errors.SoftTimeLimitExceeded):
            raise
        except Exception as exc:
            reason = str(exc) or type(exc).__name__
            raise errors.DecodeError(f"not valid MessagePack ({len(data)} bytes): {reason}") from exc


def _pack(value: Any) -> bytes:
    # Of a subclass the packer writes what its own len() says, which may be something else than the number of its
    # items (as with the members of a group of tasks): those come to `_default`, and so does every tuple.
    packed: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True, default=_default)
    return packed


def _plain(value: Any) -> Mapping[str, Any] | None:
    plain = getattr(value, "__json__", None)
    return plain() if callable(plain) else None


def _default(value: Any) -> Any:
    if value.__class__ is tuple:
        return list(value)
    plain = getattr(value, "__json__", None)
    if plain is not None:
        return plain()
    for base, made in _BASES:
        small = base is not int or not isinstance(value, int) or -(1 << 63) <= value < 1 << 64
        if isinstance(value, base) and value.__class__ is not base and small:
            return made(value)
    for known, code, encode in _ENCODERS:
        if isinstance(value, known):
            return msgpack.ExtType(code, encode(value))
    raise TypeError(f"MessagePack has no form for {type_name(value)}")


def _extension(code: int, data: bytes) -> Any:
    decode = _DECODERS.get(code)
    if decode is None:
        raise errors.DecodeError(f"unknown MessagePack extension type {code}; known: 1 to 7 and timestamps (-1)")
    return decode(data)


def _check_complete(data: bytes) -> None:
    """Refuse data that ends early, before anything is built from it.

    A header of three bytes may announce 65,535 elements, room for which is made at once; a thousand such headers
    inside one another would cost half a gigabyte. Elements that are really there take a byte each at least.
    """
    walker = msgpack.Unpacker(max_buffer_size=len(data) + 1)
    walker.feed(data)
    walker.skip()
    if walker.tell() != len(data):
        raise errors.DecodeError(f"{len(data) - walker.tell()} bytes follow the end of the MessagePack value")
