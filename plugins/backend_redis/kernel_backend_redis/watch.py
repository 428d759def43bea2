"""Waiting for records: one connection listens for every watch of a backend, and one of those who wait reads it.

Who waits reads by himself where nobody does, hands out what comes to the others, and hands the reading over when he has
what he waited for: an announcement wakes one thread, and mostly the right one. What may take long, above all making the
connection, is left to a thread of the hub's, which also reads where announcements come in and nobody waits.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kernel_lib_redis import Event, Lookout, RedisServer

from kernel import errors
from kernel.interfaces.backend import Record, replaces
from kernel.interfaces.mailbox import Mailbox

_log = logging.getLogger("kernel.redis")

_LISTEN_SECONDS: Final = 60.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_SOON: Final = 5.0
"""Seconds within which a connection that was made ought not to break."""
_UNATTENDED: Final = 1.0
"""Seconds after which the hub's thread reads what nobody else does."""


class RedisWatch(Mailbox):
    """Made by `RedisBackend.watch`."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        # The lock itself is entered without a moment in which a signal's handler could leave it locked.
        self._guard = threading.RLock()
        self.changed = threading.Condition(self._guard)
        self._hub = hub
        self._waits_in = 0
        # State, attempt and check sum of what was last told of each id.
        self._told: dict[str, tuple[str, int, int] | None] = {}
        self._called = False

    def wait(self, timeout: float) -> Sequence[Record]:
        end = time.monotonic() + timeout
        self._waits_in = threading.get_ident()
        records = self._taken()
        try:
            while records is None:
                listener = self._hub.reads(self)
                # Once more: who woke it before it read did not interrupt its reading.
                records = self._taken()
                if records is not None:
                    break
                left = max(0.0, end - time.monotonic())
                if listener is not None:
                    self._hub.hear(listener, left)
                else:
                    self._stand_by(left)
                records = self._taken()
                if left <= 0:
                    break
        finally:
            self._hub.leaves_reading(self)
        return records or []

    def _taken(self) -> list[Record] | None:
        """What was put in; None where waiting is to go on."""
        with self._guard:
            if not (self._news or self._woken or self.closed):
                return None
            self._woken = False
            records = [*self._news]
            self._news.clear()
        return records

    def _stand_by(self, timeout: float) -> None:
        """While another reads."""
        with self.changed:
            self.changed.wait_for(lambda: self._news or self._woken or self.closed or self._called, timeout)
            self._called = False

    def call(self) -> None:
        """Nobody else reads any more."""
        with self.changed:
            self._called = True
            self.changed.notify_all()

    def wake(self) -> None:
        super().wake()
        self._hub.ring(self)

    def add(self, ids: Sequence[str]) -> None:
        with self.changed:
            if self.closed:
                return
            new = [each for each in dict.fromkeys(ids) if each not in self._told]
            self._told.update(dict.fromkeys(new))
        self._hub.add(self, new)

    def discard(self, ids: Sequence[str]) -> None:
        with self.changed:
            gone = [each for each in dict.fromkeys(ids) if self._told.pop(each, self) is not self]
            self.drop(set(gone))
        self._hub.discard(self, gone)

    def offer(self, found: Iterable[tuple[Record, int]]) -> None:
        """Tell of records, with their check sums, save those that were told of already or are older than what was. All
        at once: whoever waits is woken once for them."""
        with self.changed:
            if self.closed:
                return
            for record, checksum in found:
                if self._is_news(record, checksum):
                    self._told[record.id] = record.state, record.attempt, checksum
                    self.put(record)

    def _is_news(self, record: Record, checksum: int) -> bool:
        if record.id not in self._told:
            return False
        told = self._told[record.id]
        if told is None:
            return True
        # A load and an announcement may bring the same record, or bring two in the wrong order.
        state, attempt, before = told
        return checksum != before and replaces(record.state, record.attempt, state, attempt)

    def close(self) -> None:
        with self.changed:
            if not self.shut():
                return
            ids = [*self._told]
        if self._waits_in == threading.get_ident():
            # A handler may have raised when it was about to hand the reading over.
            self._hub.leaves_reading(self)
        self._hub.ring(self)
        self._hub.discard(self, ids)
        self._hub.leave(self)


class Hub:
    """Who waits for which id, and who reads for all of them: a watch in which somebody waits, or the hub's thread."""

    def __init__(
        self, server: RedisServer, key: Callable[[str], str], decode: Callable[[str, bytes], Record | None]
    ) -> None:
        self._server = server
        # A channel is called as the key of the record.
        self._head = key("").encode("utf-8", "surrogatepass")
        self._decode = decode
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        self._watches: set[RedisWatch] = set()
        self._waiting: dict[bytes, tuple[str, set[RedisWatch]]] = {}
        self._listener: Lookout | None = None
        self._thread: threading.Thread | None = None
        # Itself while its thread reads.
        self._reader: RedisWatch | Hub | None = None
        # Those who wait while another reads, in the order in which they came.
        self._others: dict[RedisWatch, None] = {}
        self._attended = 0.0
        """When somebody last stopped reading, or began to wait."""
        self._rests = False
        """Whether the thread sleeps until it is told."""
        self._is_excused = False
        """Whether the connection was given up here, and did not break."""

    def watch(self) -> RedisWatch:
        watch = RedisWatch(self)
        with self._lock:
            self._watches.add(watch)
            if self._listener is None:
                self._listener = Lookout(self._server)
                self._thread = threading.Thread(
                    target=self._run, args=(self._listener,), name="kernel-redis-results", daemon=True
                )
                self._thread.start()
        return watch

    def add(self, watch: RedisWatch, ids: Iterable[str]) -> None:
        with self._lock:
            channels = []
            for each in ids:
                channel = self._channel(each)
                known = self._waiting.get(channel)
                if known is None:
                    self._waiting[channel] = each, {watch}
                else:
                    known[1].add(watch)
                channels.append(channel)
            if self._listener is not None and channels:
                # In the order of the changes, so under the lock.
                self._listener.add(channels)
                self._attended = time.monotonic()
                self._call_thread()

    def discard(self, watch: RedisWatch, ids: Iterable[str]) -> None:
        with self._lock:
            gone: list[bytes] = []
            for each in ids:
                channel = self._channel(each)
                known = self._waiting.get(channel)
                if known is not None:
                    known[1].discard(watch)
                    if not known[1]:
                        del self._waiting[channel]
                        gone.append(channel)
            if self._listener is not None and gone:
                self._listener.discard(gone)

    def leave(self, watch: RedisWatch) -> None:
        """The last one ends the listening."""
        with self._lock:
            self._watches.discard(watch)
            if self._watches or self._listener is None:
                return
            listener, self._listener = self._listener, None
            thread, self._thread = self._thread, None
            self._turn.notify_all()
        listener.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._server.timeout)

    def close(self) -> None:
        with self._lock:
            watches = [*self._watches]
        for watch in watches:
            watch.close()

    def _channel(self, id: str) -> bytes:
        return self._head + id.encode("utf-8", "surrogatepass")

    # who reads --------------------------------------------------------------------------------------------------

    def reads(self, watch: RedisWatch) -> Lookout | None:
        """What is to be heard by who waits in this watch; None while another reads."""
        with self._lock:
            listener = self._listener
            if listener is None:
                return None
            if self._reader is watch:
                self._reader = None
            if self._reader is None and listener.is_well:
                self._reader = watch
                self._others.pop(watch, None)
                return listener
            self._others[watch] = None
            if self._reader is None:
                self._turn.notify_all()
            elif self._reader is self and listener.is_well:
                # The thread makes way.
                listener.wake()
        return None

    def hear(self, listener: Lookout, timeout: float) -> None:
        """Read once, and hand out what came."""
        try:
            self._tell(listener.hear(timeout))
        except BaseException:
            # Handlers of signals may raise anything anywhere. What was read and not handed out comes once more.
            listener.cut()
            self._is_excused = True
            raise

    def leaves_reading(self, watch: RedisWatch) -> None:
        """Nobody waits in this watch any more."""
        with self._lock:
            self._others.pop(watch, None)
            if self._reader is watch:
                self._stop_reading()
            elif self._reader is None and self._others:
                # It may have been the one that was called.
                self._call_next()

    def ring(self, watch: RedisWatch) -> None:
        """End its reading, if it is the one that reads."""
        with self._lock:
            if self._reader is watch and self._listener is not None:
                self._listener.wake()

    def _stop_reading(self) -> None:
        self._reader, self._attended = None, time.monotonic()
        self._call_next()

    def _call_next(self) -> None:
        if self._others and self._listener is not None and self._listener.is_well:
            next(iter(self._others)).call()
        else:
            self._call_thread()

    def _call_thread(self) -> None:
        """Where nobody reads: a connection has to be made, or what comes in must not lie there for long."""
        listener = self._listener
        if listener is not None and self._reader is None and ((self._rests and self._waiting) or not listener.is_well):
            self._turn.notify_all()

    # the thread -------------------------------------------------------------------------------------------------

    def _run(self, listener: Lookout) -> None:
        made = pause = 0.0
        while self._takes_over(listener, pause):
            begins, cut, failed = time.monotonic(), listener.is_cut, False
            try:
                self._tell(listener.read(_LISTEN_SECONDS))
                failed = cut and begins < made + _SOON and not self._is_excused
                self._is_excused = False
            except errors.KernelError as exc:
                _log.warning("waiting for results, but %s", exc)
                failed = True
            except Exception:
                _log.exception("waiting for results failed; it goes on")
                failed = True
            finally:
                with self._lock:
                    self._stop_reading()
            made = begins if cut else made
            pause = min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE) if failed else 0.0

    def _takes_over(self, listener: Lookout, pause: float) -> bool:
        """Wait until the thread has to read, at least for `pause` seconds; False when there is nothing left to do."""
        earliest = time.monotonic() + pause
        with self._turn:
            while self._listener is listener:
                now = time.monotonic()
                if now < earliest:
                    self._turn.wait(earliest - now)
                elif self._reader is None and not listener.is_well:
                    self._reader = self
                    return True
                elif now < self._attended + _UNATTENDED:
                    self._turn.wait(self._attended + _UNATTENDED - now)
                elif self._reader is None and self._waiting:
                    self._reader = self
                    return True
                else:
                    listener.sweep()
                    self._rests = True
                    self._turn.wait()
                    self._rests = False
        return False

    def _tell(self, events: Sequence[Event]) -> None:
        """What was found under some channels, in order, to all who wait for it."""
        found = [event for event in events if event.kind == "message"]
        if not found:
            return
        with self._lock:
            known = [(*self._waiting[each.channel], each.data) for each in found if each.channel in self._waiting]
            told = [(task_id, tuple(watches), raw) for task_id, watches, raw in known]
        news: dict[RedisWatch, list[tuple[Record, int]]] = {}
        for task_id, watches, raw in told:
            record = self._decode(task_id, raw) if watches else None
            if record is not None:
                for watch in watches:
                    news.setdefault(watch, []).append((record, zlib.crc32(raw)))
        for watch, records in news.items():
            watch.offer(records)
