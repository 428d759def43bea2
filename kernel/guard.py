"""`Guard`: lets an exception from outside hit user code, and nothing but user code.

A time limit or a lost lease is raised inside a running task: from a signal handler on its own thread, from another
thread, or, for a coroutine, by cancelling it. Whichever way, it may not hit the code around the body, which
decides and stores how the task ends. So the body alone runs *exposed*, and what comes too late is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final

from kernel import errors

if TYPE_CHECKING:
    import asyncio

INTERRUPTS: Final = (errors.SoftTimeLimitExceeded, errors.LeaseLost, errors.TimeLimitExceeded, errors.Terminated)
"""What may be raised in a task from outside."""

_READY, _EXPOSED, _OVER = range(3)
_LOCK_SECONDS: Final = 1.0


class Guard:
    """Around one run of one body. `interrupted` is the class of the last exception that was sent into it."""

    __slots__ = ("_early", "_given", "_lock", "_loop", "_sent", "_state", "_task", "interrupted", "thread_id")

    def __init__(self) -> None:
        self._state = _READY
        self._early: type[BaseException] | None = None
        self._sent = 0
        self._given = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self.interrupted: type[BaseException] | None = None
        self.thread_id: int | None = None

    def call(self, body: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`body` with these arguments, exposed on this thread."""
        self.thread_id = threading.get_ident()
        # Python looks for signals and sent exceptions when a function is entered, when a call returns and when a
        # loop turns. There is none of these between the end of the body and the plain store of _OVER, whichever way
        # the body ends, so that nothing can come in between.
        try:
            self._state = _EXPOSED
            if self._early is not None:
                raise self._early
            return body(*args, **kwargs)
        finally:
            self._state = _OVER
            if self._sent:
                # One exception may wait to be raised here, and one may be on its way at this moment.
                try:
                    self._settle()
                except INTERRUPTS:
                    try:
                        self._settle()
                    except INTERRUPTS:
                        self._settle()

    async def acall(self, body: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The same for a coroutine function, on the running loop: what is sent is raised where it awaits."""
        import asyncio

        self.thread_id = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        try:
            self._state = _EXPOSED
            if self._early is not None:
                raise self._early
            return await _Sent(self, body(*args, **kwargs))
        except asyncio.CancelledError:
            if self._sent and self.interrupted is not None:
                raise self.interrupted from None
            raise
        finally:
            self._state = _OVER
            for _ in range(self._sent - self._given):
                self._task.uncancel()  # type: ignore[union-attr]

    def interrupt(self, kind: type[BaseException]) -> bool:
        """Raise `kind` in the body, if it runs; whether it was sent. Before the body it is raised as it begins.

        Called on the body's own thread (from a signal handler) it raises here and now, through the handler.
        """
        if self._state == _READY:
            self._early = self.interrupted = kind
            # The body may have begun in this moment, and missed it.
            if self._state == _READY:
                return True
        if self._loop is not None:
            return self._cancel(kind)
        if self.thread_id == threading.get_ident():
            if self._state == _EXPOSED:
                self.interrupted = kind
                raise kind
            return False
        return self._send(kind)

    def _cancel(self, kind: type[BaseException]) -> bool:
        import asyncio

        assert self._loop is not None
        if self._state != _EXPOSED:
            return False
        if self.thread_id == threading.get_ident() and asyncio.current_task(self._loop) is self._task:
            # The signal came while the coroutine itself was running: no cancellation would reach it before it awaits.
            self.interrupted = kind
            raise kind
        try:
            self._loop.call_soon_threadsafe(self._cancel_here, kind)
        except RuntimeError:
            return False  # the loop was closed
        return True

    def _cancel_here(self, kind: type[BaseException]) -> None:
        """On the loop, where the body stands still."""
        if self._state == _EXPOSED and self.interrupted is not kind and self._task is not None:
            self._sent, self.interrupted = self._sent + 1, kind
            self._task.cancel()

    def delivered(self) -> BaseException | None:
        """What was sent and has not been given to the coroutine yet; None when a cancellation is its own."""
        if self._sent <= self._given or self.interrupted is None:
            return None
        self._given += 1
        if self._task is not None:
            self._task.uncancel()
        return self.interrupted()

    def _send(self, kind: type[BaseException]) -> bool:
        # With a limit: a signal handler may come here, and must not wait for ever.
        if not self._lock.acquire(timeout=_LOCK_SECONDS):
            return False
        try:
            # Announce first, look after: the body's thread does it the other way round, so one sees the other.
            self._sent += 1
            if self._state != _EXPOSED or self.thread_id is None:
                return False
            self.interrupted = kind
            return _raise_in(self.thread_id, kind)
        finally:
            self._lock.release()

    def _settle(self) -> None:
        """Make sure that nothing sent to this thread is still on its way."""
        with self._lock:
            if self.thread_id is not None:
                _raise_in(self.thread_id, None)


class _Sent:
    """Awaits a coroutine, and gives it the exception that was sent in place of the cancellation that carries it.

    A loop can interrupt what waits only by cancelling it; a task is to see its time limit, and may catch it.
    """

    __slots__ = ("_coroutine", "_guard")

    def __init__(self, guard: Guard, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._guard = guard
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        import asyncio

        send, given = self._coroutine.send, None
        try:
            while True:
                awaited = send(given)
                try:
                    given = yield awaited
                    send = self._coroutine.send
                except asyncio.CancelledError as exc:
                    send, given = self._coroutine.throw, self._guard.delivered() or exc
                except BaseException as exc:
                    send, given = self._coroutine.throw, exc
        except StopIteration as exc:
            return exc.value
        finally:
            self._coroutine.close()


class Unguarded(Guard):
    """For runs that nobody can interrupt (eager ones)."""

    __slots__ = ()

    def interrupt(self, kind: type[BaseException]) -> bool:
        return False


def _raise_in(thread_id: int, kind: type[BaseException] | None) -> bool:
    """Have `kind` raised in a thread (None: drop one that was not raised yet). False on other interpreters."""
    import ctypes

    raise_in: Any = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
    if raise_in is None:
        return False
    return bool(raise_in(ctypes.c_ulong(thread_id), None if kind is None else ctypes.py_object(kind)))
