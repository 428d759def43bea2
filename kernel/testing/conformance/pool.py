"""The kit for pools. A third party's test module is four lines:

from kernel.testing.conformance.pool import PoolConformance
from my_pool import MyPool

class TestMyPool(PoolConformance):
    pool = MyPool
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from kernel.interfaces import pool as interface
from kernel.interfaces.setting import Setting
from kernel.testing.inbox import FakeInbox, FakeJob

_PATIENCE = 20.0
# How long a job waits for others that should run beside it; less, so that their absence is what is reported.
_MEETING = 8.0
Scenario = Callable[[FakeInbox], None]


class PoolConformance:
    """Set `pool` to the driver class, and `slots` to 1 for a pool that has one slot by nature."""

    pool: ClassVar[Any]
    slots: ClassVar[int] = 4

    @pytest.fixture
    def inbox(self) -> Iterator[FakeInbox]:
        inbox = FakeInbox()
        yield inbox
        inbox.dispose()

    @property
    def width(self) -> int:
        """How many jobs are expected to run at once."""
        return 1 if self.pool.capabilities.slots_are_processes else self.slots

    def serve(self, inbox: FakeInbox, scenario: Scenario, *, slots: int | None = None) -> None:
        """Serve `inbox` while `scenario` runs, then close it; raises what either of them raised.

        A pool that can be hosted anywhere is served on a thread; any other on this one, which is the main one.
        """
        pool = self.pool(interface.PoolConfig(slots=slots or self.width))
        errors: list[BaseException] = []

        def played() -> None:
            try:
                scenario(inbox)
            except BaseException as exc:
                errors.append(exc)
            finally:
                inbox.close()

        def served() -> None:
            try:
                pool.serve(inbox)
            except BaseException as exc:
                errors.append(exc)

        here, there = (played, served) if self.pool.capabilities.in_process else (served, played)
        thread = threading.Thread(target=there, daemon=True, name="conformance")
        thread.start()
        here()
        thread.join(_PATIENCE)
        if errors:
            raise errors[0]
        assert not thread.is_alive(), f"serve() has not returned {_PATIENCE} s after its inbox was drained"

    # what it declares ---------------------------------------------------------------------------------------

    def test_declares_its_interface(self) -> None:
        major, minor = self.pool.interface
        assert major == interface.INTERFACE[0] and minor <= interface.INTERFACE[1], "written for another interface"
        assert isinstance(self.pool.capabilities, interface.PoolCapabilities)
        assert all(isinstance(setting, Setting) for setting in self.pool.settings)

    def test_construction_starts_nothing(self) -> None:
        before = threading.active_count()
        pool = self.pool(interface.PoolConfig(slots=self.width))
        assert isinstance(pool, interface.Pool)
        assert threading.active_count() == before

    # nothing lost -------------------------------------------------------------------------------------------

    def test_runs_thousands_of_jobs_once_each(self, inbox: FakeInbox) -> None:
        names = iter(range(3000))
        for size in (1, 2, 7, 20) * 100:
            inbox.put(*(FakeJob(inbox, name) for name in itertools.islice(names, size)))
        self.serve(inbox, lambda inbox: None)
        assert sorted(inbox.ended) == list(range(3000))
        assert sorted(inbox.sent) == list(range(3000)), "idle() must be called before serve() returns"

    def test_one_slot_keeps_the_order(self, inbox: FakeInbox) -> None:
        for start in range(0, 60, 6):
            inbox.put(*(FakeJob(inbox, start + offset) for offset in range(6)))
        self.serve(inbox, lambda inbox: None, slots=1)
        assert inbox.ended == list(range(60))
        assert inbox.most == 1

    def test_survives_a_job_that_raises(self, inbox: FakeInbox) -> None:
        def bad() -> None:
            raise ValueError("on purpose")

        inbox.put(FakeJob(inbox, 0, bad), FakeJob(inbox, 1), FakeJob(inbox, 2, bad))
        for name in range(3, 40):
            inbox.add(name, bad if name % 3 == 0 else None)
        self.serve(inbox, lambda inbox: None)
        assert sorted(inbox.ended) == list(range(40))

    def test_runs_what_comes_later(self, inbox: FakeInbox) -> None:
        def scenario(inbox: FakeInbox) -> None:
            for name in range(5):
                idles = inbox.idles
                inbox.add(name)
                assert inbox.wait(lambda name=name, idles=idles: name in inbox.sent and inbox.idles > idles)  # type: ignore[misc]

        self.serve(inbox, scenario)
        assert inbox.ended == list(range(5))

    def test_drain_finishes_what_runs(self, inbox: FakeInbox) -> None:
        go = threading.Event()

        def scenario(inbox: FakeInbox) -> None:
            inbox.add("long", lambda: go.wait(_PATIENCE))
            assert inbox.wait(lambda: "long" in inbox.begun)
            inbox.close()
            threading.Timer(0.1, go.set).start()

        self.serve(inbox, scenario)
        assert inbox.ended == inbox.sent == ["long"]

    def test_tells_of_a_broken_inbox(self, inbox: FakeInbox) -> None:
        go = threading.Event()

        def scenario(inbox: FakeInbox) -> None:
            inbox.add("long", lambda: go.wait(_PATIENCE))
            assert inbox.wait(lambda: "long" in inbox.begun)
            inbox.fail(OSError("the inbox broke"))
            go.set()

        with pytest.raises(OSError, match="the inbox broke"):
            self.serve(inbox, scenario)
        assert inbox.ended == ["long"], "what was taken must be finished first"

    def test_can_serve_again(self) -> None:
        for _ in range(2):
            inbox = FakeInbox()
            try:
                inbox.add("once")
                self.serve(inbox, lambda inbox: None)
                assert inbox.sent == ["once"]
            finally:
                inbox.dispose()

    def test_leaves_no_thread_behind(self, inbox: FakeInbox) -> None:
        before = set(threading.enumerate())
        for name in range(10):
            inbox.add(name)
        self.serve(inbox, lambda inbox: None)
        assert set(threading.enumerate()) <= before

    # finished work leaves at once ---------------------------------------------------------------------------

    def test_idle_comes_before_waiting(self, inbox: FakeInbox) -> None:
        def scenario(inbox: FakeInbox) -> None:
            inbox.add("first")
            assert inbox.wait(lambda: inbox.sent == ["first"], 3.0), "idle() was not called before waiting"

        self.serve(inbox, scenario)

    def test_idle_does_not_come_between_jobs(self, inbox: FakeInbox) -> None:
        async def body() -> None:
            pass

        for name in range(1000):
            inbox.add(name, body if self.pool.capabilities.runs_coroutines else None)
        self.serve(inbox, lambda inbox: None)
        assert inbox.idles < 250, "idle() belongs before waiting: called for each job it undoes all batching"

    def test_finished_work_does_not_wait_for_a_long_job(self, inbox: FakeInbox) -> None:
        if self.width == 1:
            pytest.skip("one slot: nothing runs beside a long job")
        go = threading.Event()

        def scenario(inbox: FakeInbox) -> None:
            try:
                inbox.add("long", lambda: go.wait(_PATIENCE))
                assert inbox.wait(lambda: "long" in inbox.begun)
                inbox.add("short")
                assert inbox.wait(lambda: inbox.sent == ["short"], 3.0)
                inbox.add("last")
                inbox.close()
                assert inbox.wait(lambda: inbox.sent == ["short", "last"], 3.0), "idle() is due while draining, too"
            finally:
                go.set()

        self.serve(inbox, scenario)
        assert inbox.sent == ["short", "last", "long"]

    # concurrency --------------------------------------------------------------------------------------------

    def test_reaches_its_slots_and_never_passes_them(self, inbox: FakeInbox) -> None:
        meeting = threading.Barrier(self.width)
        for first in range(0, self.width * 6, self.width * 2):
            together = range(first, first + self.width * 2)
            inbox.put(*(FakeJob(inbox, name, lambda: meeting.wait(_MEETING)) for name in together))
        self.serve(inbox, lambda inbox: None)
        assert not meeting.broken, f"{self.width} jobs never ran at the same time"
        assert inbox.most == self.width
        assert inbox.most_taken == self.width, "jobs were taken that had to wait, and others could have run"

    def test_coroutines(self, inbox: FakeInbox) -> None:
        if not self.pool.capabilities.runs_coroutines:
            self._coroutines_end_one_by_one(inbox)
        else:
            self._coroutines_share_a_loop(inbox)

    def _coroutines_end_one_by_one(self, inbox: FakeInbox) -> None:
        async def body() -> None:
            await asyncio.sleep(0.001)

        for name in range(10):
            inbox.add(name, body)
        self.serve(inbox, lambda inbox: None, slots=1)
        assert inbox.ended == list(range(10))

    def _coroutines_share_a_loop(self, inbox: FakeInbox) -> None:
        count, loops, arrived = 50, set(), []
        everyone: list[asyncio.Event] = []

        async def body() -> None:
            loops.add(id(asyncio.get_running_loop()))
            everyone[:] = everyone or [asyncio.Event()]
            arrived.append(1)
            if len(arrived) == count:
                everyone[0].set()
            await asyncio.wait_for(everyone[0].wait(), _MEETING)

        for name in range(count):
            inbox.add(name, body)
        self.serve(inbox, lambda inbox: None, slots=count)
        assert sorted(inbox.ended) == list(range(count))
        assert inbox.most == count and len(loops) == 1

    def test_plain_functions_do_not_stop_coroutines(self, inbox: FakeInbox) -> None:
        if not self.pool.capabilities.runs_coroutines:
            pytest.skip("does not declare runs_coroutines")
        heard = threading.Event()

        async def speak() -> None:
            heard.set()

        def scenario(inbox: FakeInbox) -> None:
            answers: list[bool] = []
            inbox.add("plain", lambda: answers.append(heard.wait(_MEETING)))
            assert inbox.wait(lambda: "plain" in inbox.begun)
            inbox.add("coroutine", speak)
            assert inbox.wait(lambda: "plain" in inbox.ended)
            assert answers == [True], "a plain function held up the loop"

        self.serve(inbox, scenario, slots=2)
