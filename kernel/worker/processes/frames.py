"""Assignments and endings as bytes between the engine and its children. Assignments are marshalled: what a broker's
driver has decoded is not written as text for the child to read again, and what it left as text stays that. Endings,
which come from processes that run anybody's code, have bounded struct headers around untouched bytes, and JSON for
what is small. Nothing here is stored, so nothing here is versioned.
"""

from __future__ import annotations

import json
import marshal
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from kernel import errors
from kernel.interfaces.backend import ChordPart, Record
from kernel.interfaces.broker import Delivery, Verdict
from kernel.message import Message, Publication, pack_parts, unpack_parts
from kernel.shape import Shape, ShapedMessage
from kernel.worker.assignment import Assignment, Ending, Lent, Obituary, Step, are_plain

Item = tuple[int, int, int, str, str, Any, tuple[str, str], Any, Any, bytes, Any]
"""Number, flags, starts, queue, token, obituary, kind of the content, headers, properties, body, and of one that was
lent its key and the numbers to go on with. In place of headers and properties the shape of a message, which is written
once for all that have it, and its values."""
_END: Final = struct.Struct("!QQBBddHHHI")  # child, seq, verdict, flags, delay, runtime, state, task, reason, payload
_DONE: Final = struct.Struct("!QHHI")  # child, state, task, count
_PAYLOAD: Final = struct.Struct("!II")  # records, parts of chords; what it completes is behind them
_REPORT: Final = struct.Struct("!QH")  # child, topic
_NOTE: Final = struct.Struct("!QQQ")  # child, seq, epoch

_SEEN, _EARLY, _JOINED = 1, 2, 4
_ARGS, _KWARGS, _PREPARED = 1, 2, 4
_CHARGED, _UNSURE = 1, 2
_VERDICTS: Final = (Verdict.ACK, Verdict.REQUEUE, Verdict.DEAD)
_CODE: Final[Mapping[Verdict | None, int]] = {verdict: code for code, verdict in enumerate(_VERDICTS)}
_TEXT_CHARS: Final = 4000

KIND_END: Final = b"E"
KIND_ENDS: Final = b"M"
KIND_OWN: Final = b"O"
KIND_DONE: Final = b"S"
KIND_STORED: Final = b"T"
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


# assignments ------------------------------------------------------------------------------------------------


def pack_assignment(
    seq: int,
    handed: Delivery | Assignment,
    *,
    early_ack: bool = False,
    obituary: Obituary | None = None,
    joined: bool = False,
    lent: Lent | None = None,
) -> Item:
    """One assignment, for `pack_batch`."""
    message = handed.message
    headers: Any
    properties: Any
    if isinstance(message, ShapedMessage):
        headers, properties = message.shape.packed, message.values
    else:
        headers, properties = message.at_hand
    words = None
    if obituary is not None:
        words = (obituary.state, obituary.error, obituary.text[:_TEXT_CHARS], _CODE.get(obituary.verdict))
    flags = (_SEEN if handed.seen else 0) | (_EARLY if early_ack else 0) | (_JOINED if joined else 0)
    kind = (message.content_type, message.content_encoding)
    parts = headers, properties, message.body
    key = None if lent is None else tuple(lent)
    return seq, flags, handed.starts, handed.queue, handed.token, words, kind, *parts, key


def pack_batch(epoch: int, items: list[Item]) -> bytes:
    """Assignments as a datagram. Raises `InvalidTaskError` when one cannot be handed out: it has 2 GiB, or there is
    what JSON does not know in its headers.

    Only the same Python reads this, and it has to trust who wrote it: children are our forks or run our executable,
    and nobody but the engine can write to their inbox.
    """
    try:
        return marshal.dumps((epoch, items))
    except ValueError:
        pass  # not of plain types: it may be of their subclasses
    try:
        return marshal.dumps((epoch, [_plain(item) for item in items]))
    except (ValueError, TypeError, RecursionError) as exc:
        raise errors.InvalidTaskError(f"a message cannot be handed to a child: {exc}") from exc


def _plain(item: Item) -> Item:
    seq, flags, starts, queue, token, words, (content_type, encoding), *parts, body, lent = item
    headers, properties = (part if isinstance(part, bytes | str | tuple) else json.dumps(part) for part in parts)
    return (
        seq,
        flags,
        int(starts),
        str(queue),
        str(token),
        words,
        (str(content_type), str(encoding)),
        headers,
        properties,
        bytes(body),
        lent,
    )


def unpack_batch(frame: bytes, valid: Callable[[], bool] | None = None) -> tuple[int, list[Assignment]]:
    """The epoch and the assignments of a datagram."""
    epoch, items = _load(frame)
    return epoch, [_assignment(item, valid) for item in items]


def numbers(frame: bytes) -> list[int]:
    """The sequence numbers in a datagram, whatever else is in it."""
    return [item[0] for item in _load(frame)[1]]


def _load(frame: bytes) -> tuple[int, list[Item]]:
    epoch, items = marshal.loads(frame)  # noqa: S302 - the engine wrote it
    return epoch, items


def _assignment(item: Item, valid: Callable[[], bool] | None) -> Assignment:
    seq, flags, starts, queue, token, words, (content_type, content_encoding), headers, properties, body, lent = item
    message: Message
    if properties.__class__ is tuple:
        message = ShapedMessage(Shape.unpack(headers), properties, body, content_type, content_encoding)
    else:
        message = Message(
            headers, body, content_type=content_type, content_encoding=content_encoding, properties=properties
        )
    return Assignment(
        seq,
        message,
        queue,
        token,
        starts=starts,
        seen=bool(flags & _SEEN),
        early_ack=bool(flags & _EARLY),
        obituary=None if words is None else _obituary(*words),
        joined=bool(flags & _JOINED),
        lent=None if lent is None else Lent(*lent),
        valid=valid,
    )


