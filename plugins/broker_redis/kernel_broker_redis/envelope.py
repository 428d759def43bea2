"""Messages as kombu writes them into Redis, and back.

An envelope is a JSON object with the keys ``body`` (base64), ``content-encoding``, ``content-type``, ``headers`` and
``properties``, in that order and with a space behind each colon and comma. Ours are the same, so that the headers can
be cut out of both as text: whoever passes a message on need not parse them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from binascii import a2b_base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kernel import errors
from kernel.message import Message, Publication
from kernel_broker_redis.base64 import from_base64, to_base64

_HEAD: Final = re.compile(
    rb'\{"body": "([A-Za-z0-9+/=]*)", "content-encoding": "([^"\\]*)", "content-type": "([^"\\]*)", "headers": '
)
_PROPERTIES: Final = b', "properties": {'
_ADDRESS: Final = b', "delivery_info": {'
_TAIL: Final = re.compile(
    rb', "delivery_info": \{"exchange": "[^"\\]*", "routing_key": "[^"\\]*"\}, "body_encoding": "base64", '
    rb'"delivery_tag": "[0-9a-f-]{36}", "kernel_sent": [0-9.]+\}\}'
)
_TRANSPORT: Final = ("delivery_info", "delivery_tag", "body_encoding", "kernel_sent")
UNREADABLE: Final = "application/x-unreadable"
"""The content type of what waited in a list and is no envelope: no worker accepts it."""

_encode: Final = json.JSONEncoder().encode
_KNOWN: Final = 1000


class Writer:
    """Writes envelopes of publications. Usable from any thread; a process that was forked off makes other tags."""

    def __init__(self) -> None:
        self._ends: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}
        self._tags: tuple[int, bytes, Iterator[int]] = (0, b"", iter(()))

    def publication(self, item: Publication) -> bytes:
        """Raises `InvalidTaskError` when its headers are no JSON object."""
        return b"".join(self.parts(item))

    def parts(self, item: Publication) -> tuple[bytes, ...]:
        """The same before it is joined."""
        message = item.message
        message.check()
        kind = message.content_encoding, message.content_type, item.queue
        known = self._ends.get(kind)
        if known is None:
            if len(self._ends) >= _KNOWN:
                self._ends.clear()
            known = self._ends[kind] = _middle(*kind[:2]), _address("", item.queue)
        middle, address = known
        pid, head, numbers = self._tags
        if pid != os.getpid():
            pid, head, numbers = self._tags = _tags()
        return (
            b'{"body": "',
            to_base64(message.body),
            middle,
            message.raw_headers,
            b', "properties": ',
            _open(message, item.priority),
            address,
            b'%b%012x", "kernel_sent": %.3f}}' % (head, next(numbers), time.time()),
        )


def _tags() -> tuple[int, bytes, Iterator[int]]:
    """Of this process: the beginning of its tags, which are texts of UUIDs of version 4, and what numbers them."""
    mark = os.urandom(16).hex()
    start = int(mark[20:], 16) >> 1  # far enough from the end of twelve digits
    return os.getpid(), f"{mark[:8]}-{mark[8:12]}-4{mark[13:16]}-a{mark[17:20]}-".encode(), itertools.count(start)


def encode(message: Message, queue: str, *, priority: int = 0, exchange: str = "") -> bytes:
    """The envelope of a message for `queue`. Raises `InvalidTaskError` when its headers are no JSON object."""
    message.check()
    _, head, numbers = _tags()
    return b"".join(
        (
            b'{"body": "',
            to_base64(message.body),
            _middle(message.content_encoding, message.content_type),
            message.raw_headers,
            b', "properties": ',
            _open(message, priority),
            _address(exchange, queue),
            b'%b%012x", "kernel_sent": %.3f}}' % (head, next(numbers), time.time()),
        )
    )


def _middle(encoding: str, content_type: str) -> bytes:
    return b'", "content-encoding": %b, "content-type": %b, "headers": ' % (_text(encoding), _text(content_type))


def _address(exchange: str, queue: str) -> bytes:
    address = f'"delivery_info": {{"exchange": {_encode(exchange)}, "routing_key": {_encode(queue)}}}, '
    return f'{address}"body_encoding": "base64", "delivery_tag": "'.encode()


def _open(message: Message, priority: int) -> bytes:
    """The properties, ready for more."""
    properties = message.raw_properties or b"{}"
    if properties[:1] + properties[-1:] != b"{}" or (priority and not _says(properties, priority)):
        known = {**message.properties, "priority": priority} if priority else message.properties
        properties = _encode(known).encode()
    return properties[:-1] + b", " if len(properties) > 2 else b"{"


def _says(properties: bytes, priority: int) -> bool:
    return b'"priority":%d' % priority in properties or b'"priority": %d' % priority in properties


def _text(value: str) -> bytes:
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return b'"%b"' % value.encode()
    return _encode(value).encode()


def decode(raw: bytes) -> Message:
    """The message of an envelope, whoever wrote it. Never raises: what is no envelope becomes a message that no worker
    accepts, and whose headers raise `InvalidTaskError`."""
    head = _HEAD.match(raw)
    at = raw.rfind(_PROPERTIES) if head else -1
    if head and at >= head.end():
        try:
            cut = raw.rfind(_ADDRESS, at)
            if cut > 0 and _TAIL.fullmatch(raw, cut):
                # One of ours: what was added lies at the end, and the rest is nobody's business here.
                return _message(head, raw, at, raw[at + len(_PROPERTIES) - 1 : cut] + b"}")
            properties = json.loads(raw[at + len(_PROPERTIES) - 1 : -1])
            if isinstance(properties, dict) and properties.get("body_encoding") == "base64":
                sent = _without_transport(properties)
                return _addressed(_message(head, raw, at, properties), sent)
        except ValueError:
            # A name inside the properties that looks like their beginning: the slow way reads it right.
            pass
    return _decode_slowly(raw)


def _message(head: re.Match[bytes], raw: bytes, at: int, properties: Mapping[str, Any] | bytes) -> Message:
    body, encoding, content_type = head.groups()
    return Message(
        raw[head.end() : at],
        from_base64(body),
        content_type=content_type.decode(),
        content_encoding=encoding.decode(),
        properties=properties,
    )


def _decode_slowly(raw: bytes) -> Message:
    try:
        document = json.loads(raw)
        headers, properties = document.get("headers") or {}, dict(document.get("properties") or {})
        body = _body(document.get("body"), properties.get("body_encoding"))
        if not isinstance(headers, dict):
            raise TypeError("headers")
        content_type = str(document.get("content-type") or "application/data")
        encoding = str(document.get("content-encoding") or "utf-8")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Message(raw, raw, content_type=UNREADABLE, content_encoding="binary")
    sent = _without_transport(properties)
    message = Message(headers, body, content_type=content_type, content_encoding=encoding, properties=properties)
    return _addressed(message, sent)


def _without_transport(properties: dict[str, Any]) -> Any:
    """Takes out what is the transport's own; what it says of where the message was sent to."""
    sent = properties.get("delivery_info")
    for name in _TRANSPORT:
        properties.pop(name, None)
    return sent


