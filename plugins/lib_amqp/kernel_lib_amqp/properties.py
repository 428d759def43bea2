"""Message properties: a word of flags, and for each flag that is set a field."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from kernel import errors
from kernel_lib_amqp import tables
from kernel_lib_amqp.frames import short

CONTENT_TYPE: Final = 1 << 15
CONTENT_ENCODING: Final = 1 << 14
HEADERS: Final = 1 << 13
OCTETS: Final = ("delivery_mode", "priority")
"""Those of one byte, which come first."""
_NAMES: Final = (
    ("delivery_mode", 1 << 12, "octet"),
    ("priority", 1 << 11, "octet"),
    ("correlation_id", 1 << 10, "short"),
    ("reply_to", 1 << 9, "short"),
    ("expiration", 1 << 8, "short"),
    ("message_id", 1 << 7, "short"),
    ("timestamp", 1 << 6, "time"),
    ("type", 1 << 5, "short"),
    ("user_id", 1 << 4, "short"),
    ("app_id", 1 << 3, "short"),
    ("cluster_id", 1 << 2, "short"),
)
_pack_flags = struct.Struct(">H").pack
_flags = struct.Struct(">H").unpack_from
_length = struct.Struct(">I").unpack_from
_time = struct.Struct(">Q")


def dump(content_type: str, content_encoding: str, table: bytes, properties: Mapping[str, Any]) -> bytes:
    """The content header from its flags on. `table` is what `tables.dump` made; properties that AMQP does not know
    are left out. Raises ValueError for one that has no such form."""
    flags = CONTENT_TYPE | CONTENT_ENCODING | HEADERS
    parts = [b"", short(content_type), short(content_encoding), table]
    for name, flag, kind in _NAMES:
        value = properties.get(name)
        if value is None:
            continue
        flags |= flag
        if kind == "octet":
            parts.append(bytes((int(value),)))
        elif kind == "time":
            parts.append(_time.pack(int(value)))
        else:
            parts.append(short(value if isinstance(value, str) else str(value)))
    parts[0] = _pack_flags(flags)
    return b"".join(parts)


def split(head: bytes) -> tuple[str, str, bytes, int, int]:
    """Content type, encoding, the bytes of the header table with its length (empty when there is none), the flags,
    and where the other properties begin. Raises `InvalidTaskError` for what is no content header."""
    try:
        flags = _flags(head)[0]
        at = 2
        while flags & 1:  # further words of flags, for properties that nobody has
            flags = flags & ~1 | _flags(head, at)[0] & 1
            at += 2
        kind = encoding = ""
        if flags & CONTENT_TYPE:
            end = at + 1 + head[at]
            kind, at = head[at + 1 : end].decode("utf-8", "replace"), end
        if flags & CONTENT_ENCODING:
            end = at + 1 + head[at]
            encoding, at = head[at + 1 : end].decode("utf-8", "replace"), end
        table = b""
        if flags & HEADERS:
            end = at + 4 + _length(head, at)[0]
            table, at = head[at:end], end
    except (IndexError, struct.error) as exc:
        raise errors.InvalidTaskError(f"no AMQP content header: {exc}") from exc
    return kind, encoding, table, flags, at


def load(head: bytes, flags: int, at: int) -> dict[str, Any]:
    """The properties after the headers, as `split` found them."""
    found: dict[str, Any] = {}
    try:
        for name, flag, kind in _NAMES:
            if not flags & flag:
                continue
            if kind == "octet":
                found[name] = head[at]
                at += 1
            elif kind == "time":
                found[name] = datetime.fromtimestamp(_time.unpack_from(head, at)[0], UTC).isoformat()
                at += 8
            else:
                end = at + 1 + head[at]
                found[name], at = head[at + 1 : end].decode("utf-8", "replace"), end
    except (IndexError, struct.error, ValueError, OverflowError, OSError) as exc:  # OSError: a time beyond the clock
        raise errors.InvalidTaskError(f"no AMQP properties: {exc}") from exc
    return found


def headers(head: bytes) -> dict[str, Any]:
    """Only the header table, decoded."""
    table = split(head)[2]
    return tables.load(table) if table else {}
