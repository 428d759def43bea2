"""One caller's wait, and the watch of a thread that waits by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from kernel import errors, states
from kernel.interfaces.backend import Backend, Record, Watch

LONGEST_WAIT: Final = 30.0
ATTEMPTS: Final = 4
FIRST_PAUSE: Final = 0.1

# What may pass by itself; anything else is told to whoever waits at once.
PASSING: Final = (errors.OperationalError, errors.BackendError, OSError)

OnRecord = Callable[[Record], object]


class Watching:
    """What a caller waits for and until when, and what it wants to be told. `pending` are the ids without an end."""

    __slots__ = ("_deadline", "_interval", "_next_tick", "_on_interval", "_on_record", "_timeout", "added", "pending")

    def __init__(
        self,
        ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_record: OnRecord | None = None,
        on_interval: Callable[[], object] | None = None,
        interval: float = 0.5,
    ) -> None:
        now = time.monotonic()
        # In order, so that what has ended already comes in order where the backend's watch gives it so.
        self.pending = dict.fromkeys(ids)
        self.added = False
        self._timeout = timeout
        self._deadline = None if timeout is None else now + timeout
        self._on_record = on_record
        self._on_interval = on_interval
        self._interval = max(interval, 0.001)
        self._next_tick = now + self._interval

    def step(self) -> float:
        """How long to wait before `tick` is due."""
        now = time.monotonic()
        step = LONGEST_WAIT if self._deadline is None else self._deadline - now
        if self._on_interval is not None:
            step = min(step, self._next_tick - now)
        return min(max(step, 0.0), LONGEST_WAIT)

    def tick(self) -> None:
        """Some time went by. Raises `TimeoutError` when it is too late for more."""
        now = time.monotonic()
        if self._on_interval is not None and now >= self._next_tick:
            self._next_tick = now + self._interval
            self._on_interval()
        if self._deadline is not None and now >= self._deadline:
            raise timed_out(self.pending, self._timeout)

    def takes(self, record: Record) -> bool:
        """Tell the caller of `record`; whether it is the end of one that was pending, and is so no more."""
        if record.id not in self.pending:
            return False
        if self._on_record is not None:
            self._on_record(record)
        if record.state not in states.READY_STATES:
            return False
        del self.pending[record.id]
        return True


class Direct:
    """The watch of one thread that waits by itself."""

    def __init__(self, backend: Callable[[], Backend], thread: threading.Thread) -> None:
        self._backend = backend
        self._watch: Watch | None = None
        self._closed = False
        self.thread = thread
        self.busy = False

    def batch(self, watching: Watching) -> list[Record]:
        """The next terminal records of what is pending, as soon as there are any. After the last `leave` is not
        needed."""
        try:
            return self._batch(watching)
        except errors.TimeoutError:
            self.leave(watching)
            raise
        except BaseException:
            # Whatever ended it, an interrupt for example, may have left the watch in the middle of something.
            self._drop_watch()
            raise

    def leave(self, watching: Watching) -> None:
        """Nobody waits for what is still pending."""
        self._discard([*watching.pending])

    def _batch(self, watching: Watching) -> list[Record]:
        failures = 0
        while not self._closed:
            try:
                watch = self._watch
                if watch is None:
                    self._watch = watch = self._backend().watch()
                    watching.added = False
                if not watching.added:
                    watch.add([*watching.pending])
                    watching.added = True
                records = watch.wait(watching.step())
            except PASSING:
                failures += 1
                watching.added = False
                self._drop_watch()
                if failures >= ATTEMPTS:
                    raise
                time.sleep(min(FIRST_PAUSE * 2 ** (failures - 1), watching.step()))
                watching.tick()
                continue
            failures = 0
            ended = [record for record in records if watching.takes(record)]
            if ended:
                # What has ended is not looked at again, however many there are.
                self._discard([record.id for record in ended])
                return ended
            watching.tick()
        raise closed()

    def _discard(self, ids: list[str]) -> None:
        if self._watch is not None and ids:
            try:
                self._watch.discard(ids)
            except Exception:
                self._drop_watch()

    def close(self) -> None:
        self._closed = True
        watch = self._watch
        if watch is None:
            return
        if self.busy and self.thread is not threading.current_thread():
            watch.wake()  # its thread sees that it is closed, and the backend closes the watch
        else:
            self._drop_watch()

    def _drop_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            close_quietly(watch)


def close_quietly(watch: Watch) -> None:
    try:
        watch.close()
    except Exception:
        return  # it is dropped because it failed already, or because nobody needs it


def timed_out(ids: Collection[str], timeout: float | None) -> errors.TimeoutError:
    within = "" if timeout is None else f" within {timeout:g} seconds"
    if len(ids) == 1:
        return errors.TimeoutError(f"the result of task {next(iter(ids))} was not ready{within}")
    return errors.TimeoutError(f"{len(ids)} results were not ready{within}, that of task {min(ids)} among them")


def closed() -> errors.OperationalError:
    return errors.OperationalError("the app was closed while somebody waited for a result")
