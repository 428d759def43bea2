"""Assignments and endings as bytes between the engine and its children: bounded struct headers around
untouched bytes, and JSON for what is small. Nothing here is stored, so nothing here is versioned.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from kernel import errors
from kernel.interfaces.backend import ChordPart, Record
from kernel.interfaces.broker import Delivery, Verdict
from kernel.message import Message, Publication, pack_parts, unpack_parts
from kernel.worker.assignment import Assignment, Ending, Obituary, are_plain

_BATCH: Final = struct.Struct("!QH")  # epoch, count
# seq, flags, starts, queue, token, obituary, kind of content, properties, headers, body
_ITEM: Final = struct.Struct("!QBHHHHHHII")
_END: Final = struct.Struct("!QQBBddHHHI")  # child, seq, verdict, flags, delay, runtime, state, task, reason, payload
_DONE: Final = struct.Struct("!QHHI")  # child, state, task, count
_PAYLOAD: Final = struct.Struct("!II")  # records, parts of chords; what it completes is behind them
_REPORT: Final = struct.Struct("!QH")  # child, topic
_NOTE: Final = struct.Struct("!QQQ")  # child, seq, epoch

_SEEN, _EARLY, _JOINED = 1, 2, 4
_ARGS, _KWARGS, _PREPARED = 1, 2, 4
_CHARGED = 1
_VERDICTS: Final = (Verdict.ACK, Verdict.REQUEUE, Verdict.DEAD)
_CODE: Final[Mapping[Verdict | None, int]] = {verdict: code for code, verdict in enumerate(_VERDICTS)}
_TEXT_CHARS: Final = 4000  # twelve bytes each at worst, and 65,535 is what the header can say

KIND_END: Final = b"E"
KIND_ENDS: Final = b"M"
KIND_DONE: Final = b"S"
KIND_READY: Final = b"R"
KIND_REPORT: Final = b"P"
KIND_DROPPED: Final = b"D"
KIND_BYE: Final = b"B"

_RECORD_TEXTS: Final = (
    "id",
    "state",
    "content_type",
    "content_encoding",
    "traceback",
    "children",
    "date_done",
    "group_id",
    "parent_id",
    "attempt",
    "reply_to",
    "name",
    "worker",
    "retries",
    "queue",
    "stamps",
)
_PREPARED_TEXTS: Final = ("id", "state", "attempt")


# assignments ------------------------------------------------------------------------------------------------


def pack_assignment(
    seq: int,
    handed: Delivery | Assignment,
    *,
    early_ack: bool = False,
    obituary: Obituary | None = None,
    joined: bool = False,
) -> bytes:
    """One assignment; several are joined by `pack_batch`. Raises `InvalidTaskError` for a message whose content type
    or properties are over 64 KiB."""
    message = handed.message
    end = b""
    if obituary is not None:
        words = [obituary.state, obituary.error, obituary.text[:_TEXT_CHARS], _CODE.get(obituary.verdict)]
        end = json.dumps(words).encode()
    parts = (
        handed.queue.encode(),
        handed.token.encode(),
        end,
        f"{message.content_type}\n{message.content_encoding}".encode(),
        message.raw_properties,
        message.raw_headers,
        message.body,
    )
    flags = (_SEEN if handed.seen else 0) | (_EARLY if early_ack else 0) | (_JOINED if joined else 0)
    try:
        head = _ITEM.pack(seq, flags, min(handed.starts, 0xFFFF), *map(len, parts))
    except struct.error as exc:
        raise errors.InvalidTaskError(
            f"a part of the message cannot be handed out (properties and the like: 64 KiB, body: 4 GiB): {exc}"
        ) from exc
    return head + b"".join(parts)


def pack_batch(epoch: int, items: Sequence[bytes]) -> bytes:
    return _BATCH.pack(epoch, len(items)) + b"".join(items)


def unpack_batch(frame: bytes, valid: Callable[[], bool] | None = None) -> tuple[int, list[Assignment]]:
    """The epoch and the assignments of a datagram. Raises ValueError on damage."""
    try:
        epoch, count = _BATCH.unpack_from(frame)
        return epoch, list(_items(frame, count, valid))
    except struct.error as exc:
        raise ValueError(f"damaged datagram of {len(frame)} bytes: {exc}") from exc


def numbers(frame: bytes) -> list[int]:
    """The sequence numbers in a datagram, whatever else is in it."""
    _, count = _BATCH.unpack_from(frame)
    found, at = [], _BATCH.size
    for _ in range(count):
        seq, _, _, *lengths = _ITEM.unpack_from(frame, at)
        found.append(seq)
        at += _ITEM.size + sum(lengths)
    return found


def _items(frame: bytes, count: int, valid: Callable[[], bool] | None) -> Iterator[Assignment]:
    at = _BATCH.size
    for _ in range(count):
        seq, flags, starts, n_queue, n_token, n_end, n_kind, n_properties, n_headers, n_body = _ITEM.unpack_from(
            frame, at
        )
        token_at = at + _ITEM.size + n_queue
        end_at = token_at + n_token
        kind_at = end_at + n_end
        properties_at = kind_at + n_kind
        headers_at = properties_at + n_properties
        body_at = headers_at + n_headers
        content_type, _, encoding = frame[kind_at:properties_at].decode().partition("\n")
        message = Message(
            frame[headers_at:body_at],
            frame[body_at : body_at + n_body],
            content_type=content_type,
            content_encoding=encoding,
            properties=frame[properties_at:headers_at],
        )
        yield Assignment(
            seq,
            message,
            frame[at + _ITEM.size : token_at].decode(),
            frame[token_at:end_at].decode(),
            starts=starts,
            seen=bool(flags & _SEEN),
            early_ack=bool(flags & _EARLY),
            obituary=_obituary(frame[end_at:kind_at]) if n_end else None,
            joined=bool(flags & _JOINED),
            valid=valid,
        )
        at = body_at + n_body
    if at != len(frame):
        raise ValueError(f"datagram of {len(frame)} bytes announces {at}")


def _obituary(text: bytes) -> Obituary:
    state, error, reason, verdict = json.loads(text)
    return Obituary(state, error, reason, None if verdict is None else _VERDICTS[verdict])


# endings ----------------------------------------------------------------------------------------------------


def pack_ending(child: int, ending: Ending, *, with_payload: bool) -> bytes:
    """An ending as a datagram; all that is settled with it goes along where the engine is to store it."""
    state, task = ending.state.encode(), ending.task.encode()[:2000]
    reason = ending.reason.encode("utf-8", "replace")[:8000]
    payload = b""
    if with_payload and ending.has_payload:
        payload = _pack_payload(ending)
    head = _END.pack(
        child,
        ending.seq,
        _CODE[ending.verdict],
        _CHARGED if ending.charged else 0,
        ending.delay,
        ending.runtime,
        len(state),
        len(task),
        len(reason),
        len(payload),
    )
    return b"".join((KIND_END, head, state, task, reason, payload))


def pack_endings(child: int, endings: Sequence[Ending], *, with_payload: bool) -> bytes:
    """One ending, or several, as a datagram. The usual ones, of the same task and with nothing but an ACK, take
    sixteen bytes each."""
    if are_plain(endings, with_payload=with_payload):
        first = endings[0]
        state, task = first.state.encode(), first.task.encode()[:2000]
        numbers: list[int | float] = []
        for ending in endings:
            numbers += (ending.seq, ending.runtime)
        head = _DONE.pack(child, len(state), len(task), len(endings))
        return b"".join((KIND_DONE, head, state, task, struct.pack("!" + "Qd" * len(endings), *numbers)))
    packed = [pack_ending(child, ending, with_payload=with_payload) for ending in endings]
    return packed[0] if len(packed) == 1 else KIND_ENDS + pack_parts(packed)


def unpack_done(frame: bytes) -> tuple[str, str, list[tuple[int, float]]]:
    """State and task of the plain endings in a datagram, and the number and runtime of each. Raises ValueError on
    damage."""
    try:
        _, n_state, n_task, count = _DONE.unpack_from(frame, 1)
        task_at = 1 + _DONE.size + n_state
        numbers_at = task_at + n_task
        if numbers_at + 16 * count != len(frame):
            raise ValueError(f"damaged endings of {len(frame)} bytes, {count} are announced")
        ends = list(struct.iter_unpack("!Qd", frame[numbers_at:]))
    except struct.error as exc:
        raise ValueError(f"damaged endings of {len(frame)} bytes: {exc}") from exc
    return frame[1 + _DONE.size : task_at].decode(), frame[task_at:numbers_at].decode("utf-8", "replace"), ends


def unpack_endings(frame: bytes) -> list[bytes]:
    """The single endings of a datagram of several. Raises ValueError on damage."""
    return unpack_parts(memoryview(frame)[1:])


def unpack_ending(frame: bytes) -> tuple[int, Ending]:
    """The child's number and the ending. Raises ValueError on damage."""
    view = memoryview(frame)
    try:
        child, seq, verdict, flags, delay, runtime, *lengths = _END.unpack_from(view, 1)
    except struct.error as exc:
        raise ValueError(f"damaged ending of {len(frame)} bytes: {exc}") from exc
    at = 1 + _END.size
    n_state, n_task, n_reason, n_payload = lengths
    state = str(view[at : at + n_state], "utf-8")
    at += n_state
    task = str(view[at : at + n_task], "utf-8", "replace")
    at += n_task
    reason = str(view[at : at + n_reason], "utf-8", "replace")
    at += n_reason
    ending = Ending(
        seq,
        _VERDICTS[verdict],
        state=state,
        delay=delay,
        charged=bool(flags & _CHARGED),
        reason=reason,
        runtime=runtime,
        task=task,
    )
    if n_payload:
        _unpack_payload(view[at : at + n_payload], ending)
    return child, ending


