"""Waiting for records: one connection and one thread listen for every watch of a backend."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kernel_lib_redis import Event, Listener, RedisServer

from kernel import errors
from kernel.interfaces.backend import Record, replaces
from kernel.interfaces.mailbox import Mailbox

_log = logging.getLogger("kernel.redis")

_LISTEN_SECONDS: Final = 60.0
_LONGEST_PAUSE: Final = 2.0
_BATCH: Final = 500


class RedisWatch(Mailbox):
    """Made by `RedisBackend.watch`."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub
        # State, attempt and check sum of what was last told of each id.
        self._told: dict[str, tuple[str, int, int] | None] = {}

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
        self._hub.discard(self, ids)
        self._hub.leave(self)


class Hub:
    """Who waits for which id, and the thread that listens for all of them while anybody does."""

    def __init__(
        self, server: RedisServer, key: Callable[[str], str], decode: Callable[[str, bytes], Record | None]
    ) -> None:
        self._server = server
        self._key = key
        self._decode = decode
        self._lock = threading.Lock()
        self._watches: set[RedisWatch] = set()
        self._waiting: dict[bytes, tuple[str, set[RedisWatch]]] = {}
        # Channels that somebody else listens to already: their records are looked up, and no answer is waited for.
        self._unseen: set[bytes] = set()
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def watch(self) -> RedisWatch:
        watch = RedisWatch(self)
        with self._lock:
            self._watches.add(watch)
            if self._listener is None:
                self._listener = Listener(self._server)
                self._thread = threading.Thread(
                    target=self._run, args=(self._listener,), name="kernel-redis-results", daemon=True
                )
                self._thread.start()
        return watch

    def add(self, watch: RedisWatch, ids: Iterable[str]) -> None:
        with self._lock:
            fresh: list[bytes] = []
            for each in ids:
                channel = self._channel(each)
                if channel in self._waiting:
                    self._unseen.add(channel)
                else:
                    self._waiting[channel] = each, set()
                    fresh.append(channel)
                self._waiting[channel][1].add(watch)
            if self._listener is not None:
                # In the order of the changes, so under the lock.
                self._listener.add(fresh)
                if self._unseen:
                    self._listener.wake()

    def discard(self, watch: RedisWatch, ids: Iterable[str]) -> None:
        with self._lock:
            gone: list[bytes] = []
            for each in ids:
                channel = self._channel(each)
                _, watches = self._waiting.get(channel, ("", set[RedisWatch]()))
                watches.discard(watch)
                if not watches and self._waiting.pop(channel, None) is not None:
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
        listener.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._server.timeout)

    def close(self) -> None:
        with self._lock:
            watches = [*self._watches]
        for watch in watches:
            watch.close()

    def _channel(self, id: str) -> bytes:
        return self._key(id).encode("utf-8", "surrogatepass")

    # the thread -------------------------------------------------------------------------------------------------

    def _run(self, listener: Listener) -> None:
        pause = 0.05
        while self._listener is listener:
            try:
                self._handle(listener.read(_LISTEN_SECONDS))
                pause = 0.05
            except errors.KernelError as exc:
                _log.warning("waiting for results, but %s; next try in %.2f s", exc, pause)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:
                _log.exception("waiting for results failed; it goes on")
                time.sleep(pause)

    def _handle(self, events: Sequence[Event]) -> None:
        with self._lock:
            look = [event.channel for event in events if event.kind == "subscribe"]
            look += self._unseen
            self._unseen.clear()
        try:
            # First what stands, then what was announced since: so a record is never told after its successor.
            self._load(look)
        except errors.OperationalError:
            with self._lock:
                self._unseen.update(look)
            raise
        finally:
            self._tell([(event.channel, event.data) for event in events if event.kind == "message"])

    def _load(self, channels: Sequence[bytes]) -> None:
        for start in range(0, len(channels), _BATCH):
            part = channels[start : start + _BATCH]
            found = zip(part, self._server.call("MGET", *part), strict=True)
            self._tell([(channel, raw) for channel, raw in found if raw is not None])

    def _tell(self, found: Sequence[tuple[bytes, bytes]]) -> None:
        """What was found under some channels, in order, to all who wait for it."""
        with self._lock:
            known = [(*self._waiting[channel], raw) for channel, raw in found if channel in self._waiting]
            told = [(task_id, tuple(watches), raw) for task_id, watches, raw in known]
        news: dict[RedisWatch, list[tuple[Record, int]]] = {}
        for task_id, watches, raw in told:
            record = self._decode(task_id, raw) if watches else None
            if record is not None:
                for watch in watches:
                    news.setdefault(watch, []).append((record, zlib.crc32(raw)))
        for watch, records in news.items():
            watch.offer(records)
