"""The result backend on Redis, with Celery's keys and records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from kernel_lib_redis import backend_server, examine, fault, records
from kernel_lib_redis.settings import BACKEND_SETTINGS

from kernel import errors, states
from kernel.hooks import Finding
from kernel.interfaces import backend as api
from kernel.interfaces.backend import WON, ChordPart, ChordState, Record, StoreOutcome, StoreState, replaces
from kernel.interfaces.setting import Setting
from kernel_backend_redis import chords, scripts
from kernel_backend_redis.formats import Formats
from kernel_backend_redis.watch import Hub, RedisWatch

_BATCH: Final = 200
_BYTES: Final = 1024 * 1024
"""What one script stores: other clients wait meanwhile."""
_SWAPS: Final = 10
_GROUP: Final = '{"result":'
"""How a document of a saved group begins."""


class RedisBackend:
    """Results in Redis. The options are in the README."""

    interface = api.INTERFACE
    # States in between that were stored while a watch was being set up, or its connection was down, are not told.
    capabilities = api.BackendCapabilities(every_state=False, foreign_chords=True, failures_expire=True)
    settings: tuple[Setting, ...] = BACKEND_SETTINGS

    def __init__(self, config: api.BackendConfig) -> None:
        self._server = backend_server(config)
        self._lifetime = _milliseconds(config.expires)
        self._failure_lifetime = _milliseconds(config.failure_expires) or self._lifetime
        self._chord_lifetime = _milliseconds(config.chord_expires) or self._lifetime
        self._codecs = config.codecs
        self._formats = Formats(config.codecs)
        self._hub = Hub(self._server, self._key, self._formats.decode)

    @property
    def transaction_domain(self) -> str | None:
        return self._server.domain

    def open(self) -> None:
        self._formats.check()
        self._server.open()

    def findings(self) -> Sequence[Finding]:
        """What ``kernel doctor`` says of the server."""
        return examine(self._server, "result backend")

    def close(self) -> None:
        self._hub.close()
        self._server.close()

    def _key(self, id: str) -> str:
        return f"{self._server.prefix}celery-task-meta-{id}"

    def _group_key(self, group_id: str) -> str:
        return f"{self._server.prefix}celery-taskset-meta-{group_id}"

    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        if not batch:
            return []
        parts = [*self._parts(batch)]
        try:
            replies = self._store(parts)
        except errors.OperationalError:
            # It may be stored or not: stored again, the same document stands as our own.
            replies = self._store(parts)
            own = (words[3 :: records.WORDS] for words in parts)
            replies = [_own(reply, list(mine)) for reply, mine in zip(replies, own, strict=True)]
        flat = [answer for reply in replies for answer in reply]
        return [
            WON if answer == 0 else self._refused(record, answer) for record, answer in zip(batch, flat, strict=True)
        ]

    def _parts(self, batch: Sequence[Record]) -> Iterator[list[object]]:
        words: list[object] = []
        size = 0
        for record in batch:
            if len(words) >= _BATCH * records.WORDS or size > _BYTES:
                yield words
                words, size = [], 0
            document = self._formats.encode(record)
            words += self._words(record, document)
            size += len(document)
        yield words

    def _words(self, record: Record, document: bytes) -> tuple[bytes, ...]:
        key, state = self._key(record.id), record.state
        return (_text(key), _text(state), b"%d" % record.attempt, document, b"%d" % self._life_of(record))

    def _life_of(self, record: Record) -> int:
        return self._failure_lifetime if record.state == states.FAILURE else self._lifetime

    def prepare(self, record: Record) -> Record | None:
        """The words of its document. Of one that is no JSON the server alone could not tell later what stands."""
        document = self._formats.encode(record)
        if document[:1] != b"{":
            return None
        return Record(id=record.id, state=record.state, attempt=record.attempt, prepared=self._words(record, document))

    def _store(self, parts: Sequence[list[object]]) -> list[list[Any]]:
        with self._server.link() as link:
            replies = link.scripts(scripts.STORE, parts)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise fault(reply, self._server.shown) from reply
        return replies

    def _refused(self, record: Record, answer: bytes | None) -> StoreOutcome:
        """What became of a record that the script did not store. A document that only we can read may have to give
        way, and does so if it is still the same."""
        for _ in range(_SWAPS):
            standing = self._formats.decode(record.id, answer or b"")
            if not answer or answer[:1] == b"{":
                return StoreOutcome(StoreState.STANDING, standing)
            if standing is not None and not replaces(record.state, record.attempt, standing.state, standing.attempt):
                return StoreOutcome(StoreState.STANDING, standing)
            key, document = self._key(record.id).encode("utf-8", "surrogatepass"), self._formats.encode(record)
            digest = hashlib.sha1(answer, usedforsecurity=False).hexdigest()
            answer = self._server.script(scripts.SWAP, key, digest, document, self._life_of(record))
            if answer in (0, document):
                return WON
        raise errors.BackendStoreError(f"the record of {record.id} changes too fast to be replaced", task_id=record.id)

    def load(self, ids: Sequence[str]) -> Sequence[Record | None]:
        found: list[Record | None] = []
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            raws = self._server.call("MGET", *(self._key(each).encode("utf-8", "surrogatepass") for each in part))
            found += [
                None if raw is None else self._formats.decode(each, raw) for each, raw in zip(part, raws, strict=True)
            ]
        return found

    def watch(self, ids: Sequence[str] = ()) -> RedisWatch:
        self.open()
        watch = self._hub.watch()
        watch.add(ids)
        return watch

    def forget(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            self._server.call("UNLINK", *(self._key(each).encode("utf-8", "surrogatepass") for each in part))

    def save_group(self, group_id: str, document: str) -> None:
        lifetime = ("PX", self._lifetime) if self._lifetime else ()
        # As Celery has it, whose workers read it for chords that are nested.
        self._server.call("SET", self._group_key(group_id), f"{_GROUP}{document}}}", *lifetime)

    def load_group(self, group_id: str) -> str | None:
        raw: bytes | None = self._server.call("GET", self._group_key(group_id))
        if raw is None:
            return None
        document = raw.decode("utf-8", "replace")
        return document[len(_GROUP) : -1] if document.startswith(_GROUP) else document

    def forget_group(self, group_id: str) -> None:
        self._server.call("DEL", self._group_key(group_id))

    def chord_begins(self, chord_id: str, size: int) -> None:
        lifetime = ("PX", self._chord_lifetime) if self._chord_lifetime else ()
        self._server.call("SET", f"{self._group_key(chord_id)}.s", size, *lifetime)

    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[ChordState]:
        for part in batch:
            if part.size:
                api.check_part(part)
        if not batch:
            return []
        with self._server.link() as link:
            replies = link.scripts(scripts.PART, [self._part(part) for part in batch])
        return [self._chord_state(part, reply) for part, reply in zip(batch, replies, strict=True)]

    def _part(self, part: ChordPart) -> list[bytes]:
        record = part.record
        index = b"%d" % part.index if part.index >= 0 else b"+inf"
        document = chords.encode(record, self._codecs)
        key = _text(self._group_key(part.chord_id))
        return [key, b"%d" % part.size, index, _text(record.id), document, b"%d" % self._chord_lifetime]

    def prepare_part(self, part: ChordPart) -> ChordPart:
        if part.size:
            api.check_part(part)
        record, words = part.record, (_text(self._key(part.record.id)), *self._part(part))
        made = Record(id=record.id, state=record.state, attempt=record.attempt, prepared=words)
        return replace(part, record=made)

    def prepare_chord(self, chord_id: str) -> str:
        return f"{self._chord_lifetime} {self._group_key(chord_id)}"

    def _chord_state(self, part: ChordPart, reply: Any) -> ChordState:
        if isinstance(reply, BaseException):
            raise fault(reply, self._server.shown) from reply
        arrived, size, *parts = reply
        found = [chords.decode(raw, self._codecs) for raw in parts]
        return ChordState(bool(parts), arrived, size, found)

    def grow_chord(self, chord_id: str, size: int, index: int) -> None:
        self._server.script(scripts.GROW, self._group_key(chord_id), size, index, self._chord_lifetime)

    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        words = (self._group_key(chord_id), self._chord_lifetime, number or 0, _text(copy), int(number is None))
        return bool(self._server.script(scripts.BEGIN, *words))

    def cleanup(self) -> int:
        """The server deletes what has expired."""
        return 0


def _milliseconds(seconds: float | None) -> int:
    """At least one: 0 means for ever."""
    return 0 if seconds is None else max(1, round(seconds * 1000))


def _text(state: str) -> bytes:
    return state.encode("utf-8", "surrogatepass")


def _own(reply: Sequence[Any], documents_sent: Sequence[object]) -> list[Any]:
    return [0 if answer == sent else answer for answer, sent in zip(reply, documents_sent, strict=True)]