def _pack_payload(ending: Ending) -> bytes:
    parts = [_PAYLOAD.pack(len(ending.records), len(ending.parts)) + ending.completes.encode()]
    for record in ending.records:
        parts += _pack_record(record)
    known = {record.id for record in ending.records if not record.prepared}
    for part in ending.parts:
        parts.append(json.dumps([part.chord_id, part.size, part.index, part.added]).encode())
        # Of a record that goes along it has the same result.
        parts += (part.record.id.encode(),) if part.record.id in known else (b"", *_pack_record(part.record))
    for item in ending.publications:
        meta = [item.queue, item.priority, item.due, item.expires, item.exchange, item.routing_key, item.persistent]
        parts += [json.dumps(meta).encode(), item.message.pack()]
    return pack_parts(parts)


def _pack_record(record: Record) -> tuple[bytes, ...]:
    if record.prepared:
        texts = json.dumps([getattr(record, name) for name in _PREPARED_TEXTS]).encode()
        return texts, bytes([_PREPARED]), pack_parts(record.prepared), b"", b""
    texts = json.dumps([getattr(record, name) for name in _RECORD_TEXTS]).encode()
    flags = (_ARGS if record.args is not None else 0) | (_KWARGS if record.kwargs is not None else 0)
    return texts, bytes([flags]), record.result, record.args or b"", record.kwargs or b""


