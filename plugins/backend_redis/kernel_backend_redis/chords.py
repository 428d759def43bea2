"""The parts of chords, under the keys and in the form that Celery keeps them in, so that the members of one chord may
run in workers of both. The keys are told in `kernel_lib_redis.chords`.
"""

from __future__ import annotations

import base64
import json
import re
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Final

from kernel import errors
from kernel.interfaces.backend import Record, ResultCodecs

_JSON: Final = ("application/json", "utf-8")
_PICKLE: Final = "application/x-python-serialize"
_MSGPACK: Final = "application/x-msgpack"
_YAML: Final = "application/x-yaml"
# What is written as JSON is put in and cut out again as the text it is. The number is 1 with Celery.
_HEAD: Final = re.compile(rb'\[([1-9]\d*), "([^"\\]*)", "([^"\\]*)", ')
_decode: Final = json.JSONDecoder().raw_decode


def encode(record: Record, codecs: ResultCodecs | None) -> bytes:
    """A part: ``[1 + attempt, id, state, result]`` in the serializer of the result."""
    kind = (record.content_type, record.content_encoding)
    text = _embedded(record.result) if kind == _JSON else None
    if text is not None:
        return f"[{1 + record.attempt}, {quote(record.id)}, {quote(record.state)}, {text}]".encode()
    whole = [1 + record.attempt, record.id, record.state]
    if codecs is not None and record.content_type in (_PICKLE, _MSGPACK, _YAML):
        try:
            return codecs.encode_result([*whole, codecs.decode_result(record.result, *kind)], record.content_type)[0]
        except errors.KernelError:
            pass  # this app does not read its own format
    content = {"type": kind[0], "encoding": kind[1], "result": base64.b64encode(record.result).decode()}
    # One more than Celery unpacks: it is told that it cannot read this, and does not take it for the value.
    return json.dumps([*whole, None, content]).encode()


def decode(raw: bytes, codecs: ResultCodecs | None) -> Record:
    """The record of a part, whoever wrote it. Raises `DecodeError` for what is none."""
    head = _HEAD.match(raw)
    if head is not None and not raw.endswith(b"}]"):
        return Record(
            id=head[2].decode(), state=head[3].decode(), result=raw[head.end() : -1], attempt=int(head[1]) - 1
        )
    kind = _JSON[0] if raw[:1] == b"[" else _type_of(raw)
    try:
        if kind == _JSON[0]:
            found = json.loads(raw)
        elif codecs is None:
            raise errors.DecodeError("there are no codecs")
        else:
            found = codecs.decode_result(raw, kind)
        number, task_id, state, value, *content = found
        record = Record(id=str(task_id), state=str(state), attempt=max(0, int(number) - 1))
        if content:
            record.content_type, record.content_encoding = content[0]["type"], content[0]["encoding"]
            record.result = base64.b64decode(content[0]["result"])
        elif kind == _JSON[0]:
            record.result = json.dumps(value).encode()
        elif codecs is not None:
            record.result, record.content_type, record.content_encoding = codecs.encode_result(value, kind)
    except (TypeError, ValueError, KeyError, RecursionError) as exc:
        raise errors.DecodeError(f"a part of a chord is {raw!r:.80}, which is none: {exc}") from exc
    return record


def _embedded(raw: bytes) -> str | None:
    """JSON text as it is; None for what is none."""
    try:
        text = raw.decode()
        _, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    return text if end == len(text) else None


def _type_of(raw: bytes) -> str:
    first: Any = raw[0] if raw else 0
    if first == 0x80:
        return _PICKLE
    return _MSGPACK if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD) else _YAML
