"""Field tables: the headers of AMQP messages, and the arguments of queues."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from kernel import errors

_DEPTH: Final = 64
_pack_long = struct.Struct(">I").pack
_pack_int = struct.Struct(">i").pack
_pack_big = struct.Struct(">q").pack
_pack_double = struct.Struct(">d").pack
_u8 = struct.Struct(">B").unpack_from
_i8 = struct.Struct(">b").unpack_from
_u16 = struct.Struct(">H").unpack_from
_i16 = struct.Struct(">h").unpack_from
_u32 = struct.Struct(">I").unpack_from
_i32 = struct.Struct(">i").unpack_from
_u64 = struct.Struct(">Q").unpack_from
_i64 = struct.Struct(">q").unpack_from
_f32 = struct.Struct(">f").unpack_from
_f64 = struct.Struct(">d").unpack_from


def dump(table: Mapping[str, Any]) -> bytes:
    """A table with its length. Raises ValueError or TypeError for what AMQP cannot hold: names over 255 bytes, whole
    numbers over 64 bits, objects that are no JSON."""
    inner = _fields(table, 0)
    return _pack_long(len(inner)) + inner


def _fields(table: Mapping[str, Any], depth: int) -> bytes:
    if depth > _DEPTH:
        raise ValueError(f"a table is nested deeper than {_DEPTH}")
    parts: list[bytes] = []
    for name, value in table.items():
        if value is None:
            parts.append(_nothing(name))
        elif type(value) is str:
            raw = _encode(value)
            parts += (_text_name(name), _pack_long(len(raw)), raw)
        else:
            parts += (_name(name), _value(value, depth))
    return b"".join(parts)


@lru_cache(1024)
def _name(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogatepass")
    if len(raw) > 255:
        raise ValueError(f"the name {name[:60]!r}... has {len(raw)} bytes; AMQP takes at most 255")
    return bytes((len(raw),)) + raw


@lru_cache(1024)
def _nothing(name: str) -> bytes:
    return _name(name) + b"V"


@lru_cache(1024)
def _text_name(name: str) -> bytes:
    return _name(name) + b"S"


def _encode(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _value(value: Any, depth: int) -> bytes:
    kind = type(value)
    if value is None:
        return b"V"
    if kind is str:
        raw = _encode(value)
        return b"S" + _pack_long(len(raw)) + raw
    if kind is bool:
        return b"t\x01" if value else b"t\x00"
    if kind is int:
        return _whole(value)
    if kind is list or kind is tuple:
        return _array(value, depth)
    if kind is dict:
        inner = _fields(value, depth + 1)
        return b"F" + _pack_long(len(inner)) + inner
    if kind is float:
        return b"d" + _pack_double(value)
    if kind is bytes:
        return b"".join((b"S", _pack_long(len(value)), value))
    return _odd(value, depth)


def _whole(value: int) -> bytes:
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return b"I" + _pack_int(value)
    if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
        return b"l" + _pack_big(value)
    raise ValueError("a whole number is over 64 bits")


def _array(value: Sequence[Any], depth: int) -> bytes:
    if depth > _DEPTH:
        raise ValueError(f"a list is nested deeper than {_DEPTH}")
    inner = b"".join([_value(item, depth + 1) for item in value])
    return b"A" + _pack_long(len(inner)) + inner


def _odd(value: Any, depth: int) -> bytes:
    """Subclasses of what has a form, and times."""
    if isinstance(value, str):
        return _value(str.__str__(value), depth)
    if isinstance(value, int):
        return _whole(int(value))
    if isinstance(value, float):
        return _value(float(value), depth)
    if isinstance(value, Mapping):
        return _value(dict(value), depth)
    if isinstance(value, list | tuple):
        return _array(value, depth)
    raise TypeError(f"{type(value).__name__} has no form in an AMQP table")


def load(data: bytes, at: int = 0) -> dict[str, Any]:
    """The table at `at`, where its length stands. Raises `InvalidTaskError` for what is none."""
    try:
        end = at + 4 + _u32(data, at)[0]
        if end > len(data):
            raise ValueError(f"it announces {end - at} bytes of {len(data) - at}")
        return _load_fields(data, at + 4, end, 0)
    except (ValueError, IndexError, struct.error, OverflowError, OSError) as exc:  # OSError: a time beyond the clock
        raise errors.InvalidTaskError(f"the headers are no AMQP table: {exc}") from exc


def _load_fields(data: bytes, at: int, end: int, depth: int) -> dict[str, Any]:
    if depth > _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH}")
    found: dict[str, Any] = {}
    while at < end:
        stop = at + 1 + data[at]
        name = data[at + 1 : stop].decode("utf-8", "surrogatepass")
        kind = data[stop]
        at = stop + 1
        if kind == 0x53:  # S
            stop = at + 4 + _u32(data, at)[0]
            if stop > end:
                raise ValueError("a text runs over the end")
            found[name] = text(data[at + 4 : stop])
            at = stop
        elif kind == 0x56:  # V
            found[name] = None
        elif kind == 0x74:  # t
            found[name] = data[at] != 0
            at += 1
        elif kind == 0x49:  # I
            found[name] = _i32(data, at)[0]
            at += 4
        else:
            found[name], at = load_value(data, kind, at, end, depth)
    if at != end:
        raise ValueError("a field runs over the end")
    return found


def text(raw: bytes) -> Any:
    """A text, or whatever bytes are in its place."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _load_array(data: bytes, at: int, end: int, depth: int) -> list[Any]:
    if depth > _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH}")
    found: list[Any] = []
    while at < end:
        value, at = load_value(data, data[at], at + 1, end, depth)
        found.append(value)
    if at != end:
        raise ValueError("a value runs over the end of its list")
    return found


_SCALARS: Final = {
    0x62: (_i8, 1),  # b
    0x42: (_u8, 1),  # B
    0x55: (_i16, 2),  # U
    0x73: (_i16, 2),  # s
    0x75: (_u16, 2),  # u
    0x49: (_i32, 4),  # I
    0x69: (_u32, 4),  # i
    0x4C: (_i64, 8),  # L
    0x6C: (_i64, 8),  # l
    0x66: (_f32, 4),  # f
    0x64: (_f64, 8),  # d
}


def load_value(data: bytes, kind: int, at: int, end: int, depth: int) -> tuple[Any, int]:
    """The value of that kind at `at`, and where the next field begins."""
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return scalar[0](data, at)[0], at + scalar[1]
    if kind == 0x56:  # V
        return None, at
    if kind == 0x74:  # t
        return data[at] != 0, at + 1
    if kind == 0x44:  # D
        return str(Decimal(_i32(data, at + 1)[0]).scaleb(-data[at])), at + 5
    if kind == 0x54:  # T
        return datetime.fromtimestamp(_u64(data, at)[0], UTC).isoformat(), at + 8
    stop = at + 4 + _u32(data, at)[0]
    if stop > end:
        raise ValueError("a field runs over the end")
    if kind == 0x53 or kind == 0x78:  # S x
        return text(data[at + 4 : stop]), stop
    if kind == 0x46:  # F
        return _load_fields(data, at + 4, stop, depth + 1), stop
    if kind == 0x41:  # A
        return _load_array(data, at + 4, stop, depth + 1), stop
    raise ValueError(f"a field of the unknown kind {chr(kind)!r}")
