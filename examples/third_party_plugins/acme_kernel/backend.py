"""A result backend in one append-only file that any number of processes share.

Every change is a line of JSON. Each process keeps what the lines say in memory, and reads on from where it stopped
before it answers. Writers take turns by a lock on a file beside it; a line that a process did not finish before it
died is cut off by the next writer. `cleanup` writes the file anew, without what has expired.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from kernel.errors import ImproperlyConfigured, OperationalError
from kernel.interfaces.backend import (
    WON,
    BackendCapabilities,
    BackendConfig,
    ChordPart,
    ChordState,
    Record,
    StoreOutcome,
    StoreState,
    check_part,
    replaces,
)
from kernel.interfaces.setting import Setting

_BYTES = ("result", "args", "kwargs")


@dataclasses.dataclass(slots=True)
class Chord:
    """`last` is the member that completed it. One that was `forgotten` takes no part any more. `copies` are those of
    its body that began, by the number of the task."""

    at: float
    parts: dict[int, Record] = dataclasses.field(default_factory=dict)
    last: int | None = None
    forgotten: bool = False
    copies: dict[int, str] = dataclasses.field(default_factory=dict)


class AcmeBackend:
    """``acme:///absolute/path/of/a/file``."""

    interface = (1, 0)
    # Watchers look at the file twenty times a second: `push` would promise that the store wakes them.
    capabilities = BackendCapabilities(push=False)
    settings = (Setting("acme_sync", "bool", True, "Wait for the disk before a result counts as stored."),)
    transaction_domain: str | None = None

    def __init__(self, config: BackendConfig) -> None:
        self._path = Path(unquote(urlsplit(config.url).path))
        if not self._path.name:
            raise ImproperlyConfigured(f"{config.url!r} names no file; right is acme:///var/lib/app/results.log")
        self._lifetime = float("inf") if config.expires is None else config.expires
        self._timeout = config.timeout
        self._sync = config.settings.get("acme_sync", True)
        self._log: BinaryIO | None = None
        self._turns: BinaryIO | None = None
        self.lock = threading.RLock()
        self.watches: list[AcmeWatch] = []
        self._forget_all()

    def _forget_all(self) -> None:
        self._records: dict[str, tuple[float, Record]] = {}
        self._groups: dict[str, tuple[float, str]] = {}
        self._chords: dict[str, Chord] = {}

    def open(self) -> None:
        with self.lock:
            if self._turns is None:
                try:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._turns = self._path.with_name(f"{self._path.name}.lock").open("ab")
                    self._reopen()
                except OSError as exc:
                    raise OperationalError(f"the acme backend cannot open {self._path}: {exc}") from exc

    def close(self) -> None:
        with self.lock:
            for watch in tuple(self.watches):
                watch.close()
            for file in (self._log, self._turns):
                if file is not None:
                    file.close()
            self._log = self._turns = None
            self._forget_all()

    # --- the file -------------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        if self._log is not None:
            self._log.close()
        self._log = self._path.open("a+b")
        self._log.seek(0)
        self._forget_all()

    def read_on(self) -> None:
        """Take in what others wrote."""
        with self.lock:
            if self._log is None:
                raise OperationalError("the acme backend is closed")
            if os.fstat(self._log.fileno()).st_ino != self._path.stat().st_ino:
                self._reopen()  # somebody cleaned up
            log = self._log
            for line in log:
                if not line.endswith(b"\n"):
                    log.seek(-len(line), os.SEEK_CUR)  # still being written
                    break
                self._apply(json.loads(line))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[list[dict[str, Any]]]:
        """Lines that are added to the list are written at the end, while no other process writes."""
        with self.lock:
            if self._turns is None or self._log is None:
                raise OperationalError("the acme backend is closed")
            self._await_turn(self._turns)
            try:
                self.read_on()
                self._log.truncate(self._log.tell())
                lines: list[dict[str, Any]] = []
                yield lines
                if lines:
                    self._log.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
                    self._log.flush()
                    if self._sync:
                        os.fsync(self._log.fileno())
            finally:
                fcntl.flock(self._turns, fcntl.LOCK_UN)

    def _await_turn(self, turns: BinaryIO) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                fcntl.flock(turns, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OperationalError(
                        f"{self._path} has been locked by another process for {self._timeout} s"
                    ) from None
                time.sleep(0.002)

    def _change(self, lines: list[dict[str, Any]], **line: Any) -> None:
        lines.append({"at": time.time(), **line})
        self._apply(lines[-1])

    def _apply(self, line: dict[str, Any]) -> None:
        match line["do"]:
            case "record":
                record = _record(line["record"])
                self._records[record.id] = line["at"], record
                for watch in self.watches:
                    watch.tell(record)
            case "forget":
                self._records.pop(line["id"], None)
            case "group":
                self._groups[line["id"]] = line["at"], line["document"]
            case "forget group":
                self._groups.pop(line["id"], None)
            case "part":
                chord = self._chords.setdefault(line["id"], Chord(line["at"]))
                chord.parts[line["index"]] = _record(line["record"])
                chord.last = line["index"] if len(chord.parts) == line["size"] else None
            case "forget chord":
                copies = self._chords[line["id"]].copies if line["id"] in self._chords else {}
                self._chords[line["id"]] = Chord(line["at"], forgotten=True, copies=copies)
            case "copy":
                chord = self._chords.setdefault(line["id"], Chord(line["at"]))
                chord.copies[line["number"]] = line["copy"]

    def _is_fresh(self, at: float) -> bool:
        return at + self._lifetime > time.time()

    # --- records --------------------------------------------------------------------------------------------

    def find(self, key: str) -> Record | None:
        """What stands now, as far as it was read; None where it has expired."""
        at, record = self._records.get(key, (0.0, None))
        return record if record is not None and self._is_fresh(at) else None

    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        outcomes: list[StoreOutcome] = []
        with self._turn() as lines:
            for record in batch:
                standing = self.find(record.id)
                if standing and not replaces(record.state, record.attempt, standing.state, standing.attempt):
                    outcomes.append(StoreOutcome(StoreState.STANDING, standing))
                    continue
                self._change(lines, do="record", record=_as_json(record))
                outcomes.append(WON)
        return outcomes

    def load(self, ids: Sequence[str]) -> Sequence[Record | None]:
        with self.lock:
            self.read_on()
            return [self.find(key) for key in ids]

    def forget(self, ids: Sequence[str]) -> None:
        with self._turn() as lines:
            for key in ids:
                self._change(lines, do="forget", id=key)

    def watch(self, ids: Sequence[str] = ()) -> AcmeWatch:
        watch = AcmeWatch(self)
        watch.add(ids)
        return watch

    # --- groups and chords ----------------------------------------------------------------------------------

    def save_group(self, group_id: str, document: str) -> None:
        with self._turn() as lines:
            self._change(lines, do="group", id=group_id, document=document)

    def load_group(self, group_id: str) -> str | None:
        with self.lock:
            self.read_on()
            at, document = self._groups.get(group_id, (0.0, ""))
            return document if document and self._is_fresh(at) else None

    def forget_group(self, group_id: str) -> None:
        with self._turn() as lines:
            self._change(lines, do="forget group", id=group_id)

    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[ChordState]:
        for part in batch:
            check_part(part)
        with self._turn() as lines:
            return [self._chord_part(lines, part) for part in batch]

    def _chord_part(self, lines: list[dict[str, Any]], part: ChordPart) -> ChordState:
        chord = self._chords.get(part.chord_id)
        if chord is not None and chord.forgotten:
            return ChordState(False, part.size, part.size)
        if chord is None or part.index not in chord.parts:
            record = _as_json(part.record)
            self._change(lines, do="part", id=part.chord_id, size=part.size, index=part.index, record=record)
        chord = self._chords[part.chord_id]
        complete = chord.last == part.index
        parts = [chord.parts[number] for number in sorted(chord.parts)] if complete else []
        return ChordState(complete, len(chord.parts), part.size, parts)

    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        with self._turn() as lines:
            chord = self._chords.get(chord_id)
            first = None if chord is None else chord.copies.get(number or 0)
            if first is None:
                self._change(lines, do="copy", id=chord_id, number=number or 0, copy=copy)
                if number is None:
                    self._change(lines, do="forget chord", id=chord_id)
            return first in (None, copy)

    def cleanup(self) -> int:
        with self._turn():
            before = len(self._records)
            lines = [
                {"at": at, "do": "record", "record": _as_json(record)}
                for at, record in self._records.values()
                if self._is_fresh(at)
            ]
            kept = len(lines)
            lines += [
                {"at": at, "do": "group", "id": key, "document": document}
                for key, (at, document) in self._groups.items()
                if self._is_fresh(at)
            ]
            lines += [
                {"at": chord.at, "do": "part", "id": key, "size": size, "index": index, "record": _as_json(part)}
                for key, chord in self._chords.items()
                for size in [len(chord.parts) if chord.last is not None else -1]
                for index, part in sorted(chord.parts.items(), key=lambda item: item[0] == chord.last)
                if self._is_fresh(chord.at)
            ]
            lines += [
                {"at": chord.at, "do": "forget chord", "id": key}
                for key, chord in self._chords.items()
                if chord.forgotten and self._is_fresh(chord.at)
            ]
            lines += [
                {"at": chord.at, "do": "copy", "id": key, "number": number, "copy": copy}
                for key, chord in self._chords.items()
                for number, copy in chord.copies.items()
                if self._is_fresh(chord.at)
            ]
            fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            with fresh.open("wb") as file:
                file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        return before - kept


class AcmeWatch:
    """Made by `AcmeBackend.watch`."""

    interval = 0.05

    def __init__(self, backend: AcmeBackend) -> None:
        self._backend = backend
        self._changed = threading.Condition(backend.lock)
        self._ids: set[str] = set()
        self._news: list[Record] = []
        self._woken = False
        with backend.lock:
            backend.watches.append(self)

    def add(self, ids: Sequence[str]) -> None:
        with self._changed:
            self._backend.read_on()
            for key in dict.fromkeys(ids):
                found = None if key in self._ids else self._backend.find(key)
                self._ids.add(key)
                if found is not None:
                    self._news.append(found)
            self._changed.notify_all()

    def discard(self, ids: Sequence[str]) -> None:
        with self._changed:
            self._ids.difference_update(ids)
            self._news = [record for record in self._news if record.id in self._ids]

    def tell(self, record: Record) -> None:
        """The backend has read a record. The lock is held."""
        if record.id in self._ids:
            self._news.append(record)
            self._changed.notify_all()

    def wait(self, timeout: float) -> Sequence[Record]:
        end = time.monotonic() + timeout
        with self._changed:
            while not self._news and not self._woken and self in self._backend.watches:
                self._backend.read_on()
                left = end - time.monotonic()
                if self._news or left <= 0:
                    break
                self._changed.wait(min(left, self.interval))
            self._woken = False
            records, self._news = self._news, []
        return records

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            if self in self._backend.watches:
                self._backend.watches.remove(self)
            self._changed.notify_all()


def _as_json(record: Record) -> dict[str, Any]:
    fields = {name: value for name, value in dataclasses.asdict(record).items() if value is not None}
    for name in _BYTES:
        if name in fields:
            fields[name] = base64.b64encode(fields[name]).decode()
    return fields


def _record(fields: dict[str, Any]) -> Record:
    values = dict(fields)
    for name in _BYTES:
        if name in values:
            values[name] = base64.b64decode(values[name])
    return Record(**values)
