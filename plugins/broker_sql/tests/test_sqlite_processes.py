"""Several processes on one SQLite file: turns, deaths, leases, outsiders."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_broker_sql import SqlBroker

from kernel.errors import OperationalError
from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Delivery, Settled, Settlement, Verdict
from kernel.message import Message, Publication

Start = Callable[..., Any]


def opened(url: str, timeout: float = 20.0) -> SqlBroker:
    broker = SqlBroker(BrokerConfig(url=url, timeout=timeout))
    broker.open()
    return broker


def some(count: int, queue: str = "q") -> list[Publication]:
    return [
        Publication(Message({"id": f"{n}", "task": "t"}, b"[]", content_type="application/json"), queue)
        for n in range(count)
    ]


def drain(broker: SqlBroker, queue: str = "q") -> list[str]:
    consumer = broker.consume([queue], ConsumeOptions(owner="drain"))
    found: list[str] = []
    while taken := consumer.fetch(500, 1 << 30, 0):
        found += [delivery.message.id for delivery in taken]
        assert set(consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])) == {Settled.DONE}
    consumer.close()
    return found


def check(path: str) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    (orphans,) = connection.execute(
        "SELECT count(*) FROM kernel_message m FULL JOIN kernel_payload p ON p.id = m.id "
        "WHERE m.id IS NULL OR p.id IS NULL"
    ).fetchone()
    assert orphans == 0
    connection.close()


def test_eight_processes_publish_and_claim(url: str, actor: Start) -> None:
    consumers = [actor("consume", url, "q", 2, 20) for _ in range(4)]
    publishers = [actor("publish", url, "q", 400, batch) for batch in (1, 5, 20, 100)]
    for each in (*publishers, *consumers):
        each.end()
    sent = [word for each in publishers for word in each.ids]
    done = [word for each in consumers for word in each.ids]
    assert len(sent) == 1600
    assert sorted(done) == sorted(sent)
    assert all(each.errors == "" for each in (*publishers, *consumers))
    check(url.removeprefix("sqlite:///"))


@pytest.mark.faults
def test_a_killed_publisher_loses_nothing_that_was_taken(url: str, actor: Start) -> None:
    sent: list[str] = []
    for number in range(6):
        publisher = actor("publish", url, "q", 1_000_000, 1 + 7 * (number % 3))
        publisher.wait_lines(2 + 15 * number)
        publisher.kill()
        publisher.join()
        sent += publisher.ids
    check(url.removeprefix("sqlite:///"))
    found = drain(opened(url))
    assert len(found) == len(set(found))
    assert not set(sent) - set(found)


@pytest.mark.faults
def test_a_dead_owner_is_noticed_without_its_lease(url: str, actor: Start) -> None:
    broker = opened(url)
    broker.publish(some(30))
    holder = actor("claim", url, "q", 30, 3600)
    holder.wait_lines(1)
    consumer = broker.consume(["q"], ConsumeOptions(owner="next", lease=3600))
    assert consumer.fetch(30, 1 << 30, 0.2) == []
    started = time.monotonic()
    holder.kill()
    taken = consumer.fetch(100, 1 << 30, 30)
    assert sorted(int(delivery.message.id) for delivery in taken) == [*range(30)]
    assert all(delivery.seen and not delivery.starts for delivery in taken)
    assert time.monotonic() - started < 20
    broker.close()


@pytest.mark.faults
def test_a_stopped_owner_keeps_its_claims_until_the_lease_ends(url: str, actor: Start) -> None:
    broker = opened(url)
    broker.publish(some(3))
    holder = actor("claim", url, "q", 3, 2.5)
    holder.wait_lines(1)
    holder.kill(signal.SIGSTOP)
    consumer = broker.consume(["q"], ConsumeOptions(owner="next"))
    assert consumer.fetch(3, 1 << 30, 0.5) == []
    taken = consumer.fetch(3, 1 << 30, 30)
    assert len(taken) == 3
    holder.kill(signal.SIGCONT)
    holder.tell()
    holder.end()
    assert holder.lines[-1].split() == ["stale"] * 3
    assert set(consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])) == {Settled.DONE}
    broker.close()


@pytest.mark.parametrize("seconds", [1.5, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.faults
def test_an_outsider_holds_the_lock(url: str, actor: Start, seconds: float) -> None:
    patient, hasty = opened(url, 60), opened(url, seconds / 5)
    holder = actor("hold", url.removeprefix("sqlite:///"), seconds)
    holder.wait_lines(1)
    with pytest.raises(OperationalError, match="is locked by another process"):
        hasty.publish(some(1))
    assert [outcome.state.value for outcome in patient.publish(some(2))] == ["stored"] * 2
    assert sorted(drain(patient)) == ["0", "1"]
    holder.end()
    patient.close()
    hasty.close()


@pytest.mark.faults
def test_the_turn_of_a_killed_writer_is_free(url: str, actor: Start) -> None:
    broker = opened(url, 1.0)
    holder = actor("take_turn", f"{broker.database.path}-wake")  # type: ignore[attr-defined]
    holder.wait_lines(1)
    with pytest.raises(OperationalError, match="locked"):
        broker.publish(some(1))
    holder.kill()
    holder.join()
    assert [outcome.state.value for outcome in broker.publish(some(1))] == ["stored"]
    broker.close()


@pytest.mark.faults
@pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_during_checkpoints(url: str, actor: Start, rounds: int) -> None:
    sent: list[str] = []
    for number in range(rounds):
        each = actor("checkpoint", url, "q")
        each.wait_lines(3 + number % 5)
        each.kill()
        each.join()
        sent += each.ids
    check(url.removeprefix("sqlite:///"))
    assert not set(sent) - set(drain(opened(url)))


def test_a_closed_owner_gives_back_at_once(url: str) -> None:
    broker, other = opened(url), opened(url)
    broker.publish(some(5))
    consumer = broker.consume(["q"], ConsumeOptions(owner="one", lease=3600))
    taken: list[Delivery] = [*consumer.fetch(5, 1 << 30, 0)]
    broker.close()
    assert [delivery.message.id for delivery in taken] == drain(other)
    other.close()


def test_the_files_belong_to_their_owner_alone(url: str, tmp_path: Path) -> None:
    broker = SqlBroker(BrokerConfig(url=f"sqlite:///{tmp_path}/new/folder/jobs.db"))
    broker.open()
    broker.publish(some(1))
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "new" / "folder").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    broker.close()
