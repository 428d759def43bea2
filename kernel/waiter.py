"""`Waiter`: one listener for everybody who waits for results, threads and coroutines alike.

One thread holds a watch on the backend and hands each record to those who wait for its id. The first thread that ever
waits gets a watch of its own instead: in a program that waits on one thread only, nothing hops between threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

from kernel import errors, states
from kernel.interfaces.backend import Backend, Record, Watch

if TYPE_CHECKING:
    import asyncio

_LONGEST_WAIT: Final = 30.0
_ATTEMPTS: Final = 4
_FIRST_PAUSE: Final = 0.1
_CLOSE_SECONDS: Final = 5.0

# What may pass by itself; anything else is told to whoever waits at once.
_PASSING: Final = (errors.OperationalError, errors.BackendError, OSError)

OnRecord = Callable[[Record], object]
Item = Record | Exception


class Waiter:
    """Waits for the terminal records of tasks on the backend that `backend()` returns.

    Usable from any thread and any event loop; a forked process starts anew. `close` ends its thread, and the
    waiting of everybody with `OperationalError`.
    """

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._listener: _Listener | None = None
        self._direct: _Direct | None = None

    def wait(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        on_record: OnRecord | None = None,
        on_interval: Callable[[], object] | None = None,
        interval: float = 0.5,
    ) -> Record:
        """The terminal record of `task_id`, as soon as there is one.

        `on_record` is called with every record that is seen, the last one included; `on_interval` every
        `interval` seconds. Raises `kernel.errors.TimeoutError` after `timeout` seconds, and what the backend
        raises once it has failed a few times in a row. With a timeout of 0 it looks once.
        """
        if timeout is not None and timeout <= 0:
            return self._look(task_id, on_record)
        watching = _Watching(task_id, timeout, on_record, on_interval, interval)
        direct = self._claim_direct()
        if direct is None:
            return self._wait_for_listener(watching)
        try:
            return direct.wait(watching)
        finally:
            direct.busy = False

    async def wait_async(
        self,
        task_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that `get` has
        on_record: OnRecord | None = None,
    ) -> Record:
        """The same for coroutines; blocks no event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + max(timeout, 0.0)
        box = _LoopBox(loop)
        listener = self._listening()
        listener.register(task_id, box)
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await box.get()
                except TimeoutError:
                    raise _timed_out(task_id, timeout) from None
                record = _record(item)
                if on_record is not None:
                    on_record(record)
                if record.state in states.READY_STATES:
                    return record
        finally:
            listener.unregister(task_id, box)

    def close(self) -> None:
        """End the listener and let go of the backend; may be used again afterwards."""
        if self._pid != os.getpid():
            # What is here belongs to the parent's threads; closing it would talk over the parent's connections.
            self._start()
            return
        with self._lock:
            listener, self._listener = self._listener, None
            direct, self._direct = self._direct, None
        if listener is not None:
            listener.close()
        if direct is not None:
            direct.close()

    def _look(self, task_id: str, on_record: OnRecord | None) -> Record:
        record = self._backend().load([task_id])[0]
        if record is not None and on_record is not None:
            on_record(record)
        if record is None or record.state not in states.READY_STATES:
            raise _timed_out(task_id, 0)
        return record

    def _wait_for_listener(self, watching: _Watching) -> Record:
        box = _ThreadBox()
        listener = self._listening()
        listener.register(watching.task_id, box)
        try:
            while True:
                try:
                    item = box.items.get(timeout=watching.step())
                except Empty:
                    watching.tick()
                    continue
                if watching.ends_with(_record(item)):
                    return _record(item)
        finally:
            listener.unregister(watching.task_id, box)

    def _listening(self) -> _Listener:
        if self._pid != os.getpid():
            self._start()
        with self._lock:
            if self._listener is None:
                self._listener = _Listener(self._backend)
            return self._listener

    def _claim_direct(self) -> _Direct | None:
        """This thread's own watch; None when it is another thread's, or in use (a wait inside `on_record`)."""
        if self._pid != os.getpid():
            self._start()
        me = threading.current_thread()
        with self._lock:
            direct = self._direct
            if direct is None or not direct.thread.is_alive():
                if direct is not None:
                    direct.close()
                direct = self._direct = _Direct(self._backend, me)
            elif direct.thread is not me or direct.busy:
                return None
            direct.busy = True
            return direct


