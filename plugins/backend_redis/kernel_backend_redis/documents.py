"""Records as the JSON documents that Celery keeps, and back.

The result is put in as the text it is, and cut out again, so that nobody decodes and encodes it on the way. What is no
JSON lies in ``kernel_content``, as base64; an `attempt` above 0 stands right behind the status, where a script on the
server finds it without reading the rest.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Final

from kernel import states
from kernel.interfaces.backend import Record

_JSON: Final = ("application/json", "utf-8")
_HEAD: Final = re.compile(r'\{"status": "([^"\\]*)", (?:"kernel_attempt": (\d+), )?"result": ')
# What stands behind the result of most tasks: nothing that has to be parsed.
_TEXT: Final = r'"([^"\\\x00-\x1f]*)"'
_TAIL: Final = re.compile(
    rf', "traceback": null, "children": (null|\[\]), "date_done": {_TEXT}'
    rf'(?:, "group_id": {_TEXT})?(?:, "parent_id": {_TEXT})?, "task_id": {_TEXT}\}}'
)
_decode: Final = json.JSONDecoder().raw_decode
_encode: Final = json.JSONEncoder().encode
_EXTENDED: Final = ("name", "worker", "retries", "queue")
_BYTES: Final = ("args", "kwargs")
_NO_MORE: Final = (None,) * 7


def encode(record: Record) -> bytes:
    """The document of a record."""
    hidden: dict[str, Any] = {}
    result = _embedded(record.result) if (record.content_type, record.content_encoding) == _JSON else None
    if result is None:
        hidden = {
            "type": record.content_type,
            "encoding": record.content_encoding,
            "result": base64.b64encode(record.result).decode(),
        }
        result = "null"
    attempt = f'"kernel_attempt": {record.attempt}, ' if record.attempt else ""
    parts = [
        f'{{"status": {quote(record.state)}, {attempt}"result": {result}, "traceback": {_text(record.traceback)}',
        f'"children": {record.children or "null"}',
        f'"date_done": {_date(record)}',
    ]
    if record.group_id is not None:
        parts.append(f'"group_id": {quote(record.group_id)}')
    if record.parent_id is not None:
        parts.append(f'"parent_id": {quote(record.parent_id)}')
    if _more(record) != _NO_MORE:
        _extend(record, parts, hidden)
    if hidden:
        parts.append(f'"kernel_content": {_encode(hidden)}')
    parts.append(f'"task_id": {quote(record.id)}}}')
    return ", ".join(parts).encode("utf-8", "surrogatepass")


def _text(value: str | None) -> str:
    return "null" if value is None else quote(value)


def _more(record: Record) -> tuple[object, ...]:
    """What is there of a record where results are extended."""
    return record.name, record.worker, record.retries, record.queue, record.args, record.kwargs, record.stamps


def _extend(record: Record, parts: list[str], hidden: dict[str, Any]) -> None:
    for name in _EXTENDED:
        if (value := getattr(record, name)) is not None:
            parts.append(f'"{name}": {_encode(value)}')
    for name in _BYTES:
        raw: bytes | None = getattr(record, name)
        if raw is None:
            continue
        text = _embedded(raw) if (record.content_type, record.content_encoding) == _JSON else None
        if text is None:
            hidden[name] = base64.b64encode(raw).decode()
        else:
            parts.append(f'"{name}": {text}')
    if record.stamps is not None:
        stamps = json.loads(record.stamps)
        parts.append(f'"stamped_headers": {_encode(stamps.get("stamped_headers"))}')
        # Celery has each stamp under a name of its own; one that is called like a field of ours stays out.
        parts.append(f'"kernel_stamps": {_encode(record.stamps)}')


def _embedded(raw: bytes) -> str | None:
    """JSON text as it is; None for what is none."""
    try:
        text = raw.decode()
        _, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    return text if end == len(text) else None


def _date(record: Record) -> str:
    if record.date_done is None:
        return "null"
    return f'"{datetime.fromtimestamp(record.date_done, UTC).isoformat()}"'


def decode(id: str, raw: bytes) -> Record | None:
    """The record of a document, whoever wrote it; None for what is no such document."""
    try:
        text = raw.decode("utf-8", "surrogatepass")
        head = _HEAD.match(text)
        if head is None:
            return _decode_whole(id, json.loads(text))
        start = head.end()
        _, end = _decode(text, start)
        tail = _TAIL.fullmatch(text, end)
        if tail is not None:
            return _usual(id, head, text[start:end], tail)
        rest = json.loads("{" + text[end:].removeprefix(", "))
        record = _record(id, {**rest, "status": head[1], "kernel_attempt": int(head[2] or 0)})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    if "result" not in rest.get("kernel_content", ()):
        record.result = text[start:end].encode("utf-8", "surrogatepass")
    return record


def _usual(id: str, head: re.Match[str], result: str, tail: re.Match[str]) -> Record:
    """The record of a document without anything unusual in it: as `_record` would make it."""
    state, (children, done, group_id, parent_id, _) = head[1], tail.groups()
    return Record(
        id=id,
        state=state,
        result=result.encode("utf-8", "surrogatepass"),
        children=None if children == "null" else children,
        date_done=_seconds(state, done),
        group_id=group_id,
        parent_id=parent_id,
        attempt=int(head[2] or 0),
    )


def _seconds(state: str, done: str | None) -> float | None:
    return datetime.fromisoformat(done).timestamp() if done and state in states.READY_STATES else None


def _decode_whole(id: str, document: dict[str, Any]) -> Record:
    record = _record(id, document)
    if "result" not in document.get("kernel_content", ()):
        record.result = _encode(document.get("result")).encode()
    return record


def _record(id: str, document: dict[str, Any]) -> Record:
    hidden: dict[str, str] = document.get("kernel_content") or {}
    state = str(document["status"])
    done, children = document.get("date_done"), document.get("children")
    return Record(
        id=id,
        state=state,
        result=base64.b64decode(hidden["result"]) if "result" in hidden else b"null",
        content_type=hidden.get("type", _JSON[0]),
        content_encoding=hidden.get("encoding", _JSON[1]),
        traceback=document.get("traceback"),
        children=None if children is None else _encode(children),
        date_done=_seconds(state, done),
        group_id=document.get("group_id"),
        parent_id=document.get("parent_id"),
        attempt=document.get("kernel_attempt") or 0,
        name=document.get("name"),
        args=_bytes("args", document, hidden),
        kwargs=_bytes("kwargs", document, hidden),
        worker=document.get("worker"),
        retries=document.get("retries"),
        queue=document.get("queue"),
        stamps=_stamps(document),
    )


def _bytes(name: str, document: dict[str, Any], hidden: dict[str, str]) -> bytes | None:
    if name in hidden:
        return base64.b64decode(hidden[name])
    value = document.get(name)
    return None if value is None else json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _stamps(document: dict[str, Any]) -> str | None:
    if "kernel_stamps" in document:
        return str(document["kernel_stamps"])
    names = document.get("stamped_headers")
    if not names:
        return None
    return _encode({"stamped_headers": names, "stamps": {name: document.get(name) for name in names}})
