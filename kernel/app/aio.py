"""`Bridge`: publishing from coroutines. One thread for an app sends in batches what is awaited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kernel import errors

if TYPE_CHECKING:
    import asyncio

    from kernel.message import Publication

_BATCH: Final = 1000
_CLOSE_SECONDS: Final = 5.0


class _Item(NamedTuple):
    publications: Sequence[Publication]
    how: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]


class Bridge:
    """Takes publications from any event loop and sends them through `deliver` on its own thread.

    What is awaited while a batch is on its way goes with the next one, so many coroutines cost few round trips.
    The thread starts at first use and ends with `close`.
    """

    def __init__(self, deliver: Callable[..., Sequence[BaseException | None]]) -> None:
        self._deliver = deliver
        self._items: SimpleQueue[_Item | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def publish(self, publication: Publication, **how: Any) -> None:
        """Returns when the broker has it. `how` are the keywords of `Publisher.send`; raises what that raises."""
        await self.publish_all((publication,), **how)

    async def publish_all(self, publications: Sequence[Publication], **how: Any) -> None:
        """The same for several that go together."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._closed:
                raise errors.OperationalError("the app was closed while a coroutine published")
            self._items.put(_Item(publications, {"retry": None, "policy": None, **how}, loop, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kernel-publish", daemon=True)
                self._thread.start()
        await future

    def close(self) -> None:
        """Send what was given so far, then end the thread. Called again it does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._items.put(None)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            batch, last = self._take()
            for group in _alike(batch):
                self._send(group)
            if last:
                return

    def _take(self) -> tuple[list[_Item], bool]:
        """What waits, at least one; and whether it is the last."""
        batch: list[_Item] = []
        count = 0
        item = self._items.get()
        while item is not None:
            batch.append(item)
            count += len(item.publications)
            if count >= _BATCH:
                return batch, False
            try:
                item = self._items.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _send(self, group: Sequence[_Item]) -> None:
        first = group[0]
        answers: Sequence[BaseException | None]
        try:
            answers = self._deliver([each for item in group for each in item.publications], **first.how)
        except BaseException as exc:
            # Whatever it is, the coroutines that wait must hear of it, and the next batch is not to blame.
            answers = [exc] * sum(len(item.publications) for item in group)
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], BaseException | None]]] = {}
        left = iter(answers)
        for item in group:
            own = [next(left) for _ in item.publications]
            error = next((answer for answer in own if answer is not None), None)
            loops.setdefault(item.loop, []).append((item.future, error))
        for loop, ends in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, ends)
            except RuntimeError:
                continue  # the loop was closed, and with it everybody who waited there


def _alike(batch: Sequence[_Item]) -> list[list[_Item]]:
    """Items that are sent in the same way, in order."""
    groups: list[list[_Item]] = []
    for item in batch:
        if groups and groups[-1][0].how == item.how:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _resolve(ends: Sequence[tuple[asyncio.Future[None], BaseException | None]]) -> None:
    for future, error in ends:
        if future.done():  # its coroutine was cancelled; the message is sent all the same
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