class _Watching:
    """One caller's wait: until when, and what it wants to be told."""

    __slots__ = ("_deadline", "_interval", "_next_tick", "_on_interval", "_on_record", "_timeout", "task_id")

    def __init__(
        self,
        task_id: str,
        timeout: float | None,
        on_record: OnRecord | None,
        on_interval: Callable[[], object] | None,
        interval: float,
    ) -> None:
        now = time.monotonic()
        self.task_id = task_id
        self._timeout = timeout
        self._deadline = None if timeout is None else now + timeout
        self._on_record = on_record
        self._on_interval = on_interval
        self._interval = max(interval, 0.001)
        self._next_tick = now + self._interval

    def step(self) -> float:
        """How long to wait before `tick` is due."""
        now = time.monotonic()
        step = _LONGEST_WAIT if self._deadline is None else self._deadline - now
        if self._on_interval is not None:
            step = min(step, self._next_tick - now)
        return min(max(step, 0.0), _LONGEST_WAIT)

    def tick(self) -> None:
        """Nothing came. Raises `TimeoutError` when it is too late for more."""
        now = time.monotonic()
        if self._on_interval is not None and now >= self._next_tick:
            self._next_tick = now + self._interval
            self._on_interval()
        if self._deadline is not None and now >= self._deadline:
            raise _timed_out(self.task_id, self._timeout)

    def ends_with(self, record: Record) -> bool:
        """Tell the caller of `record`; whether it was the last."""
        if self._on_record is not None:
            self._on_record(record)
        return record.state in states.READY_STATES


class _Direct:
    """The watch of one thread that waits by itself."""

    def __init__(self, backend: Callable[[], Backend], thread: threading.Thread) -> None:
        self._backend = backend
        self._watch: Watch | None = None
        self._closed = False
        self.thread = thread
        self.busy = False

    def wait(self, watching: _Watching) -> Record:
        try:
            record = self._wait(watching)
        except errors.TimeoutError:
            self._discard(watching.task_id)
            raise
        except BaseException:
            # Whatever ended it, an interrupt for example, may have left the watch in the middle of something.
            self._drop_watch()
            raise
        self._discard(watching.task_id)
        return record

    def _wait(self, watching: _Watching) -> Record:
        failures = 0
        added = False
        while not self._closed:
            try:
                if self._watch is None:
                    self._watch = self._backend().watch()
                    added = False
                if not added:
                    self._watch.add((watching.task_id,))
                    added = True
                records = self._watch.wait(watching.step())
            except _PASSING:
                failures += 1
                self._drop_watch()
                if failures >= _ATTEMPTS:
                    raise
                time.sleep(min(_FIRST_PAUSE * 2 ** (failures - 1), watching.step()))
                watching.tick()
                continue
            failures = 0
            for record in records:
                if record.id == watching.task_id and watching.ends_with(record):
                    return record
            watching.tick()
        raise _closed()

    def _discard(self, task_id: str) -> None:
        if self._watch is not None:
            try:
                self._watch.discard((task_id,))
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
            _close_quietly(watch)


class _Box(Protocol):
    """Where a waiting caller gets its records; any thread puts them in."""

    def put(self, item: Item) -> None: ...


class _ThreadBox:
    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: SimpleQueue[Item] = SimpleQueue()

    def put(self, item: Item) -> None:
        self.items.put(item)


