"""Several processes on one PostgreSQL server, and a server that hangs, restarts its sessions or is away."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from kernel_broker_sql import SqlBroker

from kernel.errors import OperationalError
from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Delivery, PublishState, Settled, Settlement, Verdict
from kernel.message import Message, Publication
from kernel.testing.servers import Server, postgres_server

Start = Callable[..., Any]
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    """A database of its own for each test."""
    name = f"t_{uuid.uuid4().hex[:10]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.url.rsplit('/', 1)[0]}/{name}"


def opened(url: str, timeout: float = 10.0) -> SqlBroker:
    broker = SqlBroker(BrokerConfig(url=url, timeout=timeout))
    broker.open()
    return broker


def some(count: int) -> list[Publication]:
    return [
        Publication(Message({"id": f"{n}", "task": "t"}, b"[]", content_type="application/json"), "q")
        for n in range(count)
    ]


def test_eight_processes_publish_and_claim(url: str, actor: Start) -> None:
    opened(url).close()
    consumers = [actor("consume", url, "q", 3, 20) for _ in range(4)]
    publishers = [actor("publish", url, "q", 400, batch) for batch in (1, 5, 20, 100)]
    for each in (*publishers, *consumers):
        each.end()
    sent = [word for each in publishers for word in each.ids]
    done = [word for each in consumers for word in each.ids]
    assert len(sent) == 1600
    assert sorted(done) == sorted(sent)


def test_processes_that_start_together_make_the_tables_once(url: str, actor: Start) -> None:
    publishers = [actor("publish", url, "q", 5, 1) for _ in range(4)]
    for each in publishers:
        each.end()
    broker = opened(url)
    assert broker.stats(["q"])[0].ready == 20
    broker.close()


def test_the_claims_of_killed_and_stopped_owners_move_on(url: str, actor: Start) -> None:
    broker = opened(url)
    broker.publish(some(40))
    killed, stopped = actor("claim", url, "q", 20, 2), actor("claim", url, "q", 20, 2)
    killed.wait_lines(1)
    stopped.wait_lines(1)
    killed.kill()
    stopped.kill(signal.SIGSTOP)
    consumer = broker.consume(["q"], ConsumeOptions(owner="next"))
    taken: list[Delivery] = []
    deadline = time.monotonic() + 30
    while len(taken) < 40 and time.monotonic() < deadline:
        taken += consumer.fetch(100, 1 << 30, 5)
    assert sorted(int(delivery.message.id) for delivery in taken) == [*range(40)]
    stopped.kill(signal.SIGCONT)
    stopped.tell()
    stopped.end()
    assert set(stopped.lines[-1].split()) == {"stale"}
    assert set(consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])) == {Settled.DONE}
    broker.close()


def test_killed_publishers_lose_nothing_that_was_taken(url: str, actor: Start) -> None:
    sent: list[str] = []
    for number in range(4):
        publisher = actor("publish", url, "q", 1_000_000, 1 + 7 * (number % 3))
        publisher.wait_lines(2 + 15 * number)
        publisher.kill()
        publisher.join()
        sent += publisher.ids
    broker = opened(url)
    found = [message.id for message in broker.peek("q", 100_000)]
    assert len(found) == len(set(found))
    assert not set(sent) - set(found)
    broker.close()


def test_a_server_that_hangs_ends_calls_in_time(url: str, server: Server) -> None:
    broker = opened(url, 1.5)
    broker.publish(some(1))
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    server.pause()
    try:
        calls: tuple[Callable[[], Any], ...] = (
            lambda: broker.publish(some(1)),
            lambda: consumer.fetch(1, 1 << 20, 0.1),
            consumer.renew,
        )
        for call in calls:
            started = time.monotonic()
            outcome = None
            with contextlib.suppress(OperationalError):
                outcome = call()
            assert time.monotonic() - started < 20
            # A publish may say that it does not know; nothing may say that it went well.
            assert outcome is None or outcome[0].state is PublishState.UNKNOWN
    finally:
        server.resume()
    deadline = time.monotonic() + 20
    states: list[PublishState] = []
    while PublishState.STORED not in states and time.monotonic() < deadline:
        with contextlib.suppress(OperationalError):
            states = [outcome.state for outcome in broker.publish(some(1))]
    assert states == [PublishState.STORED]
    assert consumer.fetch(5, 1 << 20, 5)
    broker.close()


def test_sessions_that_the_server_ended_are_replaced(url: str) -> None:
    broker = opened(url)
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    broker.publish(some(2))
    for _ in range(3):
        with psycopg.connect(url, autocommit=True) as connection:
            # With a timeout the server waits for them to be gone: one that is just going may still take a batch.
            ended = connection.execute(
                "SELECT bool_and(pg_terminate_backend(pid, 20000)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert ended == (True,)
        assert [outcome.state for outcome in broker.publish(some(1))] == [PublishState.STORED]
        assert consumer.renew() is True
    assert len(consumer.fetch(10, 1 << 20, 5)) == 5
    broker.close()


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    broker = SqlBroker(BrokerConfig(url=f"postgresql://kernel:secret@127.0.0.1:{port}/postgres", timeout=1.0))
    with pytest.raises(OperationalError, match=rf"kernel:\*\*\*@127\.0\.0\.1:{port}.* failed") as caught:
        broker.open()
    assert "secret" not in str(caught.value)


def test_an_unanswered_commit_is_unknown_and_its_repeat_stored_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = opened(url)
    broker.publish(some(1))
    items = some(3)
    real = type(broker.database)._transaction  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def cut(self: Any, begin: Any, timeout: Any) -> Iterator[Any]:
        with real(self, begin, timeout) as tx:
            yield tx
        # As if the answer to COMMIT had been lost on its way.
        from kernel_lib_sql import CommitUnknown

        raise CommitUnknown("the answer is lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(broker.database), "_transaction", cut)
        broker.database._ready.add("broker")
        assert {outcome.state for outcome in broker.publish(items)} == {PublishState.UNKNOWN}
    assert {outcome.state for outcome in broker.publish(items)} == {PublishState.STORED}
    found = [message.id for message in broker.peek("q", 100)]
    assert sorted(found) == ["0", "0", "1", "2"]
    broker.close()