def _obituary(state: str, error: str, text: str, verdict: int | None) -> Obituary:
    return Obituary(state, error, text, None if verdict is None else _VERDICTS[verdict])


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
        (_CHARGED if ending.charged else 0) | (_UNSURE if ending.unsure else 0),
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
    sixteen bytes each; and those that have a result besides, which its backend has prepared, that and its bytes."""
    if are_plain(endings, with_payload=with_payload):
        return _pack_done(KIND_DONE, child, endings)
    if with_payload and are_plain(endings, with_payload=False) and _store_alike(endings):
        parts: list[bytes] = []
        for ending in endings:
            record = ending.records[0]
            parts += (record.id.encode(), *record.prepared)
        return _pack_done(KIND_STORED, child, endings) + pack_parts(parts)
    packed = [pack_ending(child, ending, with_payload=with_payload) for ending in endings]
    return packed[0] if len(packed) == 1 else KIND_ENDS + pack_parts(packed)


def _store_alike(endings: Sequence[Ending]) -> bool:
    """Whether each stores one record of its own state, prepared in as many words, and nothing else."""
    words = len(endings[0].records[0].prepared) if endings[0].records else 0
    return words > 0 and all(
        len(ending.records) == 1
        and len(ending.records[0].prepared) == words
        and ending.records[0].state == ending.state
        and not (ending.publications or ending.parts or ending.completes)
        for ending in endings
    )


def _pack_done(kind: bytes, child: int, endings: Sequence[Ending]) -> bytes:
    first = endings[0]
    state, task = first.state.encode(), first.task.encode()[:2000]
    numbers: list[int | float] = []
    for ending in endings:
        numbers += (ending.seq, ending.runtime)
    head = _DONE.pack(child, len(state), len(task), len(endings))
    return b"".join((kind, head, state, task, struct.pack("!" + "Qd" * len(endings), *numbers)))


def unpack_done(frame: bytes) -> tuple[str, list[tuple[int, float]], list[Record]]:
    """The task of the plain endings in a datagram, the number and runtime of each, and the record of each where they
    store any. Raises ValueError on damage."""
    try:
        _, n_state, n_task, count = _DONE.unpack_from(frame, 1)
        task_at = 1 + _DONE.size + n_state
        numbers_at = task_at + n_task
        end = numbers_at + 16 * count
        if end > len(frame) or (end < len(frame)) is not (frame[:1] == KIND_STORED):
            raise ValueError(f"damaged endings of {len(frame)} bytes, {count} are announced")
        ends = list(struct.iter_unpack("!Qd", frame[numbers_at:end]))
    except struct.error as exc:
        raise ValueError(f"damaged endings of {len(frame)} bytes: {exc}") from exc
    task = frame[task_at:numbers_at].decode("utf-8", "replace")
    if end == len(frame):
        return task, ends, []
    parts = unpack_parts(memoryview(frame)[end:])
    words = len(parts) // max(1, count)
    if not count or words * count != len(parts) or words < 2:
        raise ValueError(f"damaged records of {count} endings: {len(parts)} words")
    state = frame[1 + _DONE.size : task_at].decode()
    starts = range(0, len(parts), words)
    records = [Record(id=parts[at].decode(), state=state, prepared=parts[at + 1 : at + words]) for at in starts]
    return task, ends, records


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
    ending.unsure = bool(flags & _UNSURE)
    if n_payload:
        _unpack_payload(view[at : at + n_payload], ending)
    return child, ending


def pack_own(child: int, steps: Sequence[Step], *, with_heads: bool) -> bytes:
    """Steps that were taken where the tasks ran. Of what has ended by now only the headers go along, and only
    `with_heads`."""
    parts: list[bytes] = []
    for ending, following in steps:
        if following is None:
            packed = b""
        elif ending is steps[-1].ending:
            packed = following.pack()
        else:
            packed = following.pack(with_body=False) if with_heads else b""
        parts += (pack_ending(child, ending, with_payload=False), packed)
    return KIND_OWN + pack_parts(parts)


def unpack_own(frame: bytes) -> list[Step]:
    """Raises ValueError on damage."""
    words = iter(unpack_parts(memoryview(frame)[1:]))
    return [
        Step(unpack_ending(ending)[1], Message.unpack(following) if following else None)
        for ending, following in zip(words, words, strict=True)
    ]


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
        # Nothing else of it counts.
        return bytes([_PREPARED, len(record.prepared)]) + f"{record.state}\n{record.id}".encode(), *record.prepared
    texts = json.dumps([getattr(record, name) for name in _RECORD_TEXTS]).encode()
    flags = (_ARGS if record.args is not None else 0) | (_KWARGS if record.kwargs is not None else 0)
    return bytes([flags, 0]) + texts, record.result, record.args or b"", record.kwargs or b""


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
    head = next(words)
    flags, count, text = head[0], head[1], head[2:]
    if flags & _PREPARED:
        state, _, task_id = text.decode().partition("\n")
        return Record(id=task_id, state=state, prepared=[*islice(words, count)])
    result, args, kwargs = next(words), next(words), next(words)
    return Record(
        **dict(zip(_RECORD_TEXTS, json.loads(text), strict=True)),
        result=result,
        args=args if flags & _ARGS else None,
        kwargs=kwargs if flags & _KWARGS else None,
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