class _LoopBox:
    """`arrive` runs on the loop; `put` brings it there."""

    __slots__ = ("_future", "_items", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[Item] = deque()
        self._future: asyncio.Future[None] | None = None

    async def get(self) -> Item:
        while not self._items:
            self._future = self.loop.create_future()
            await self._future
        return self._items.popleft()

    def arrive(self, item: Item) -> None:
        self._items.append(item)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def put(self, item: Item) -> None:
        _call_on(self.loop, [(self, item)])


class _Listener:
    """A thread, its watch, and the boxes of everybody it serves."""

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend
        self._boxes: dict[str, list[_Box]] = {}
        # The newest record of each id that is watched: who comes later must not wait for a change.
        self._newest: dict[str, Record] = {}
        self._changed: set[str] = set()
        self._watched: set[str] = set()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._watch: Watch | None = None
        self._closed = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="kernel-results", daemon=True)
        self._thread.start()

    def register(self, task_id: str, box: _Box) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            boxes = self._boxes.setdefault(task_id, [])
            boxes.append(box)
            newest = self._newest.get(task_id)
            if newest is not None:
                box.put(newest)
            elif len(boxes) == 1:
                self._changed.add(task_id)
                self._work.notify()
            watch = self._watch
        if newest is None and watch is not None:
            watch.wake()

    def unregister(self, task_id: str, box: _Box) -> None:
        with self._lock:
            boxes = self._boxes.get(task_id)
            if boxes is None or box not in boxes:
                return
            boxes.remove(box)
            if not boxes:
                del self._boxes[task_id]
                self._changed.add(task_id)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._work.notify()
            watch = self._watch
        if watch is not None:
            watch.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                watch = self._watching()
                records = watch.wait(_LONGEST_WAIT)
                self._failures = 0
            except Exception as exc:
                self._fail(exc)
                continue
            self._hand_out(records)
        self._drop_watch()
        self._tell_all(_closed())

    def _wait_for_work(self) -> bool:
        with self._lock:
            while not self._boxes and not self._closed:
                self._work.wait(_LONGEST_WAIT)
            return not self._closed

    def _watching(self) -> Watch:
        """The watch, with the ids that are wanted now."""
        fresh = self._watch is None
        watch = self._watch or self._backend().watch()
        with self._lock:
            self._watch = watch
            if fresh:
                self._watched.clear()
                self._changed.update(self._boxes)
            add = [key for key in self._changed if key in self._boxes and key not in self._watched]
            drop = [key for key in self._changed if key not in self._boxes and key in self._watched]
            self._changed.clear()
            self._watched.update(add)
            self._watched.difference_update(drop)
            for key in drop:
                self._newest.pop(key, None)
        if drop:
            watch.discard(drop)
        if add:
            watch.add(add)
        return watch

    def _hand_out(self, records: Sequence[Record]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[_LoopBox, Item]]] = {}
        with self._lock:
            for record in records:
                if record.id in self._watched:
                    self._newest[record.id] = record
                for box in self._boxes.get(record.id, ()):
                    if isinstance(box, _LoopBox):
                        # One wake-up for each event loop, however many of its coroutines are served.
                        loops.setdefault(box.loop, []).append((box, record))
                    else:
                        box.put(record)
        for loop, items in loops.items():
            _call_on(loop, items)

    def _fail(self, exc: Exception) -> None:
        self._drop_watch()
        self._failures += 1
        if isinstance(exc, _PASSING) and self._failures < _ATTEMPTS:
            with self._lock:
                if not self._closed:
                    self._work.wait(_FIRST_PAUSE * 2 ** (self._failures - 1))
            return
        self._failures = 0
        self._tell_all(exc)

    def _tell_all(self, exc: Exception) -> None:
        with self._lock:
            boxes = [box for boxes in self._boxes.values() for box in boxes]
            self._boxes.clear()
            self._newest.clear()
        for box in boxes:
            box.put(exc)

    def _drop_watch(self) -> None:
        with self._lock:
            watch, self._watch = self._watch, None
            self._newest.clear()
        if watch is not None:
            _close_quietly(watch)


def _call_on(loop: asyncio.AbstractEventLoop, items: list[tuple[_LoopBox, Item]]) -> None:
    def arrive() -> None:
        for box, item in items:
            box.arrive(item)

    try:
        loop.call_soon_threadsafe(arrive)
    except RuntimeError:
        return  # the loop was closed, and with it everybody who waited there


def _close_quietly(watch: Watch) -> None:
    try:
        watch.close()
    except Exception:
        return  # it is dropped because it failed already, or because nobody needs it


def _record(item: Item) -> Record:
    if isinstance(item, Exception):
        raise item
    return item


def _timed_out(task_id: str, timeout: float | None) -> errors.TimeoutError:
    return errors.TimeoutError(f"the result of task {task_id} was not ready within {timeout:g} seconds")


def _closed() -> errors.OperationalError:
    return errors.OperationalError("the app was closed while somebody waited for a result")
