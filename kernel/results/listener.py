"""`Listener`: a thread with one watch, that serves everybody who waits for results; and where it puts them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

from kernel import states
from kernel.interfaces.backend import Backend, Record, Watch
from kernel.results.waiting import ATTEMPTS, FIRST_PAUSE, LONGEST_WAIT, PASSING, close_quietly, closed

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger("kernel.results")

_CLOSE_SECONDS: Final = 5.0

Item = Record | Exception


class Box(Protocol):
    """Where a waiting caller gets its records."""

    def put(self, item: Item) -> None:
        """Called on the listener's thread or that of whoever registers, also with the listener's lock held: it must not
        wait, nor ask anything of the listener."""
        ...


class ThreadBox:
    """Of a thread that waits, which reads `items` itself."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: SimpleQueue[Item] = SimpleQueue()

    def put(self, item: Item) -> None:
        self.items.put(item)


class LoopBox:
    """Of a coroutine that waits. `get` and `arrive` run on its loop, and `put`, on any thread, brings items there."""

    __slots__ = ("_future", "_items", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[Item] = deque()
        self._future: asyncio.Future[None] | None = None

    async def get(self) -> list[Item]:
        """Everything that has come in, as soon as there is anything."""
        while not self._items:
            self._future = self.loop.create_future()
            await self._future
        items = [*self._items]
        self._items.clear()
        return items

    def arrive(self, item: Item) -> None:
        self._items.append(item)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def put(self, item: Item) -> None:
        _call_on(self.loop, [(self, item)])


class CallBox:
    """Of a function that is called with the end of a task, or with why there is none to be had; once, and on the thread
    of `Calls`."""

    __slots__ = ("_called", "_calls", "_function", "_task_id")

    def __init__(self, calls: Calls, task_id: str, function: Callable[[Item], object]) -> None:
        self._calls = calls
        self._task_id = task_id
        self._function = function
        self._called = False

    def put(self, item: Item) -> None:
        if not self._called and (isinstance(item, Exception) or item.state in states.READY_STATES):
            self._called = True
            self._calls.add(self, item)

    def call(self, item: Item, listener: Listener) -> None:
        """On the thread of `Calls`, which holds no lock: the function may wait for other results."""
        listener.unregister((self._task_id,), self)
        self._function(item)


class Calls:
    """A thread that makes the calls of `CallBox`, so that user code holds up no result; started by the first."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._queue: SimpleQueue[tuple[CallBox, Item] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, box: CallBox, item: Item) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kernel-result-calls", daemon=True)
                self._thread.start()
        self._queue.put((box, item))

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            box, item = entry
            try:
                box.call(item, self._listener)
            except Exception:
                _log.exception("a function that was to be called with a result failed")

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(_CLOSE_SECONDS)


class Listener:
    """A thread, its watch, and the boxes of everybody it serves."""

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend
        self._boxes: dict[str, list[Box]] = {}
        # The newest record of each id that is watched: who comes later must not wait for a change.
        self._newest: dict[str, Record] = {}
        self._changed: set[str] = set()
        self._watched: set[str] = set()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._watch: Watch | None = None
        self._closed = False
        self._failures = 0
        self.calls = Calls(self)
        self._thread = threading.Thread(target=self._run, name="kernel-results", daemon=True)
        self._thread.start()

    def register(self, ids: Iterable[str], box: Box) -> None:
        """From now on `box` gets the records of `ids`, what is known already at once. Raises `OperationalError` when
        it is closed."""
        unknown = False
        with self._lock:
            if self._closed:
                raise closed()
            for task_id in ids:
                boxes = self._boxes.setdefault(task_id, [])
                boxes.append(box)
                newest = self._newest.get(task_id)
                if newest is not None:
                    box.put(newest)
                    continue
                unknown = True
                if len(boxes) == 1:
                    self._changed.add(task_id)
            if self._changed:
                self._work.notify()
            watch = self._watch
        if unknown and watch is not None:
            watch.wake()

    def unregister(self, ids: Iterable[str], box: Box) -> None:
        with self._lock:
            for task_id in ids:
                boxes = self._boxes.get(task_id)
                if boxes is None or box not in boxes:
                    continue
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
        self.calls.close()

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                watch = self._watching()
                records = watch.wait(LONGEST_WAIT)
                self._failures = 0
            except Exception as exc:
                self._fail(exc)
                continue
            self._hand_out(records)
        self._drop_watch()
        self._tell_all(closed())

    def _wait_for_work(self) -> bool:
        with self._lock:
            while not self._boxes and not self._closed:
                self._work.wait(LONGEST_WAIT)
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
        loops: dict[asyncio.AbstractEventLoop, list[tuple[LoopBox, Item]]] = {}
        with self._lock:
            for record in records:
                if record.id in self._watched:
                    self._newest[record.id] = record
                for box in self._boxes.get(record.id, ()):
                    if isinstance(box, LoopBox):
                        # One wake-up for each event loop, however many of its coroutines are served.
                        loops.setdefault(box.loop, []).append((box, record))
                    else:
                        box.put(record)
        for loop, items in loops.items():
            _call_on(loop, items)

    def _fail(self, exc: Exception) -> None:
        self._drop_watch()
        self._failures += 1
        if isinstance(exc, PASSING) and self._failures < ATTEMPTS:
            with self._lock:
                if not self._closed:
                    self._work.wait(FIRST_PAUSE * 2 ** (self._failures - 1))
            return
        self._failures = 0
        self._tell_all(exc)

    def _tell_all(self, exc: Exception) -> None:
        with self._lock:
            # One that waits for many is told once.
            boxes = {id(box): box for boxes in self._boxes.values() for box in boxes}
            self._boxes.clear()
            self._newest.clear()
        for box in boxes.values():
            box.put(exc)

    def _drop_watch(self) -> None:
        with self._lock:
            watch, self._watch = self._watch, None
            self._newest.clear()
        if watch is not None:
            close_quietly(watch)


def _call_on(loop: asyncio.AbstractEventLoop, items: list[tuple[LoopBox, Item]]) -> None:
    def arrive() -> None:
        for box, item in items:
            box.arrive(item)

    try:
        loop.call_soon_threadsafe(arrive)
    except RuntimeError:
        return  # the loop was closed, and with it everybody who waited there
