"""Messages as rows and back.

Headers are kept as JSON text, for people with a database shell. What is not text that every dialect can keep (bytes
that are no UTF-8, or a zero) goes to `raw` instead: such a message is somebody's mistake or attack, and whoever
claims it shall see it as it came.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

from kernel import errors
from kernel.message import Message, Publication

PAYLOAD: Final = "headers, raw, content_type, content_encoding, properties, checksum, body"
DAMAGED_TYPE: Final = "application/x-damaged"
"""The content type of a message whose stored bytes changed: no worker accepts it, so it ends as a dead letter."""

_MAX_NAME: Final = 255


def payload_row(message: Message) -> tuple[str, bytes | None, str, str, str, int, bytes]:
    """The values of the columns of `PAYLOAD`."""
    headers = message.raw_headers
    body = message.body
    properties = message.raw_properties.decode("utf-8", "surrogateescape").replace("\0", "")
    checksum = zlib.crc32(body, zlib.crc32(headers))
    raw = None
    try:
        text = headers.decode()
    except UnicodeDecodeError:
        text, raw = "", headers
    if b"\0" in headers:
        text, raw = "", headers
    return text, raw, message.content_type, message.content_encoding, properties, checksum, body


def message_of(row: Sequence[Any]) -> Message:
    """The message of a row of `PAYLOAD`; when its bytes are not those that were stored, one that nobody will run."""
    text, raw, content_type, encoding, properties, checksum, body = row
    headers, data = _as_bytes(text if raw is None else raw), _as_bytes(body)
    intact = body is not None and zlib.crc32(data, zlib.crc32(headers)) == checksum
    return Message(
        headers,
        data,
        content_type=content_type if intact and isinstance(content_type, str) else DAMAGED_TYPE,
        content_encoding=encoding if encoding and isinstance(encoding, str) else "utf-8",
        properties=properties if isinstance(properties, str) else None,
    )


def _as_bytes(value: Any) -> bytes:
    """In SQLite a value has a type of its own, which is any where its page was damaged."""
    if isinstance(value, str):
        return value.encode()
    return b"" if value is None or isinstance(value, int | float) else bytes(value)


def id_of(message: Message) -> str:
    """The task id, or "" of a message that has none that could be stored."""
    try:
        found = message.id
    except errors.InvalidTaskError:
        return ""
    return found if is_storable(found) else ""


def task_of(message: Message) -> str:
    try:
        found = message.task
    except errors.InvalidTaskError:
        return ""
    return found if is_storable(found) else ""


def is_storable(text: str) -> bool:
    """Whether every dialect keeps this text as it is: no zeros, no halves of surrogate pairs."""
    return "\0" not in text and (text.isascii() or text.encode("utf-8", "ignore").decode() == text)


def check_name(name: str) -> str:
    """The name of a queue or topic. Raises `ImproperlyConfigured` for one that cannot be kept."""
    if why := name_fault(name):
        raise errors.ImproperlyConfigured(f"{name!r} cannot be the name of a queue: {why}")
    return name


def name_fault(name: str) -> str:
    """Why `name` cannot be used, or ""."""
    if not isinstance(name, str) or not name:
        return "a name is a text of at least one character"
    if len(name) > _MAX_NAME:
        return f"it has {len(name)} characters; {_MAX_NAME} are the most"
    if not is_storable(name):
        return "it has a zero character or half of a surrogate pair"
    return ""


def is_repeat(publication: Publication) -> bool:
    """Whether the publisher says that it may have sent this before (after a redelivery)."""
    if b'"redelivered"' not in publication.message.raw_headers:
        return False
    try:
        return bool(publication.message.headers.get("redelivered"))
    except errors.InvalidTaskError:
        return False