def _addressed(message: Message, sent: Any) -> Message:
    """The exchange that another producer sent it to goes into the headers, as in our own messages."""
    exchange, key = (sent.get("exchange"), sent.get("routing_key")) if isinstance(sent, dict) else (None, None)
    if not (exchange and isinstance(exchange, str) and isinstance(key, str)):
        return message
    try:
        return message.replace_headers(**{"kernel_exchange": exchange, "kernel_routing_key": key, **message.headers})
    except errors.InvalidTaskError:
        return message


def _body(body: Any, encoding: Any) -> bytes:
    if body is None:
        return b""
    if not isinstance(body, str):
        raise TypeError("body")
    if encoding == "base64":
        return a2b_base64(body)
    return body.encode("utf-8", "surrogatepass")


def name_of(message: Message) -> tuple[str, str]:
    """Id and task, empty where they cannot be read."""
    names = []
    for get in ("id", "task"):
        try:
            names.append(str(getattr(message, get)))
        except errors.InvalidTaskError:
            names.append("")
    return names[0], names[1]


def has_eta(message: Message) -> bool:
    """Whether the headers tell when it is due, so that it can wait in the list as Celery's messages do."""
    eta = message.headers.get("eta")
    return isinstance(eta, str) and eta[-6:-5] in ("+", "-")
