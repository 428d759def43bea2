"""The task message as every part of the system passes it on.

The layout is Celery's message protocol 2 (docs.celeryq.dev, "Message Protocol"): headers describe the task,
the body is the serialized triple ``[args, kwargs, embed]``. Nothing here decodes a body.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kernel import errors

_FRAME: Final = struct.Struct("!IHHI")
_MAX_TEXT: Final = 0xFFFF


CALL_HEADERS: Final = ("id", "root_id", "parent_id", "argsrepr", "kwargsrepr")
"""What differs between the messages of two plain calls of one task, besides the body and the correlation id."""


class Form:
    """What the messages of all plain calls of one task have in common, for brokers that write headers in another form
    than JSON and would do so once: the headers before and after `CALL_HEADERS`, in their order, the properties
    without the correlation id (which is the task's id), and the kind of the body.
    """

    __slots__ = ("after", "before", "content_encoding", "content_type", "properties")

    def __init__(
        self,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        properties: Mapping[str, Any],
        *,
        content_type: str,
        content_encoding: str,
    ) -> None:
        self.before = before
        self.after = after
        self.properties = properties
        self.content_type = content_type
        self.content_encoding = content_encoding


Filled = tuple[Form, tuple[str, str, str | None, str, str]]
"""A form, and the values of `CALL_HEADERS` for one call."""


class Message:
    """One message: headers, properties and an opaque body.

    `headers` is a dictionary of JSON values; given as UTF-8 JSON text it is parsed at first use, so that a
    message can pass through without being read. `properties` holds what AMQP calls message properties
    (`correlation_id`, `reply_to`, `priority`, `delivery_mode`, `expiration`); JSON text of them is parsed at first
    use, too, and text that is no object stands for none. `known_id` is for who wrote both texts itself: they are
    sound, and this is the task's id and the correlation id in them. `filled` says the same as both texts once more.
    """

    __slots__ = (
        "_filled",
        "_headers",
        "_known_id",
        "_properties",
        "_raw_headers",
        "_raw_properties",
        "body",
        "content_encoding",
        "content_type",
    )

    def __init__(
        self,
        headers: Mapping[str, Any] | bytes | str,
        body: bytes,
        *,
        content_type: str,
        content_encoding: str = "utf-8",
        properties: Mapping[str, Any] | bytes | str | None = None,
        known_id: str = "",
        filled: Filled | None = None,
    ) -> None:
        self._known_id = known_id
        self._filled = filled
        self._headers: dict[str, Any] | None
        self._raw_headers: bytes | str | None
        if isinstance(headers, bytes | str):
            self._headers, self._raw_headers = None, headers
        else:
            self._headers, self._raw_headers = dict(headers), None
        self.body = body
        self.content_type = content_type
        self.content_encoding = content_encoding
        self._properties: dict[str, Any] | None
        self._raw_properties: bytes | str | None
        if properties and isinstance(properties, bytes | str):
            self._properties, self._raw_properties = None, properties
        else:
            self._properties, self._raw_properties = dict(properties) if properties else {}, None

    def _leave_unread(self) -> None:
        """For kinds of messages that make headers and properties of something else, when they are asked for."""
        self._known_id = ""
        self._filled = None
        self._headers = self._raw_headers = None
        self._properties = self._raw_properties = None

    @property
    def headers(self) -> dict[str, Any]:
        """The headers as a dictionary; change it only through `replace_headers`.

        Raises `InvalidTaskError` when the text is not a JSON object.
        """
        if self._headers is None:
            self._headers = _parse_headers(self._raw_headers or b"")
        return self._headers

    def header(self, name: str) -> Any:
        """The value of one header, None where there is none; not to be changed. Raises as `headers` does."""
        return self.headers.get(name)

    def check(self) -> None:
        """Raises `InvalidTaskError` when the headers are text that is not a JSON object."""
        if not self._known_id:
            _ = self.headers

    @property
    def raw_headers(self) -> bytes:
        """The headers as UTF-8 JSON; the text that arrived, when nobody changed it."""
        if self._raw_headers is None:
            self._raw_headers = _compact(self._headers).encode()
        elif isinstance(self._raw_headers, str):
            self._raw_headers = self._raw_headers.encode("utf-8", "surrogatepass")
        return self._raw_headers

    @property
    def properties(self) -> dict[str, Any]:
        """The message properties; may be changed."""
        if self._properties is None:
            self._properties = _parse_properties(self._raw_properties or b"")
            self._raw_properties = None  # the dictionary may be changed from now on
        return self._properties

    @property
    def correlation_id(self) -> str | None:
        """That of the properties; for a message of a call, the id of its task."""
        if self._properties is None and self._known_id:
            return self._known_id
        return self.properties.get("correlation_id")

    @property
    def filled(self) -> Filled | None:
        """The form that headers and properties were made by, and what it was filled with; None for what was made
        otherwise, and once anybody has had a dictionary that may be changed."""
        return self._filled if self._headers is None and self._properties is None else None

    @property
    def raw_properties(self) -> bytes:
        """The properties as UTF-8 JSON, empty when there are none."""
        raw = self._raw_properties
        if raw is None:
            return _compact(self._properties).encode() if self._properties else b""
        return raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")

    @property
    def at_hand(self) -> tuple[Mapping[str, Any] | bytes | str, Mapping[str, Any] | bytes | str]:
        """Headers and properties in the form in which they are there already, each as `Message` takes it."""
        headers = self._headers if self._raw_headers is None else self._raw_headers
        properties = self._properties if self._raw_properties is None else self._raw_properties
        return {} if headers is None else headers, properties or {}

    def replace_headers(self, **changes: Any) -> Message:
        """A copy with some headers changed; the body is shared."""
        return Message(
            {**self.headers, **changes},
            self.body,
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            properties=self.properties,
        )

    def replayed(self) -> Message:
        """The message as it goes back from the dead letters: the header ``kernel_replay`` is raised by one.
        One whose headers are unreadable is returned as it is."""
        try:
            count = self.headers.get("kernel_replay")
        except errors.InvalidTaskError:
            return self
        return self.replace_headers(kernel_replay=count + 1 if isinstance(count, int) and count > 0 else 1)

    @property
    def id(self) -> str:
        """The task id. Raises `InvalidTaskError` when there is none."""
        return _text(self.headers, "id")

    @property
    def task(self) -> str:
        """The name of the task. Raises `InvalidTaskError` when there is none."""
        return _text(self.headers, "task")

    @property
    def priority(self) -> int:
        value = self.properties.get("priority")
        return value if isinstance(value, int) else 0

    @property
    def size(self) -> int:
        """Bytes of body and headers, near enough for credit."""
        return len(self.body) + len(self._raw_headers or b"") + 64

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (
            self.headers == other.headers
            and self.body == other.body
            and self.content_type == other.content_type
            and self.content_encoding == other.content_encoding
            and self.properties == other.properties
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Message {self.content_type} {self.size} bytes>"

    def pack(self, *, with_body: bool = True) -> bytes:
        """The message as one self-contained frame for use between our own processes.

        The frame starts with four big-endian lengths (headers, content type + encoding, properties, body).
        It is private to this version of the project: never store it.
        """
        headers = self.raw_headers
        kind = f"{self.content_type}\n{self.content_encoding}".encode()
        properties = self.raw_properties
        if len(kind) > _MAX_TEXT or len(properties) > _MAX_TEXT:
            raise errors.InvalidTaskError("content type or properties of a message are over 64 KiB")
        body = self.body if with_body else b""
        head = _FRAME.pack(len(headers), len(kind), len(properties), len(body))
        return b"".join((head, headers, kind, properties, body))

    @classmethod
    def unpack(cls, frame: bytes | memoryview) -> Message:
        """The message that `pack` made. Raises `InvalidTaskError` on anything else."""
        view = memoryview(frame)
        try:
            n_headers, n_kind, n_properties, n_body = _FRAME.unpack_from(view)
        except struct.error as exc:
            raise errors.InvalidTaskError(f"not a message frame: {exc}") from exc
        kind_at = _FRAME.size + n_headers
        properties_at = kind_at + n_kind
        body_at = properties_at + n_properties
        if body_at + n_body != len(view):
            raise errors.InvalidTaskError(f"message frame of {len(view)} bytes announces {body_at + n_body}")
        content_type, _, encoding = bytes(view[kind_at:properties_at]).decode().partition("\n")
        return cls(
            bytes(view[_FRAME.size : kind_at]),
            bytes(view[body_at:]),
            content_type=content_type,
            content_encoding=encoding,
            properties=bytes(view[properties_at:body_at]) if n_properties else None,
        )


_decode: Final = json.JSONDecoder().raw_decode
_compact: Final = json.JSONEncoder(separators=(",", ":")).encode


def _load(text: bytes | str) -> Any:
    """JSON as `json.loads` reads it, without the calls in Python that it makes around the C code."""
    if isinstance(text, bytes) and text[:1] == b"{" and text[1:2] != b"\0":
        text = text.decode("utf-8", "surrogatepass")
    if isinstance(text, str) and text[:1] == "{":
        value, end = _decode(text)
        if end == len(text):
            return value
    return json.loads(text)


def _parse_properties(text: bytes | str) -> dict[str, Any]:
    try:
        found = _load(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parse_headers(text: bytes | str) -> dict[str, Any]:
    try:
        headers = _load(text)
    except (ValueError, RecursionError) as exc:
        raise errors.InvalidTaskError(f"headers are not JSON: {exc}") from exc
    if not isinstance(headers, dict):
        raise errors.InvalidTaskError(f"headers are a JSON {type(headers).__name__}, not an object")
    return headers


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    if not isinstance(value, str) or not value:
        raise errors.InvalidTaskError(f"header {name!r} is {value!r}; a text is needed")
    return value


class Publication:
    """A message and where it goes.

    `due` is the point in time (Unix seconds) before which nobody may run it, `expires` the one after which it
    need not be kept. `exchange` and `routing_key` matter to brokers that route; `queue` is the queue the
    router chose, and the only address where they do not.
    """

    __slots__ = ("due", "exchange", "expires", "message", "persistent", "priority", "queue", "routing_key")

    def __init__(
        self,
        message: Message,
        queue: str,
        *,
        priority: int = 0,
        due: float | None = None,
        expires: float | None = None,
        exchange: str = "",
        routing_key: str = "",
        persistent: bool = True,
    ) -> None:
        self.message = message
        self.queue = queue
        self.priority = priority
        self.due = due
        self.expires = expires
        self.exchange = exchange
        self.routing_key = routing_key or ("" if exchange else queue)
        self.persistent = persistent

    def __repr__(self) -> str:
        return f"<Publication to {self.queue!r}: {self.message!r}>"


def pack_parts(parts: Sequence[bytes]) -> bytes:
    """Several byte strings as one, with their lengths in front; for our own pipes."""
    return struct.pack(f"!I{len(parts)}I", len(parts), *map(len, parts)) + b"".join(parts)


def unpack_parts(frame: bytes | memoryview) -> list[bytes]:
    """What `pack_parts` joined. Raises ValueError on a damaged frame."""
    view = memoryview(frame)
    try:
        (count,) = struct.unpack_from("!I", view)
        if count > len(view) // 4:
            raise ValueError(f"frame of {len(view)} bytes announces {count} parts")
        lengths = struct.unpack_from(f"!{count}I", view, 4)
    except struct.error as exc:
        raise ValueError(f"damaged frame: {exc}") from exc
    start = 4 + 4 * count
    if start + sum(lengths) != len(view):
        raise ValueError(f"frame of {len(view)} bytes announces {start + sum(lengths)}")
    parts = []
    for length in lengths:
        parts.append(bytes(view[start : start + length]))
        start += length
    return parts
