"""Settlements in words for the scripts that carry them out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from kernel_lib_redis import chords, records

from kernel.interfaces.backend import Record
from kernel.interfaces.broker import Settlement, Verdict
from kernel.message import Publication
from kernel_broker_redis import envelope

Place = Callable[[Publication], tuple[object, ...]]
"""Where a message goes, in three words (`Sender.place`). Raises `PublishRefused`."""

_MAX_REASON: Final = 4000
_AT_ONCE: Final = 1000
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024


def is_whole(item: Settlement) -> bool:
    """Whether more than a verdict belongs to it."""
    return bool(item.records or item.publications or item.parts or item.completes)


def end_words(item: Settlement) -> tuple[object, ...]:
    """The six words of a verdict."""
    key, number = item.delivery.key
    if item.verdict is Verdict.ACK:
        return key, number, "a", 0, 0, ""
    if item.verdict is Verdict.REQUEUE:
        delay = max(0, round(item.delay * 1000)) if item.delay > 0 else 0
        return key, number, "r", int(item.charged), delay, ""
    letter, task = envelope.name_of(item.delivery.message)
    reason = item.reason if len(item.reason) <= _MAX_REASON else item.reason[: _MAX_REASON - 3] + "..."
    # As text that any encoding takes: halves of surrogate pairs are escaped.
    name = (letter or "unreadable").encode("utf-8", "backslashreplace")
    return key, number, "d", int(item.charged), name, json.dumps({"task": task, "reason": reason})


def finishes(settlements: Sequence[Settlement], place: Place) -> Iterator[tuple[int, list[object]]]:
    """Verdicts with all that belongs to them: how many, and the words for so many. Raises `PublishRefused`, and
    ValueError for what no result backend on Redis has prepared."""
    words: list[object] = []
    count = size = 0
    for item in settlements:
        more = _finish_words(item, place)
        words += more
        count += 1
        size += sum(len(word) for word in more if isinstance(word, bytes))
        if count >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield count, words
            words, count, size = [], 0, 0
    if count:
        yield count, words


def record_words(stored: Sequence[Record]) -> list[bytes]:
    """The words of records. Raises ValueError for one that no result backend on Redis has prepared."""
    return [word for record in stored for word in _prepared(record, records.WORDS)]


def _finish_words(item: Settlement, place: Place) -> list[object]:
    life, _, chord = item.completes.partition(" ")
    counts = len(item.records), len(item.parts), len(item.publications)
    words = [*end_words(item), *counts, life, chord]
    words += record_words(item.records)
    for part in item.parts:
        words += _prepared(part.record, chords.WORDS)
    for publication in item.publications:
        words += place(publication)
    return words


def _prepared(record: Record, count: int) -> Sequence[bytes]:
    if len(record.prepared) != count:
        raise ValueError(
            f"the record of {record.id} comes with {len(record.prepared)} words, and the Redis broker stores those of "
            f"{count} that the Redis result backend prepares"
        )
    return record.prepared
