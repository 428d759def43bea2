"""The result backend that lives in its process: one instance, one store, one lock."""

from __future__ import annotations

import copy
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from kernel.interfaces import backend as api
from kernel.interfaces.setting import Setting


@dataclass(slots=True)
class Chord:
    """`last` is the member that completed it; `copies` are those of its body that began, by the task's number."""

    expires: float
    forgotten: bool = False
    parts: dict[int, api.Record] = field(default_factory=dict)
    last: int | None = None
    added: set[int] = field(default_factory=set)
    copies: dict[int, str] = field(default_factory=dict)


class MemoryBackend:
    """Records in this process, gone with it. Two instances share nothing, whatever their URLs say.

    What has expired is gone for readers at once, and deleted by the next `store`, so that a process without
    a schedule stays small. The option ``clock`` (a callable, seconds) takes the place of the monotonic clock.
    """

    interface = api.INTERFACE
    capabilities = api.BackendCapabilities(crosses_processes=False, durable=False)
    settings: tuple[Setting, ...] = ()
    transaction_domain: str | None = None

    def __init__(self, config: api.BackendConfig) -> None:
        self._clock = config.options.get("clock") or time.monotonic
        self._lifetime = inf if config.expires is None else config.expires
        self._chord_lifetime = self._lifetime if config.chord_expires is None else config.chord_expires
        self.changed = threading.Condition()
        self.watchers: defaultdict[str, list[MemoryWatch]] = defaultdict(list)
        # In the order of their expiry: a record that changes moves to the end.
        self._records: dict[str, tuple[float, api.Record]] = {}
        self._groups: dict[str, tuple[float, str]] = {}
        self._chords: dict[str, Chord] = {}

    def open(self) -> None: ...

    def close(self) -> None:
        with self.changed:
            for watch in {watch for watches in self.watchers.values() for watch in watches}:
                watch.close()

    def store(self, batch: Sequence[api.Record]) -> Sequence[api.StoreOutcome]:
        with self.changed:
            self._drop_expired()
            outcomes = [self._store(record) for record in batch]
            self.changed.notify_all()
        return outcomes

    def _store(self, record: api.Record) -> api.StoreOutcome:
        old = self.find(record.id)
        if old is not None and not api.replaces(record.state, record.attempt, old.state, old.attempt):
            return api.StoreOutcome(api.StoreState.STANDING, old)
        kept = copy.copy(record)  # the caller may use its own again for the next state
        self._records.pop(record.id, None)
        self._records[record.id] = self._clock() + self._lifetime, kept
        for watch in self.watchers.get(record.id, ()):
            watch.news.append(kept)
        return api.WON

    def find(self, key: str) -> api.Record | None:
        """The record of `key`, if it has not expired. The lock is held."""
        expires, record = self._records.get(key, (-inf, None))
        return record if expires > self._clock() else None

    def _drop_expired(self) -> int:
        now, dropped = self._clock(), 0
        while self._records and next(iter(self._records.values()))[0] <= now:
            self._records.pop(next(iter(self._records)))
            dropped += 1
        return dropped

    def load(self, ids: Sequence[str]) -> Sequence[api.Record | None]:
        with self.changed:
            return [self.find(key) for key in ids]

    def forget(self, ids: Sequence[str]) -> None:
        with self.changed:
            for key in ids:
                self._records.pop(key, None)

    def watch(self, ids: Sequence[str] = ()) -> MemoryWatch:
        watch = MemoryWatch(self)
        watch.add(ids)
        return watch

    def save_group(self, group_id: str, document: str) -> None:
        with self.changed:
            self._groups[group_id] = self._clock() + self._lifetime, document

    def load_group(self, group_id: str) -> str | None:
        with self.changed:
            expires, document = self._groups.get(group_id, (-inf, None))
            return document if expires > self._clock() else None

    def forget_group(self, group_id: str) -> None:
        with self.changed:
            self._groups.pop(group_id, None)

    def chord_parts(self, batch: Sequence[api.ChordPart]) -> Sequence[api.ChordState]:
        for part in batch:
            api.check_part(part)
        with self.changed:
            return [self._chord_part(part) for part in batch]

    def _chord_part(self, part: api.ChordPart) -> api.ChordState:
        chord = self._chord(part.chord_id)
        if chord.forgotten:
            return api.ChordState(False, part.size, part.size)
        size = part.size + len(chord.added)
        if part.index not in chord.parts:
            chord.parts[part.index] = copy.copy(part.record)
            chord.last = part.index if len(chord.parts) == size else None
        parts = [chord.parts[number] for number in sorted(chord.parts)] if chord.last == part.index else []
        return api.ChordState(chord.last == part.index, len(chord.parts), size, parts)

    def _chord(self, chord_id: str) -> Chord:
        now = self._clock()
        chord = self._chords.get(chord_id)
        if chord is None or chord.expires <= now:
            chord = self._chords[chord_id] = Chord(now)
        chord.expires = now + self._chord_lifetime
        return chord

    def grow_chord(self, chord_id: str, size: int, index: int) -> None:
        with self.changed:
            self._chord(chord_id).added.add(index)

    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        with self.changed:
            chord = self._chord(chord_id)
            is_first = chord.copies.setdefault(number or 0, copy) == copy
            if is_first and number is None:
                chord.parts, chord.forgotten = {}, True
            return is_first

    def cleanup(self) -> int:
        with self.changed:
            now = self._clock()
            self._groups = {key: item for key, item in self._groups.items() if item[0] > now}
            self._chords = {key: chord for key, chord in self._chords.items() if chord.expires > now}
            return self._drop_expired()


class MemoryWatch:
    """Made by `MemoryBackend.watch`."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.news: deque[api.Record] = deque()
        self._backend = backend
        self._ids: set[str] = set()
        self._woken = False

    def add(self, ids: Sequence[str]) -> None:
        with self._backend.changed:
            for key in dict.fromkeys(ids):
                if key not in self._ids:
                    self._ids.add(key)
                    self._backend.watchers[key].append(self)
                    self.news.extend(filter(None, [self._backend.find(key)]))
            self._backend.changed.notify_all()

    def discard(self, ids: Sequence[str]) -> None:
        with self._backend.changed:
            for key in self._ids.intersection(ids):
                self._ids.remove(key)
                self._backend.watchers[key].remove(self)
                if not self._backend.watchers[key]:
                    del self._backend.watchers[key]
            self.news = deque(record for record in self.news if record.id in self._ids)

    def wait(self, timeout: float) -> Sequence[api.Record]:
        with self._backend.changed:
            self._backend.changed.wait_for(lambda: self.news or self._woken, timeout)
            self._woken = False
            records = [*self.news]
            self.news.clear()
        return records

    def wake(self) -> None:
        with self._backend.changed:
            self._woken = True
            self._backend.changed.notify_all()

    def close(self) -> None:
        self.discard([*self._ids])
        self.wake()
