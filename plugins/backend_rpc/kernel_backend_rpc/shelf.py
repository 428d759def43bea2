"""What came in and what is waited for: every reply is kept until somebody asks, and told to who waits already.

Of several replies to one call the first terminal one stands. Replies are read when somebody asks for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Protocol

from kernel import states
from kernel.interfaces.backend import Record, ResultCodecs, replaces
from kernel_backend_rpc import letters
from kernel_backend_rpc.letters import Letter

_READ_LATE: Final = 16
"""Replies to one call that may wait unread: then they are read, and of those that replace each other one remains."""
_TOLD: Final = 1000
_REMEMBERED: Final = 100_000
_CALLS_SINCE: Final = 1_000_000


class Waits(Protocol):
    """Who is told of records."""

    def offer(self, record: Record) -> None: ...


@dataclass(slots=True)
class _Kept:
    since: float
    unread: list[Letter] = field(default_factory=list)
    record: Record | None = None
    size: int = 0


class Shelf:
    """`most` bytes of replies that nobody has asked for are kept, each for `lifetime` seconds. Usable from any
    thread; nothing in it waits for anything else."""

    def __init__(self, *, codecs: ResultCodecs | None, most: int, lifetime: float) -> None:
        self._codecs = codecs
        self._most = most
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Waits]] = {}
        # In the order in which they came.
        self._kept: dict[str, _Kept] = {}
        self._told: dict[str, _Kept] = {}
        self._size = 0
        # Replies that were here and are not any more, and why.
        self._gone: dict[str, str] = {}
        self._loss: tuple[float, str] | None = None
        self._called_since: dict[str, None] = {}

    # --- what comes in ------------------------------------------------------------------------------------------

    def take(self, replies: Iterable[tuple[str, Letter]]) -> None:
        with self._lock:
            for task_id, letter in replies:
                self._take(task_id, letter)
            self._tidy()

    def _take(self, task_id: str, letter: Letter) -> None:
        told = self._told.get(task_id)
        kept = told or self._kept.get(task_id)
        if kept is None:
            kept = self._kept[task_id] = _Kept(time.monotonic())
        kept.unread.append(letter)
        size = len(letter.body)
        kept.size += size
        if told is None:
            self._size += size
        waiting = self._waiting.get(task_id)
        if waiting:
            for record in self._read(task_id, kept):
                for watch in waiting:
                    watch.offer(record)
            self._put_away(task_id, kept)
        elif len(kept.unread) > _READ_LATE:
            self._read(task_id, kept)

    def _read(self, task_id: str, kept: _Kept) -> list[Record]:
        """Records that are new with what is unread."""
        news = []
        for letter in kept.unread:
            record = letters.read(task_id, letter, self._codecs)
            old = kept.record
            if record is None or (
                old is not None and not replaces(record.state, record.attempt, old.state, old.attempt)
            ):
                continue
            kept.record = record
            news.append(record)
        kept.unread.clear()
        return news

    def _put_away(self, task_id: str, kept: _Kept) -> None:
        """An end that was told is not kept for long: whoever was told keeps it."""
        if kept.record is not None and kept.record.state in states.READY_STATES and task_id in self._kept:
            self._told[task_id] = self._kept.pop(task_id)
            self._size -= kept.size

    def _tidy(self) -> None:
        now = time.monotonic()
        while self._kept:
            task_id, kept = next(iter(self._kept.items()))
            if kept.since + self._lifetime <= now:
                why = "it was not asked for in the time that results are kept (result_expires)"
            elif self._size > self._most:
                why = (
                    f"{self._most} bytes of results that nobody asks for is all that this process keeps (the option "
                    "'memory' of result_backend_transport_options); call with ignore_result=True where none is wanted"
                )
            else:
                break
            del self._kept[task_id]
            self._size -= kept.size
            self._remember(task_id, why)
        while len(self._told) > _TOLD:
            task_id = next(iter(self._told))
            del self._told[task_id]
            self._remember(task_id, "it was handed out before, and its AsyncResult alone has it")

    def _remember(self, task_id: str, why: str) -> None:
        self._gone[task_id] = why
        while len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    # --- who waits ----------------------------------------------------------------------------------------------

    def add(self, watch: Waits, ids: Iterable[str]) -> None:
        with self._lock:
            for task_id in ids:
                self._waiting.setdefault(task_id, []).append(watch)
                for record in self._unread(task_id):
                    watch.offer(record)
                if (kept := self._kept.get(task_id)) is not None:
                    self._put_away(task_id, kept)
            self._tidy()

    def _unread(self, task_id: str) -> list[Record]:
        """What stands of a call, and the states that came since that was read."""
        kept = self._kept.get(task_id) or self._told.get(task_id)
        if kept is not None and kept.since + self._lifetime > time.monotonic():
            before = kept.record
            records = [*([] if before is None else [before]), *self._read(task_id, kept)]
            if records:
                return records
        lost = self._lost(task_id)
        return [] if lost is None else [lost]

    def discard(self, watch: Waits, ids: Iterable[str]) -> None:
        with self._lock:
            for task_id in ids:
                waiting = self._waiting.get(task_id)
                if waiting is not None and watch in waiting:
                    waiting.remove(watch)
                    if not waiting:
                        del self._waiting[task_id]

    def load(self, ids: Sequence[str]) -> list[Record | None]:
        with self._lock:
            return [self._found(task_id) or self._lost(task_id) for task_id in ids]

    def forget(self, ids: Iterable[str]) -> None:
        with self._lock:
            for task_id in ids:
                kept = self._kept.pop(task_id, None)
                if kept is not None:
                    self._size -= kept.size
                self._told.pop(task_id, None)
                self._gone.pop(task_id, None)

    def _found(self, task_id: str) -> Record | None:
        kept = self._kept.get(task_id) or self._told.get(task_id)
        if kept is None:
            return None
        self._read(task_id, kept)
        return None if kept.since + self._lifetime <= time.monotonic() else kept.record

    # --- what will not come -------------------------------------------------------------------------------------

    def expect(self, ids: Iterable[str]) -> None:
        """These were called when replies could come in."""
        with self._lock:
            if self._loss is None:
                return
            self._called_since.update(dict.fromkeys(ids))
            # Of calls from before, no result is valid any more; or there are more since than can be remembered.
            if self._loss[0] + self._lifetime <= time.monotonic() or len(self._called_since) > _CALLS_SINCE:
                self._loss = None
                self._called_since.clear()

    def lose(self, why: str) -> int:
        """Replies to calls that were made until now may have been lost. Whoever waits for one is told; how many
        calls those are."""
        now = time.monotonic()
        with self._lock:
            self._loss = now, why
            self._called_since.clear()
            told = 0
            for task_id, waiting in self._waiting.items():
                kept = self._kept.get(task_id) or self._told.get(task_id)
                if kept is None or kept.record is None or kept.record.state not in states.READY_STATES:
                    told += 1
                    for watch in waiting:
                        watch.offer(letters.lost(task_id, why, time.time()))
            return told

    def _lost(self, task_id: str) -> Record | None:
        """What to say of a call without a reply: nothing, unless none will come."""
        why = self._gone.get(task_id)
        if why is None and self._loss is not None and task_id not in self._called_since:
            since, text = self._loss
            why = text if since + self._lifetime > time.monotonic() else None
        return None if why is None else letters.lost(task_id, why, time.time())


def lifetime(expires: float | None) -> float:
    """Seconds; for ever without `result_expires`."""
    return inf if expires is None else expires