def _unpack_payload(view: memoryview, ending: Ending) -> None:
    head, *rest = unpack_parts(view)
    n_records, n_parts = _PAYLOAD.unpack_from(head)
    ending.completes = head[_PAYLOAD.size :].decode()
    words = iter(rest)
    ending.records = [_unpack_record(words) for _ in range(n_records)]
    known = {record.id: record for record in ending.records}
    ending.parts = [_unpack_part(words, known) for _ in range(n_parts)]
    ending.publications = [_unpack_publication(meta, message) for meta, message in zip(words, words, strict=True)]


def _unpack_record(words: Iterator[bytes]) -> Record:
    texts, flags, result, args, kwargs = (next(words) for _ in range(5))
    if flags[0] & _PREPARED:
        return Record(**dict(zip(_PREPARED_TEXTS, json.loads(texts), strict=True)), prepared=unpack_parts(result))
    return Record(
        **dict(zip(_RECORD_TEXTS, json.loads(texts), strict=True)),
        result=result,
        args=args if flags[0] & _ARGS else None,
        kwargs=kwargs if flags[0] & _KWARGS else None,
    )


def _unpack_part(words: Iterator[bytes], known: Mapping[str, Record]) -> ChordPart:
    chord_id, size, index, added = json.loads(next(words))
    member = next(words)
    return ChordPart(chord_id, size, index, known[member.decode()] if member else _unpack_record(words), added)


def _unpack_publication(meta: bytes, message: bytes) -> Publication:
    queue, priority, due, expires, exchange, routing_key, persistent = json.loads(meta)
    return Publication(
        Message.unpack(message),
        queue,
        priority=priority,
        due=due,
        expires=expires,
        exchange=exchange,
        routing_key=routing_key,
        persistent=persistent,
    )


# the rest ---------------------------------------------------------------------------------------------------


def pack_note(kind: bytes, child: int, seq: int = 0, epoch: int = 0) -> bytes:
    """READY, DROPPED (which number, of which epoch) or BYE of a child."""
    return kind + _NOTE.pack(child, seq, epoch)


def unpack_note(frame: bytes) -> tuple[int, int, int]:
    """The child, the sequence number and the epoch."""
    child, seq, epoch = _NOTE.unpack_from(frame, 1)
    return child, seq, epoch


def pack_report(child: int, topic: str, data: Mapping[str, Any]) -> bytes:
    """A plugin's report from a child. Raises ValueError when it is over 32 KiB or no JSON."""
    name, text = topic.encode(), json.dumps(data).encode()
    if len(name) + len(text) > 32_768:
        raise ValueError(f"report {topic!r} has {len(text)} bytes; 32 KiB is the limit")
    return KIND_REPORT + _REPORT.pack(child, len(name)) + name + text


def unpack_report(frame: bytes) -> tuple[int, str, dict[str, Any]]:
    child, n_topic = _REPORT.unpack_from(frame, 1)
    at = 1 + _REPORT.size
    return child, frame[at : at + n_topic].decode(), json.loads(frame[at + n_topic :])
