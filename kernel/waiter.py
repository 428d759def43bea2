"""`Waiter`: one listener for everybody who waits for results, threads and coroutines alike.

One thread holds a watch on the backend and hands each record to those who wait for its id. The first thread that ever
waits gets a watch of its own instead: in a program that waits on one thread only, nothing hops between threads. Whoever
waits for many adds all of them to that one watch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from queue import Empty

from kernel import states
from kernel.interfaces.backend import Backend, Record
from kernel.results.listener import CallBox, Item, Listener, LoopBox, ThreadBox
from kernel.results.reading import Remembered
from kernel.results.waiting import Direct, OnRecord, Watching, closed, timed_out


class Waiter:
    """Waits for the terminal records of tasks on the backend that `backend()` returns.

    Usable from any thread and any event loop; a forked process starts anew. `close` ends its threads, and the
    waiting of everybody with `OperationalError`. Waiting raises `kernel.errors.TimeoutError`, and what the backend
    raises once it has failed a few times in a row.
    """

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend
        self.remembered = Remembered()
        """What this process read, where `result_cache_max` asks for that."""
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._direct: Direct | None = None

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
        `interval` seconds. With a timeout of 0 it looks once.
        """
        if timeout is not None and timeout <= 0:
            (record,) = self._look((task_id,), on_record)
            return record
        watching = Watching(
            (task_id,), timeout=timeout, on_record=on_record, on_interval=on_interval, interval=interval
        )
        direct = self._claim_direct()
        if direct is None:
            return next(self._listen(watching))
        try:
            return direct.batch(watching)[0]
        finally:
            direct.busy = False

    def wait_many(
        self,
        ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_record: OnRecord | None = None,
        on_interval: Callable[[], object] | None = None,
        interval: float = 0.5,
    ) -> Generator[Record, None, None]:
        """The terminal record of each of `ids`, as they come; the arguments are those of `wait`, for all of them
        together. Close it where it is not read to its end."""
        if timeout is not None and timeout <= 0:
            yield from self._look(ids, on_record)
            return
        watching = Watching(ids, timeout=timeout, on_record=on_record, on_interval=on_interval, interval=interval)
        direct = self._claim_direct()
        if direct is None:
            yield from self._listen(watching)
            return
        try:
            while watching.pending:
                yield from direct.batch(watching)
        finally:
            # Where somebody stopped reading, what is pending must not be looked at by the next who waits.
            direct.leave(watching)
            direct.busy = False

    async def wait_async(
        self,
        task_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that `get` has
        on_record: OnRecord | None = None,
    ) -> Record:
        """`wait` for coroutines; blocks no event loop."""
        async with aclosing(self.wait_many_async((task_id,), timeout=timeout, on_record=on_record)) as batches:
            async for batch in batches:
                return batch[0]
        raise closed()

    async def wait_many_async(
        self,
        ids: Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that `get` has
        on_record: OnRecord | None = None,
    ) -> AsyncGenerator[Sequence[Record], None]:
        """`wait_many` for coroutines, in batches."""
        import asyncio

        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + max(timeout, 0.0)
        watching = Watching(ids, on_record=on_record)
        box = LoopBox(loop)
        listener = self._listening()
        listener.register(watching.pending, box)
        try:
            while watching.pending:
                try:
                    async with asyncio.timeout_at(deadline):
                        items = await box.get()
                except TimeoutError:
                    raise timed_out(watching.pending, timeout) from None
                ended = [record for record in map(_record, items) if watching.takes(record)]
                if ended:
                    listener.unregister([record.id for record in ended], box)
                    yield ended
        finally:
            listener.unregister(watching.pending, box)

    def notify(self, task_id: str, function: Callable[[Item], object]) -> Callable[[], None]:
        """Call `function` with the terminal record of `task_id`, on a thread that is for such calls, or with the
        exception that says why it cannot be had; returns what cancels it."""
        listener = self._listening()
        box = CallBox(listener.calls, task_id, function)
        listener.register((task_id,), box)
        return lambda: listener.unregister((task_id,), box)

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

    def _look(self, ids: Sequence[str], on_record: OnRecord | None) -> Generator[Record, None, None]:
        late = set()
        for task_id, record in zip(ids, self._backend().load(ids), strict=True):
            if record is not None and on_record is not None:
                on_record(record)
            if record is None or record.state not in states.READY_STATES:
                late.add(task_id)
            else:
                yield record
        if late:
            raise timed_out(late, 0)

    def _listen(self, watching: Watching) -> Iterator[Record]:
        box = ThreadBox()
        listener = self._listening()
        listener.register(watching.pending, box)
        try:
            while watching.pending:
                try:
                    item = box.items.get(timeout=watching.step())
                except Empty:
                    watching.tick()
                    continue
                record = _record(item)
                if watching.takes(record):
                    listener.unregister((record.id,), box)
                    yield record
                if watching.pending:
                    watching.tick()
        finally:
            listener.unregister(watching.pending, box)

    def _listening(self) -> Listener:
        if self._pid != os.getpid():
            self._start()
        with self._lock:
            if self._listener is None:
                self._listener = Listener(self._backend)
            return self._listener

    def _claim_direct(self) -> Direct | None:
        """This thread's own watch; None when it is another thread's, or in use (a wait inside `on_record`)."""
        if self._pid != os.getpid():
            self._start()
        me = threading.current_thread()
        with self._lock:
            direct = self._direct
            if direct is None or not direct.thread.is_alive():
                if direct is not None:
                    direct.close()
                direct = self._direct = Direct(self._backend, me)
            elif direct.thread is not me or direct.busy:
                return None
            direct.busy = True
            return direct


def _record(item: Item) -> Record:
    if isinstance(item, Exception):
        raise item
    return item
