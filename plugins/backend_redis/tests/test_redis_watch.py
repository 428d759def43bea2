"""Who reads the connection over which results are announced."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kernel_backend_redis import RedisBackend
from kernel_lib_redis import Lookout

from kernel import states
from kernel.interfaces.backend import BackendConfig, Record, Watch
from kernel.testing.servers import RedisProcess

DEADLINE = 20.0


@pytest.fixture
def url(redis_of_file: RedisProcess) -> str:
    return redis_of_file.url


@pytest.fixture
def backend(url: str) -> Iterator[RedisBackend]:
    backend = RedisBackend(BackendConfig(url=url))
    backend.open()
    yield backend
    backend.close()


@pytest.fixture
def worker(url: str) -> Iterator[RedisBackend]:
    """Another process's side: it stores, and is not cut together with `backend`."""
    backend = RedisBackend(BackendConfig(url=url))
    backend.open()
    yield backend
    backend.close()


def done(task_id: str, value: bytes = b"1") -> Record:
    return Record(id=task_id, state=states.SUCCESS, result=value, date_done=1.0)


def heard(watch: Watch, count: int = 1) -> set[str]:
    """The ids that a watch tells of, until there are so many or it is too late."""
    found: set[str] = set()
    end = time.monotonic() + DEADLINE
    while len(found) < count and time.monotonic() < end:
        found |= {record.id for record in watch.wait(0.5)}
    return found


def connected(watch: Watch, worker: RedisBackend) -> None:
    """Until the connection is there, and the thread has nothing to do any more."""
    watch.add(["connected"])
    worker.store([done("connected")])
    assert heard(watch) == {"connected"}
    watch.discard(["connected"])


def on_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    return thread, found


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads to which announcements came."""
    names: list[str] = []
    receive = Lookout._receive

    def noted(self: Lookout, link: Any) -> Any:
        events = receive(self, link)
        if any(event.kind == "message" for event in events):
            names.append(threading.current_thread().name)
        return events

    monkeypatch.setattr(Lookout, "_receive", noted)
    return names


def test_who_waits_reads_by_himself(backend: RedisBackend, worker: RedisBackend, readers: list[str]) -> None:
    watch = backend.watch()
    connected(watch, worker)
    readers.clear()
    for number in range(20):
        watch.add([f"own-{number}"])
        timer = threading.Timer(0.01, worker.store, [[done(f"own-{number}")]])
        timer.start()
        assert heard(watch) == {f"own-{number}"}
        timer.join()
        watch.discard([f"own-{number}"])
    # The thread may have read one of them, where this machine was so slow that nobody seemed to read.
    assert readers.count(threading.current_thread().name) > 10


def test_what_stands_already_is_told_at_once(backend: RedisBackend, worker: RedisBackend) -> None:
    watch = backend.watch()
    connected(watch, worker)
    worker.store([done("few-1"), done("few-2"), *(done(f"many-{number}") for number in range(700))])
    watch.add(["few-1", "few-2"])
    assert heard(watch, 2) == {"few-1", "few-2"}
    many = [f"many-{number}" for number in range(700)]
    watch.add([*many, "late"])
    assert heard(watch, 700) == set(many)
    worker.store([done("late")])
    assert heard(watch) == {"late"}


def test_many_who_wait_are_served_over_one_connection(backend: RedisBackend, worker: RedisBackend, url: str) -> None:
    connected(backend.watch(), worker)
    watches = [backend.watch() for _ in range(40)]
    for number, watch in enumerate(watches):
        watch.add([f"each-{number}", "all"])
    waiting = [on_thread(lambda watch=watch: heard(watch, 2)) for watch in watches]  # type: ignore[misc]
    for number in range(40):
        worker.store([done(f"each-{number}")])
    worker.store([done("all")])
    for number, (thread, found) in enumerate(waiting):
        thread.join(DEADLINE)
        assert found == [{f"each-{number}", "all"}]
    client = redis.Redis.from_url(url)
    assert sum(int(each["sub"]) > 0 for each in client.client_list()) == 1
    client.close()


def test_the_reading_is_handed_over(backend: RedisBackend, worker: RedisBackend) -> None:
    first, second = backend.watch(), backend.watch()
    connected(first, worker)
    first.add(["first"])
    second.add(["second"])
    one, found = on_thread(lambda: heard(first))
    other, rest = on_thread(lambda: heard(second))
    worker.store([done("first")])
    one.join(DEADLINE)
    worker.store([done("second")])
    other.join(DEADLINE)
    assert (found, rest) == ([{"first"}], [{"second"}])


def test_a_reader_that_is_woken_or_closed_or_late_returns(backend: RedisBackend, worker: RedisBackend) -> None:
    watch, other = backend.watch(), backend.watch()
    connected(watch, worker)
    watch.add(["never"])
    assert watch.wait(0.05) == []
    for end in (watch.wake, watch.close):
        thread, found = on_thread(lambda: watch.wait(600))
        waiter, rest = on_thread(lambda: heard(other))
        timer = threading.Timer(0.05, end)
        timer.start()
        thread.join(DEADLINE)
        assert found == [[]]
        name = end.__name__
        other.add([name])
        worker.store([done(name)])
        waiter.join(DEADLINE)
        assert rest == [{name}]


def test_an_interrupt_in_the_middle_loses_nothing(backend: RedisBackend, worker: RedisBackend) -> None:
    """What a handler of signals raises comes out, whenever it comes, and those who wait besides are told everything."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    watch, other = backend.watch(), backend.watch()
    connected(watch, worker)
    ids = [f"interrupted-{number}" for number in range(60)]
    other.add(ids)
    thread, found = on_thread(lambda: heard(other, len(ids)))
    before = signal.signal(signal.SIGALRM, interrupt)
    interrupts = 0
    try:
        for number, each in enumerate(ids):
            timer = threading.Timer(0.002, worker.store, [[done(each)]])
            try:
                timer.start()
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 0.00007)
                watch.wait(5)
            except Interrupt:
                interrupts += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                timer.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 0
    thread.join(DEADLINE)
    assert found == [set(ids)]
    watch.add(ids[:1])
    assert heard(watch) == {ids[0]}


