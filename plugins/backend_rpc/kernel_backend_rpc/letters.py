"""Records as the messages that Celery sends in answer to a call, and back.

The body is Celery's document in the serializer of the result, with the content type of the message saying which. The
result is put in as the JSON text that it is, so that nobody decodes and encodes it on the way; a result in a format
that this app cannot write a document in travels in ``kernel_content``, as base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from kernel import errors, states
from kernel.interfaces.backend import Record, ResultCodecs

_JSON: Final = ("application/json", "utf-8")
_PLAIN: Final = ("group_id", "parent_id", "name", "worker", "retries", "queue")
_encode: Final = json.JSONEncoder().encode
_decode: Final = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Letter:
    """What a reply is before anybody reads it."""

    body: bytes
    content_type: str
    content_encoding: str


def write(record: Record, codecs: ResultCodecs | None) -> Letter:
    """The reply that tells of a record."""
    kind = (record.content_type, record.content_encoding)
    if kind == _JSON:
        text = _embedded(record.result)
        if text is not None:
            return Letter(_document(record, text, {}), *_JSON)
    elif codecs is not None:
        try:
            body, *found = codecs.encode_result(_whole(record, codecs), record.content_type)
        except errors.KernelError:
            pass  # this app does not read that format itself
        else:
            return Letter(body, *found)
    hidden = {"type": kind[0], "encoding": kind[1], "result": base64.b64encode(record.result).decode()}
    return Letter(_document(record, "null", hidden), *_JSON)


def _document(record: Record, result: str, hidden: dict[str, str]) -> bytes:
    parts = [
        f'{{"task_id": {_encode(record.id)}, "status": {_encode(record.state)}, "result": {result}',
        f'"traceback": {_encode(record.traceback)}, "children": {record.children or "null"}',
        f'"date_done": {_encode(_date(record))}',
    ]
    parts += [f'"{name}": {_encode(value)}' for name in _PLAIN if (value := getattr(record, name)) is not None]
    for name in ("args", "kwargs"):
        raw: bytes | None = getattr(record, name)
        if raw is None:
            continue
        text = None if hidden else _embedded(raw)
        if text is None:
            hidden[name] = base64.b64encode(raw).decode()
        else:
            parts.append(f'"{name}": {text}')
    parts += [f'"{name}": {_encode(value)}' for name, value in _ours(record).items()]
    if hidden:
        parts.append(f'"kernel_content": {_encode(hidden)}')
    return (", ".join(parts) + "}").encode("utf-8", "surrogatepass")


def _whole(record: Record, codecs: ResultCodecs) -> dict[str, Any]:
    """The document as a value, for serializers that are no text. Raises what decoding raises."""

    def value(data: bytes) -> Any:
        return codecs.decode_result(data, record.content_type, record.content_encoding)

    found: dict[str, Any] = {
        "task_id": record.id,
        "status": record.state,
        "result": value(record.result),
        "traceback": record.traceback,
        "children": None if record.children is None else json.loads(record.children),
        "date_done": _date(record),
    }
    found.update((name, field) for name in _PLAIN if (field := getattr(record, name)) is not None)
    found.update((name, value(data)) for name in ("args", "kwargs") if (data := getattr(record, name)) is not None)
    return {**found, **_ours(record)}


def _ours(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if record.stamps is not None:
        found["stamped_headers"] = json.loads(record.stamps).get("stamped_headers")
        found["kernel_stamps"] = record.stamps
    if record.attempt:
        found["kernel_attempt"] = record.attempt
    return found


def _embedded(raw: bytes) -> str | None:
    """JSON text as it is; None for what is none."""
    try:
        text = raw.decode()
        _, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    return text if end == len(text) else None


def _date(record: Record) -> str | None:
    return None if record.date_done is None else datetime.fromtimestamp(record.date_done, UTC).isoformat()


def read(id: str, letter: Letter, codecs: ResultCodecs | None) -> Record | None:
    """The record that a reply to the call `id` tells of, whoever wrote it; None for what tells of none.

    A reply that the app may not or cannot read is a SUCCESS with the whole of it as its result: whoever asks for the
    value is told why.
    """
    kind = (letter.content_type, letter.content_encoding)
    try:
        if kind[0] == _JSON[0]:
            document = json.loads(letter.body)
        elif codecs is None:
            raise errors.DecodeError(f"there are no codecs for {kind[0]}")
        else:
            document = codecs.decode_result(letter.body, *kind)
    except (ValueError, RecursionError):
        return None
    except errors.KernelError:
        return Record(id=id, state=states.SUCCESS, result=letter.body, content_type=kind[0], content_encoding=kind[1])
    if not isinstance(document, dict) or not isinstance(document.get("status"), str):
        return None
    try:
        return _record(id, document, letter, codecs)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, errors.KernelError):
        return None


def _record(id: str, document: Mapping[str, Any], letter: Letter, codecs: ResultCodecs | None) -> Record:
    hidden: Mapping[str, str] = document.get("kernel_content") or {}
    state, done, children = document["status"], document.get("date_done"), document.get("children")
    record = Record(
        id=id,
        state=state,
        traceback=document.get("traceback"),
        children=None if children is None else _encode(children),
        date_done=_moment(done) if done and state in states.READY_STATES else None,
        attempt=int(document.get("kernel_attempt") or 0),
        stamps=_stamps(document),
    )
    for name in _PLAIN:
        setattr(record, name, document.get(name))
    if "result" in hidden:
        record.result = base64.b64decode(hidden["result"])
        record.content_type, record.content_encoding = hidden["type"], hidden["encoding"]
    else:
        value, kind = document.get("result"), letter.content_type
        record.result, record.content_type, record.content_encoding = _data(value, kind, codecs)
    for name in ("args", "kwargs"):
        if name in hidden:
            setattr(record, name, base64.b64decode(hidden[name]))
        elif document.get(name) is not None:
            setattr(record, name, _data(document[name], letter.content_type, codecs)[0])
    return record


def _data(value: Any, kind: str, codecs: ResultCodecs | None) -> tuple[bytes, str, str]:
    if kind == _JSON[0] or codecs is None:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), *_JSON
    return codecs.encode_result(value, kind)


def _moment(done: Any) -> float:
    return (done if isinstance(done, datetime) else datetime.fromisoformat(done)).timestamp()


def _stamps(document: Mapping[str, Any]) -> str | None:
    if "kernel_stamps" in document:
        return str(document["kernel_stamps"])
    names = document.get("stamped_headers")
    if not names:
        return None
    return _encode({"stamped_headers": names, "stamps": {name: document.get(name) for name in names}})


def lost(id: str, why: str, now: float) -> Record:
    """What a caller is told whose result will not come."""
    text = f"the result of task {id} was lost: {why}. The task itself may have run"
    error = {"exc_type": "ResultLost", "exc_message": [text], "exc_module": "kernel.errors"}
    return Record(id=id, state=states.FAILURE, result=_encode(error).encode(), date_done=now)
