"""Waiting for records: a bell tells that something changed, and a look tells what."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from kernel_lib_sql import Bell, Database, Transaction, records
from kernel_lib_sql.record_tables import Tables
from kernel_lib_sql.records import Version

from kernel import states
from kernel.interfaces.backend import Record

_BATCH: Final = 500
_LEAVING: Final = 2.0
"""Seconds that `close` gives a waiting thread to be gone."""
_DEAR: Final = 0.005
_REST: Final = 6
_LONGEST_REST: Final = 0.4
"""A look at many ids takes time, and where much happens each would be followed by the next at once: after one that
took longer than `_DEAR` seconds, so many times its duration go to others."""


class SqlWatch:
    """Made by `SqlBackend.watch`. It looks when it was rung for, and never by the clock.

    Records come with the states before them that were not told yet, the oldest first; also those from before the id
    was added.
    """

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._bell: Bell = database.listen()
        self._lock = threading.Lock()
        # What was last returned of each id; None for nothing yet.
        self._versions: dict[str, Version | None] = {}
        # Ids that were added and not looked at yet.
        self._fresh: set[str] = set()
        # Ids that will not change any more: a success stands for ever.
        self._final: set[str] = set()
        self._rang = self._woken = self._closed = False
        self._rests_until = 0.0
        self._rested = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def add(self, ids: Sequence[str]) -> None:
        with self._lock:
            if self._closed:
                return
            new = [each for each in dict.fromkeys(ids) if each not in self._versions]
            if not new:
                return
            # Listen before the first look. Topics stay: they are few, and rings for nobody cost little.
            self._bell.add({records.topic_of(each) for each in new})
            self._versions.update(dict.fromkeys(new))
            self._fresh.update(new)
            self._bell.wake()
            self._rested.set()

    def discard(self, ids: Sequence[str]) -> None:
        with self._lock:
            for each in ids:
                self._versions.pop(each, None)
                self._fresh.discard(each)
                self._final.discard(each)

    def wait(self, timeout: float) -> Sequence[Record]:
        deadline = time.monotonic() + timeout
        self._idle.clear()
        try:
            while not self._closed:
                found = self._look()
                left = deadline - time.monotonic()
                if found or self._take_wake() or left <= 0:
                    return found
                if self._rang:
                    self._rested.wait(min(left, max(0.0, self._rests_until - time.monotonic())))
                    self._rested.clear()
                else:
                    self._rang = self._bell.wait(left)
            return []
        finally:
            self._idle.set()

    def wake(self) -> None:
        with self._lock:
            self._woken = True
            if not self._closed:
                self._bell.wake()
                self._rested.set()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._bell.wake()
            self._rested.set()
        # The descriptor of a bell must not be closed under the thread that waits at it.
        self._idle.wait(_LEAVING)
        self._bell.close()

    def _take_wake(self) -> bool:
        with self._lock:
            woken, self._woken = self._woken, False
        return woken

    def _look(self) -> list[Record]:
        """What is new or changed: of all ids after a ring, of those just added otherwise, and while it rests."""
        began = time.monotonic()
        everything = self._rang and began >= self._rests_until
        with self._lock:
            ids = [*(self._versions.keys() - self._final)] if everything else [*self._fresh]
        found: list[Record] = []
        for start in range(0, len(ids), _BATCH):
            with self._database.read() as tx:
                found += self._changed(tx, ids[start : start + _BATCH])
        # Not before, so that a look that fails is made up for by the next one.
        if everything:
            self._rang = False
            spent = time.monotonic() - began
            self._rests_until = began + spent + min(spent * _REST, _LONGEST_REST) if spent > _DEAR else 0.0
        with self._lock:
            self._fresh.difference_update(ids)
        return found

    def _changed(self, tx: Transaction, ids: Sequence[str]) -> list[Record]:
        with self._lock:
            before = {each: self._versions[each] for each in ids if each in self._versions}
        # Whatever there is of those that had no record is new; of the others it is cheaper to ask first.
        new = [each for each, version in before.items() if version is None]
        now = records.load_with_versions(tx, new, self._tables) if new else {}
        if len(new) < len(before):
            changed = self._replaced(tx, before)
            if changed:
                now.update(records.load_with_versions(tx, changed, self._tables))
        # One consistent state: a record is as new as the version that is remembered for it.
        behind = {
            each: first
            for each, (version, _) in now.items()
            if version.number and (first := _untold(before[each], version)) < version.number
        }
        past = records.load_past(tx, behind, self._tables) if behind else {}
        found: list[Record] = []
        with self._lock:
            for each, (version, record) in now.items():
                if each in self._versions:
                    self._versions[each] = version
                    if version.state == states.SUCCESS:
                        self._final.add(each)
                if each in past:
                    # An end that was not the last one, as of a dead letter that was replayed, ends nobody's wait.
                    found += [state for _, state in past[each] if state.state not in states.READY_STATES]
                found.append(record)
        return found

    def _replaced(self, tx: Transaction, before: Mapping[str, Version | None]) -> list[str]:
        known = [each for each, version in before.items() if version is not None]
        versions = records.load_versions(tx, known, self._tables)
        return [each for each, version in versions.items() if version != before[each]]


def _untold(before: Version | None, now: Version) -> int:
    """The number of the first state that was not told."""
    # A record that was deleted and made anew counts from 0 again.
    return 0 if before is None or now.number < before.number else before.number + 1