def test_what_nobody_waits_for_is_read_all_the_same(
    backend: RedisBackend, worker: RedisBackend, readers: list[str]
) -> None:
    """A server drops who does not read."""
    watch = backend.watch()
    connected(watch, worker)
    readers.clear()
    ids = [f"unread-{number}" for number in range(5)]
    watch.add(ids)
    worker.store([done(each, b'"' + b"x" * 100_000 + b'"') for each in ids])
    end = time.monotonic() + DEADLINE
    while "kernel-redis-results" not in readers and time.monotonic() < end:
        time.sleep(0.02)
    assert "kernel-redis-results" in readers
    assert heard(watch, 5) == set(ids)


def test_a_cut_is_healed_whoever_reads(backend: RedisBackend, worker: RedisBackend, url: str) -> None:
    watch = backend.watch()
    connected(watch, worker)
    client = redis.Redis.from_url(url)
    for number in range(5):
        ids = [f"cut-{number}-{each}" for each in range(3)]
        watch.add(ids)
        thread, found = on_thread(lambda: heard(watch, 3))
        client.client_kill_filter(skipme=True, _type="pubsub")
        for each in ids:
            worker.store([done(each)])
        thread.join(DEADLINE)
        assert found == [set(ids)]
        watch.discard(ids)
    client.close()


def test_a_server_without_the_third_protocol_is_looked_up_over_another_connection(
    backend: RedisBackend, worker: RedisBackend, url: str
) -> None:
    client: Any = redis.Redis.from_url(url)
    client.execute_command("ACL", "SETUSER", "old", "on", ">secret", "~*", "&*", "+@all", "-hello")
    place = url.partition("://")[2]
    old = RedisBackend(BackendConfig(url=f"redis://old:secret@{place}"))
    try:
        old.open()
        watch = old.watch()
        worker.store([done("stands")])
        watch.add(["stands", "comes"])
        assert heard(watch) == {"stands"}
        worker.store([done("comes")])
        assert heard(watch) == {"comes"}
    finally:
        old.close()
        client.execute_command("ACL", "DELUSER", "old")
        client.close()


def test_results_that_were_had_are_left(backend: RedisBackend, worker: RedisBackend, url: str) -> None:
    watch = backend.watch()
    ids = [f"had-{number}" for number in range(50)]
    watch.add(ids)
    worker.store([done(each) for each in ids])
    assert heard(watch, 50) == set(ids)
    watch.discard(ids)
    client = redis.Redis.from_url(url)
    end = time.monotonic() + DEADLINE
    while client.pubsub_channels() and time.monotonic() < end:
        time.sleep(0.05)
    assert client.pubsub_channels() == []
    client.close()
