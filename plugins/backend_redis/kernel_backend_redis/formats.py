"""Documents in the formats that Celery's settings can ask for: another serializer than JSON, and compressed.

Celery keeps a whole document in `result_serializer` and says nowhere which one that is; in front of compressed ones it
puts a mark. The first byte tells them apart: JSON begins with a brace, a pickle with 0x80 and its protocol, MessagePack
with the size of its map, and YAML is none of these.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

from kernel import errors
from kernel.interfaces.backend import Record, ResultCodecs
from kernel_backend_redis import documents

_log = logging.getLogger("kernel.redis")

_MARK: Final = b"\x00celery-compressed\x00"
_JSON: Final = "application/json"
_PICKLE: Final = "application/x-python-serialize"
_MSGPACK: Final = "application/x-msgpack"
_YAML: Final = "application/x-yaml"
_MAP_OF_MANY: Final = (0xDE, 0xDF)
# The status of a document that may not be read: in YAML a line, elsewhere a word behind a few bytes that say how long
# it is.
_STATUS: Final = {
    _YAML: re.compile(rb"^status: ([A-Z_]+)\s*$", re.MULTILINE),
    _PICKLE: re.compile(rb"status[^A-Z]{1,12}?([A-Z_]{3,64})"),
    _MSGPACK: re.compile(rb"status[^A-Z]{1,5}?([A-Z_]{3,64})"),
}
_PLAIN: Final = ("group_id", "parent_id", "name", "worker", "retries", "queue")


class Formats:
    """Documents of records and back, as the codecs of an app say; without any, JSON alone."""

    def __init__(self, codecs: ResultCodecs | None) -> None:
        self._codecs = codecs
        self._warned = False

    def check(self) -> None:
        """Raises `DriverError` when `result_compression` names what is not there."""
        if self._codecs is not None:
            self._codecs.press_result(b"")

    def encode(self, record: Record) -> bytes:
        """The document of a record, in the serializer that its result has."""
        codecs = self._codecs
        if codecs is None:
            return documents.encode(record)
        document = None if record.content_type == _JSON else self._whole(codecs, record)
        if document is None:
            document = documents.encode(record)
        pressed = codecs.press_result(document)
        return document if pressed is None else b"".join((_MARK, pressed[1].encode(), b"\x00", pressed[0]))

    def decode(self, id: str, raw: bytes) -> Record | None:
        """The record of a document, whoever wrote it; None for what is no such document.

        One that the app may not or cannot read is a record with the document as its result: whoever asks for the
        value is told why.
        """
        if raw[:1] == b"{" or not raw:
            return documents.decode(id, raw)
        codecs = self._codecs
        if raw.startswith(_MARK):
            return self._inflated(id, raw)
        content_type = _type_of(raw)
        try:
            if codecs is None:
                raise errors.DecodeError("there are no codecs")
            value = codecs.decode_result(raw, content_type)
            return _record(id, value, codecs, content_type)
        except (errors.KernelError, TypeError, ValueError, RecursionError):
            return _sealed(id, raw, content_type)

    def _inflated(self, id: str, raw: bytes) -> Record | None:
        name, _, data = raw[len(_MARK) :].partition(b"\x00")
        try:
            if self._codecs is None:
                raise errors.DecodeError("there are no codecs")
            inflated = self._codecs.inflate(data, name.decode("utf-8", "replace"))
        except errors.KernelError as exc:
            if not self._warned:
                self._warned = True
                _log.warning("a compressed result, of %s for one, cannot be read and counts as none: %s", id, exc)
            return None
        # A document in a document is nobody's.
        return None if inflated.startswith(_MARK) else self.decode(id, inflated)

    def _whole(self, codecs: ResultCodecs, record: Record) -> bytes | None:
        """The document in the format of the result; None where this app does not read that format itself."""
        try:
            return codecs.encode_result(_meta(record, codecs), record.content_type)[0]
        except errors.KernelError:
            return None


def _type_of(raw: bytes) -> str:
    first = raw[0]
    if first == 0x80:
        return _PICKLE
    return _MSGPACK if 0x80 < first < 0x90 or first in _MAP_OF_MANY else _YAML


def _meta(record: Record, codecs: ResultCodecs) -> dict[str, Any]:
    def value(data: bytes) -> Any:
        return codecs.decode_result(data, record.content_type, record.content_encoding)

    done = None if record.date_done is None else datetime.fromtimestamp(record.date_done, UTC).isoformat()
    meta: dict[str, Any] = {
        "status": record.state,
        "result": value(record.result),
        "traceback": record.traceback,
        "children": None if record.children is None else json.loads(record.children),
        "date_done": done,
    }
    meta.update((name, found) for name in _PLAIN if (found := getattr(record, name)) is not None)
    for name in ("args", "kwargs"):
        data: bytes | None = getattr(record, name)
        if data is not None:
            meta[name] = value(data)
    if record.stamps is not None:
        meta["stamped_headers"] = json.loads(record.stamps).get("stamped_headers")
        meta["kernel_stamps"] = record.stamps
    if record.attempt:
        meta["kernel_attempt"] = record.attempt
    meta["task_id"] = record.id
    return meta


def _record(id: str, meta: Any, codecs: ResultCodecs, content_type: str) -> Record | None:
    """The record of a decoded document; None for what is none. Raises `EncodeError`."""
    if not isinstance(meta, dict) or not isinstance(meta.get("status"), str):
        return None

    # What is none of the bytes goes the way of every document.
    rest = {name: value for name, value in meta.items() if name not in ("result", "args", "kwargs")}
    if isinstance(rest.get("date_done"), datetime):
        # YAML has moments of its own.
        rest["date_done"] = rest["date_done"].isoformat()
    record = documents.decode(id, json.dumps(rest, default=str).encode())
    if record is None:
        return None
    record.result, record.content_type, record.content_encoding = codecs.encode_result(meta.get("result"), content_type)
    for name in ("args", "kwargs"):
        if meta.get(name) is not None:
            setattr(record, name, codecs.encode_result(meta[name], content_type)[0])
    return record


def _sealed(id: str, raw: bytes, content_type: str) -> Record | None:
    found = _STATUS[content_type].search(raw)
    if found is None:
        return None
    encoding = "utf-8" if content_type == _YAML else "binary"
    return Record(
        id=id, state=found[1].decode("ascii"), result=raw, content_type=content_type, content_encoding=encoding
    )
