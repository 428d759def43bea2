"""Connections, pools and producers that a program holds itself."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel import Kernel, chain, chord, errors, group
from kernel.app.connection import Connection
from kernel.hooks import hookimpl
from kernel.interfaces.broker import STORED, PublishOutcome


def make(broker: str = "memory://", **settings: Any) -> Kernel:
    app = Kernel("producing", broker=broker, **settings)

    @app.task(name="t.add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return app


@pytest.fixture
def app() -> Iterator[Kernel]:
    with make() as app:
        yield app


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Kernel]:
    """An app whose connections are real ones."""
    with make(f"sqlite:///{tmp_path}/jobs.db") as app:
        yield app


def ready(app: Kernel, queue: str = "celery") -> int:
    return sum(item.ready for item in app.broker.stats([queue]))


class Watched:
    """A broker that counts what goes over it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.ids: list[str] = []
        self.timeouts: list[float | None] = []

    def publish(self, batch: Any, timeout: float | None = None) -> Any:
        self.ids += [item.message.id for item in batch]
        self.timeouts.append(timeout)
        return self.inner.publish(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def watch(connection: Connection) -> Watched:
    watched = Watched(connection.connect().broker)
    connection._broker = watched
    return watched


@pytest.mark.parametrize("option", ["producer", "publisher", "connection"])
def test_what_is_sent_with_one_goes_over_its_connection(stored: Kernel, option: str) -> None:
    add: Any = stored.tasks["t.add"]
    with stored.connection_for_write() as connection:
        watched = watch(connection)
        given: Any = connection if option == "connection" else stored.amqp.Producer(connection)
        send: Any = stored.send_task
        sent = [
            add.apply_async((1, 2), **{option: given}).id,
            send("t.add", (1, 2), **{option: given}).id,
            *[result.id for result in add.map_delay([(1,), (2,)], **{option: given})],
            add.s(1, 2).apply_async(**{option: given}).id,
        ]
        joined = group(add.s(1, 1), add.s(2, 2)).apply_async(**{option: given})
        last = chain(add.s(1, 1), add.s(3)).apply_async(**{option: given})
        sent += [*[result.id for result in joined.results], last.parent.id]
        assert watched.ids == sent
        assert ready(stored) == len(sent)
        add.delay(1, 2)
        assert watched.ids == sent
    assert not connection.connected


@pytest.mark.parametrize(
    "make_call",
    [
        pytest.param(lambda add: chain(add.s(1), add.s(2)), id="chain"),
        pytest.param(lambda add: group(add.s(1), add.s(2)), id="group"),
        pytest.param(lambda add: chord([add.s(1), add.s(2)], add.s(3)), id="chord"),
        pytest.param(lambda add: add.s(1) | group(add.s(2), add.s(3)) | add.s(4), id="chain with a chord"),
        pytest.param(lambda add: chord([chord([add.s(1)], add.s(2))], chain(add.s(3), add.s(4))), id="chords"),
        pytest.param(lambda add: add.chunks([(1, 2), (3, 4)], 1).group(), id="chunks"),
    ],
)
def test_a_producer_says_nothing_in_the_message(make_call: Any) -> None:
    with make(backend="memory://") as app, app.producer_pool.acquire(block=True) as producer:
        make_call(app.tasks["t.add"]).apply_async(producer=producer, timeout=3, retry_policy={"max_retries": 1})
        messages = app.broker.peek("celery", 9)
    assert messages
    for message in messages:
        assert not {"producer", "timeout", "connection"} & {*message.headers, *message.properties}
        assert not any(word in message.body for word in (b"producer", b"timeout", b"retry_policy"))


def test_coroutines_publish_over_it_too(stored: Kernel) -> None:
    with stored.connection_for_write() as connection:
        watched = watch(connection)
        result = asyncio.run(stored.tasks["t.add"].aapply_async((1, 2), connection=connection))
    assert watched.ids == [result.id]


def test_the_old_way_of_many_calls_over_one_connection(stored: Kernel) -> None:
    add: Any = stored.tasks["t.add"]
    with stored.pool.acquire(block=True) as connection:
        with add.get_publisher(connection) as publisher:
            for number in range(5):
                add.apply_async((number,), publisher=publisher)
        assert connection.connected
        with stored.amqp.Producer(connection) as producer:
            add.apply_async((5,), producer=producer)
    with add.get_publisher() as publisher:
        assert publisher.connection is connection
        add.apply_async((6,), publisher=publisher)
    assert ready(stored) == 7
    assert repr(stored.pool) == "<ConnectionPool 0 in use, 1 idle, limit 10>"


def test_where_the_broker_is_in_its_app_all_connections_lead_there(app: Kernel) -> None:
    with app.connection_for_write() as connection:
        app.tasks["t.add"].apply_async((1,), connection=connection)
        assert connection.broker is app.broker
    app.tasks["t.add"].delay(2)
    assert ready(app) == 2


def test_timeouts_of_a_call_reach_the_broker(app: Kernel) -> None:
    with app.connection_for_write() as connection:
        watched = watch(connection)
        app.tasks["t.add"].apply_async((1,), connection=connection, timeout=3)
        app.tasks["t.add"].apply_async((1,), connection=connection, confirm_timeout=2.5)
        app.tasks["t.add"].apply_async((1,), connection=connection)
    assert watched.timeouts == [3, 2.5, None]


def test_queues_can_be_declared_with_a_call(app: Kernel) -> None:
    app.tasks["t.add"].apply_async((1,), declare=["before", "celery"])
    assert [item.name for item in app.broker.stats()] == ["before", "celery"]


def test_what_cannot_be_published_with_is_told(app: Kernel) -> None:
    add: Any = app.tasks["t.add"]
    for option in ("producer", "publisher", "connection"):
        with pytest.raises(TypeError, match=rf"{option} is .*object.* app\.producer_pool\.acquire\(block=True\)"):
            add.apply_async((1,), **{option: object()})
    with pytest.raises(TypeError, match=r"connection_for_write\(\)"):
        app.amqp.Producer("redis://")  # type: ignore[arg-type]
    stranger: Any = type("Connection", (), {"__module__": "kombu.connection"})()
    bare = make(disable_plugins=["kombu"])
    with bare, pytest.raises(TypeError, match="install kernel-contrib-kombu"):
        bare.tasks["t.add"].apply_async((1,), connection=stranger)
    assert ready(app) == 0


class Sender:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.declared: list[str] = []

    def declare(self, queues: Any) -> None:
        self.declared += [queue.name for queue in queues]

    def publish(self, batch: Any, timeout: float | None = None) -> list[PublishOutcome]:
        self.sent += [item.message.id for item in batch]
        return [STORED] * len(batch)


def test_a_plugin_may_know_how_to_publish_with_an_object_of_its_library() -> None:
    sender = Sender()

    class Plugin:
        @hookimpl
        def kernel_find_sender(self, given: object) -> Sender | None:
            return sender if given == "theirs" else None

    with make(plugins=[Plugin()]) as app:
        result = app.tasks["t.add"].apply_async((1,), connection="theirs", queue="elsewhere")
        assert (sender.sent, sender.declared) == ([result.id], ["elsewhere"])
        assert ready(app, "elsewhere") == 0
        with pytest.raises(TypeError, match="nothing can be published here"):
            app.tasks["t.add"].apply_async((1,), connection="whose?")


# --- the pools ------------------------------------------------------------------------------------------------


def test_a_pool_has_its_limit() -> None:
    with make(broker_pool_limit=2, broker_pool_acquire_timeout=0.01) as app:
        first, second = app.pool.acquire(), app.pool.acquire()
        assert first is not second
        with pytest.raises(errors.ConnectionLimitExceeded, match=r"all 2 connections .* raise broker_pool_limit"):
            app.pool.acquire()
        with pytest.raises(errors.OperationalError, match=r"in use for 0\.01 s"):
            app.producer_pool.acquire(block=True)
        with pytest.raises(errors.ConnectionLimitExceeded, match=r"in use for 0\.02 s"):
            app.pool.acquire(block=True, timeout=0.02)
        with pytest.raises(errors.OperationalError), app.connection_or_acquire():
            pass
        second.release()
        second.release()
        with app.producer_pool.acquire() as producer:
            assert producer.connection is second
        first.release()
        assert {app.pool.acquire(), app.pool.acquire()} == {first, second}


def test_who_waits_for_a_connection_gets_the_one_that_is_released() -> None:
    with make(broker_pool_limit=1) as app:
        held = app.pool.acquire()
        got: list[Connection] = []
        waiter = threading.Thread(target=lambda: got.append(app.pool.acquire(block=True, timeout=30)))
        waiter.start()
        held.release()
        waiter.join(30)
        assert got == [held]


def test_a_pool_without_a_limit_keeps_nothing(tmp_path: Path) -> None:
    with make(f"sqlite:///{tmp_path}/jobs.db", broker_pool_limit=0) as app:
        with app.pool.acquire() as one, app.pool.acquire() as other:
            one.connect()
            assert one is not other
        assert not one.connected
        assert repr(app.pool) == "<ConnectionPool 0 in use, 0 idle, limit None>"


def test_a_pool_can_be_resized(stored: Kernel) -> None:
    held = [stored.pool.acquire().connect() for _ in range(3)]
    for connection in held[:2]:
        connection.release()
    stored.pool.resize(2)
    assert [connection.connected for connection in held] == [False, True, True]
    stored.pool.resize(3)
    stored.pool.acquire()
    with pytest.raises(RuntimeError, match=r"2 connections .* in use; the limit cannot be 1"):
        stored.pool.resize(1)
    stored.pool.resize(1, force=True)
    with pytest.raises(errors.ConnectionLimitExceeded, match="all 1 connections"):
        stored.pool.acquire()
    held[2].release()
    assert not held[2].connected


def test_many_threads_never_hold_more_than_there_are() -> None:
    with make(broker_pool_limit=3) as app:
        lock, held, most = threading.Lock(), [0], [0]

        def work() -> None:
            for _ in range(20):
                with app.producer_pool.acquire(block=True, timeout=60) as producer:
                    with lock:
                        held[0] += 1
                        most[0] = max(most[0], held[0])
                    app.tasks["t.add"].apply_async((1,), producer=producer)
                    with lock:
                        held[0] -= 1

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert ready(app) == 160
        assert 1 <= most[0] <= 3


def test_given_ones_stay_open_and_acquired_ones_go_back(stored: Kernel) -> None:
    with stored.connection_for_write() as mine:
        mine.connect()
        with stored.connection_or_acquire(mine) as same:
            assert same is mine
        with stored.producer_or_acquire(stored.amqp.Producer(mine)) as producer:
            assert producer.connection is mine
        assert mine.connected
    with stored.default_connection() as pooled, stored.default_producer() as producer:
        assert producer.connection is not pooled
    assert repr(stored.pool) == "<ConnectionPool 0 in use, 2 idle, limit 10>"
    with stored.connection_or_acquire(pool=False) as own:
        own.connect()
    assert not own.connected


def test_closing_the_app_closes_the_pool(tmp_path: Path) -> None:
    app = make(f"sqlite:///{tmp_path}/jobs.db")
    with app:
        pool, connection = app.pool, app.pool.acquire().connect()
        connection.release()
    assert not connection.connected
    with pytest.raises(errors.AppClosed):
        pool.acquire()
    with pytest.raises(errors.AppClosed):
        app.pool.acquire()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(stored: Kernel) -> None:
    held = stored.pool.acquire().connect()
    before = held.broker
    child = os.fork()
    if child == 0:
        code = 1
        try:
            stored.tasks["t.add"].apply_async((1,), connection=held)
            code = 0 if held.broker is not before and stored.pool.limit == 10 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert held.broker is before
    assert ready(stored) == 1


# --- connections ----------------------------------------------------------------------------------------------


def test_a_connection_is_opened_at_first_use(stored: Kernel) -> None:
    connection = stored.connection_for_read()
    assert not connection.connected
    assert connection.ensure_connection(max_retries=1) is connection
    assert connection.connected
    connection.release()
    assert not connection.connected
    with connection.clone() as other:
        assert other.as_uri() == connection.as_uri()
    assert stored.connection().as_uri() == stored.broker_connection().as_uri() == connection.as_uri()


def test_parts_of_the_url_can_be_given(app: Kernel) -> None:
    url = "redis://me:se%40cret@one:1000/3"
    connection = app.connection_for_write(url, hostname="two", password="p@ss", port=7, virtual_host="/5")
    assert connection.as_uri(include_password=True) == "redis://me:p%40ss@two:7/5"
    assert "p%40ss" not in connection.as_uri()
    assert "p%40ss" not in repr(connection)
    same = app.connection_for_write(url, connect_timeout=1.5, transport_options={"visibility_timeout": 90})
    assert same.as_uri(include_password=True) == url
    assert (same.config.timeout, same.config.options["visibility_timeout"]) == (1.5, 90)
    assert app.connection_for_write(url, hostname="two").as_uri(True) == "redis://me:se%40cret@two:1000/3"
    with pytest.raises(TypeError, match="a connection takes no 'pasword'; it takes"):
        app.connection_for_write(url, pasword="x")
    with pytest.raises(TypeError, match="the broker memory has no setting 'broker_heartbeat'"):
        app.connection_for_write(heartbeat=10)


def test_a_broker_that_is_away_is_tried_again() -> None:
    with make() as app:
        connection = app.connection_for_write("redis://127.0.0.1:1/0", connect_timeout=1)
        seen: list[tuple[str, float]] = []
        with pytest.raises(errors.OperationalError):
            connection.ensure_connection(
                errback=lambda exc, pause: seen.append((type(exc).__name__, pause)),
                max_retries=2,
                interval_start=0,
                interval_step=0.01,
                interval_max=0.01,
            )
        assert [pause for _, pause in seen] == [0, 0.01]
        with pytest.raises(errors.OperationalError):
            connection.ensure_connection(timeout=0)
        with pytest.raises(errors.OperationalError, match=r"cannot publish the message to redis://127\.0\.0\.1:1"):
            app.tasks["t.add"].apply_async((1,), connection=connection, retry=False)


# --- messages as they are -------------------------------------------------------------------------------------


def test_a_producer_publishes_any_message(app: Kernel) -> None:
    with app.producer_pool.acquire() as producer:
        producer.publish({"a": 1}, routing_key="raw", headers={"h": 1}, priority=4, correlation_id="c", expiration=60)
        producer.publish("text", routing_key="raw", content_type="text/plain")
        producer.publish(b"\x00", routing_key="raw")
        producer.publish([1], routing_key="raw", compression="zlib", delivery_mode="transient")
        with pytest.raises(TypeError, match="queue"):
            producer.publish({"a": 1})
    first, *others = app.broker.peek("raw", 10)
    assert (first.body, first.content_type, first.headers) == (b'{"a": 1}', "application/json", {"h": 1})
    assert first.properties == {"delivery_mode": 2, "priority": 4, "correlation_id": "c", "expiration": "60000"}
    assert [(item.content_type, item.body) for item in others[:2]] == [
        ("text/plain", b"text"),
        ("application/data", b"\x00"),
    ]
    assert others[2].headers == {"compression": "application/x-gzip"}
    assert others[2].properties["delivery_mode"] == 1
