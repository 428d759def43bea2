"""What claims cost, and which clocks they believe."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_broker_sql import SqlBroker, claims
from kernel_lib_sql.sqlite import SqliteDatabase

from kernel.errors import OperationalError
from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Settled, Settlement, Verdict
from kernel.message import Message, Publication


@pytest.fixture
def broker(url: str) -> Iterator[SqlBroker]:
    broker = SqlBroker(BrokerConfig(url=url))
    broker.open()
    yield broker
    broker.close()


def message(number: int = 0, **headers: object) -> Message:
    return Message({"id": f"{number}", "task": "t", **headers}, b"[]", content_type="application/json")


def steps(broker: SqlBroker, work: Callable[[], object]) -> int:
    """How many hundreds of instructions SQLite's machine ran for `work`: a cost that no other process disturbs."""
    database = broker.database
    assert isinstance(database, SqliteDatabase)
    database.open()
    connections = [database._writer, *database._readers]
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    for connection in connections:
        assert connection is not None
        connection.set_progress_handler(tick, 100)
    work()
    for connection in connections:
        assert connection is not None
        connection.set_progress_handler(None, 0)
    return count


def test_the_cost_of_a_claim_does_not_grow_with_the_backlog(broker: SqlBroker) -> None:
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    busy = broker.consume(["busy"], ConsumeOptions(owner="other"))

    def claim() -> None:
        taken = consumer.fetch(10, 1 << 30, 0)
        assert len(taken) == 10
        consumer.settle([Settlement(each, Verdict.ACK) for each in taken])

    broker.publish([Publication(message(), "q", priority=1)] * 100)
    claim()
    few = steps(broker, claim)
    later = time.time() + 3600
    for number in range(4):
        broker.publish([Publication(message(), "q", priority=number)] * 1000)
        broker.publish([Publication(message(), "q", due=later + number)] * 1000)
        broker.publish([Publication(message(), "busy")] * 1000)
        broker.publish([Publication(message(), f"queue-{number}-{n}") for n in range(200)])
    assert len(busy.fetch(2000, 1 << 30, 0)) == 2000
    assert steps(broker, claim) < 2 * few + 5


def test_an_idle_look_at_many_queues_is_cheap(broker: SqlBroker) -> None:
    consumer = broker.consume([f"mine-{n}" for n in range(1000)], ConsumeOptions(owner="me"))
    assert consumer.fetch(10, 1 << 30, 0) == []
    assert steps(broker, lambda: consumer.fetch(10, 1 << 30, 0)) < 30
    broker.publish([Publication(message(), "other")] * 1000)
    assert steps(broker, lambda: consumer.fetch(10, 1 << 30, 0)) < 30


def test_singles_beside_a_long_queue_come_soon(broker: SqlBroker) -> None:
    names = [f"q{n}" for n in range(50)]
    broker.publish([Publication(message(), "q0")] * 2000)
    broker.publish([Publication(message(), name) for name in names[1:]])
    consumer = broker.consume(names, ConsumeOptions(owner="me"))
    seen = [delivery.queue for _ in range(3) for delivery in consumer.fetch(100, 1 << 30, 0)]
    assert set(seen) == set(names)


def test_a_step_of_the_wall_clock_moves_no_lease(broker: SqlBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.publish([Publication(message(), "q")])
    owner = broker.consume(["q"], ConsumeOptions(owner="me", lease=60))
    other = broker.consume(["q"], ConsumeOptions(owner="other"))
    (delivery,) = owner.fetch(1, 1 << 30, 0)
    now = time.time()
    for step in (3600, -3600, 10 * 365 * 86400):
        monkeypatch.setattr(time, "time", lambda step=step: now + step)
        assert other.fetch(1, 1 << 30, 0.05) == []
        assert owner.renew() is True
    monkeypatch.undo()
    assert [outcome.value for outcome in owner.settle([Settlement(delivery, Verdict.ACK)])] == ["done"]


def test_a_step_of_the_wall_clock_strands_no_delay(broker: SqlBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    broker.publish([Publication(message(), "q", due=now + 1000)])
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    assert consumer.fetch(1, 1 << 30, 0) == []
    monkeypatch.setattr(time, "time", lambda: now + 1001)
    assert len(consumer.fetch(1, 1 << 30, 0)) == 1


@pytest.mark.parametrize("uptime", [0.0, 1e12])
def test_claims_of_before_a_reboot_are_free_at_once(broker: SqlBroker, tmp_path: Path, uptime: float) -> None:
    """The uptime starts anew: a deadline of the last start is neither near nor far, it is nobody's."""
    broker.publish([Publication(message(), "q")])
    owner = broker.consume(["q"], ConsumeOptions(owner="me", lease=3600))
    assert len(owner.fetch(1, 1 << 30, 0)) == 1
    connection = sqlite3.connect(tmp_path / "jobs.db")
    connection.execute("UPDATE kernel_consumer SET boot = 'an earlier start', lease = ?", (uptime,))
    connection.commit()
    connection.close()
    other = broker.consume(["q"], ConsumeOptions(owner="other"))
    (delivery,) = other.fetch(1, 1 << 30, 5)
    assert delivery.seen
    assert owner.renew() is False


def test_a_waiting_owner_that_lost_its_lease_is_registered_again(broker: SqlBroker, tmp_path: Path) -> None:
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    connection = sqlite3.connect(tmp_path / "jobs.db")
    connection.execute("DELETE FROM kernel_consumer")
    connection.commit()
    assert consumer.renew() is False
    assert consumer.fetch(1, 1 << 30, 0) == []
    assert consumer.renew() is True
    assert connection.execute("SELECT count(*) FROM kernel_consumer").fetchone() == (1,)
    connection.close()


def test_a_repeat_is_stored_once_and_a_retry_is_no_repeat(broker: SqlBroker) -> None:
    first = message(1)
    broker.publish([Publication(first, "q")])
    broker.publish([Publication(first.replace_headers(redelivered=True), "q")])
    assert broker.stats(["q"])[0].ready == 1
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    (delivery,) = consumer.fetch(1, 1 << 30, 0)
    retry = Publication(first.replace_headers(redelivered=True, retries=1), "q")
    # Published before the settlement, as with a result backend elsewhere, and inside it.
    broker.publish([retry])
    assert broker.stats(["q"])[0].ready == 1
    consumer.settle([Settlement(delivery, Verdict.ACK, publications=[Publication(message(2), "q")])])
    assert [each.message.id for each in consumer.fetch(5, 1 << 30, 0)] == ["1", "2"]


def test_the_look_and_the_claim_agree_on_few_and_many_queues(broker: SqlBroker) -> None:
    broker.publish([Publication(message(), "b"), Publication(message(), "z")])
    broker.pause("z")
    for count in (claims._FEW, claims._FEW + 1):
        names = ["b", "z", *(f"x{n}" for n in range(count - 2))]
        with broker.database.read() as tx:
            assert [*claims.look(tx, names).queues] == ["b"]


def test_a_claim_whose_answer_was_lost_is_given_back(broker: SqlBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the commit: the consumer lives on, and its lease would hold the claim for ever."""
    broker.publish([Publication(message(number), "q") for number in range(3)])
    consumer = broker.consume(["q"], ConsumeOptions(owner="me"))
    (mine,) = consumer.fetch(1, 1 << 30, 0)
    write, cuts = broker.database.write, iter([True, True])

    @contextlib.contextmanager
    def cut(**options: Any) -> Iterator[Any]:
        with write(**options) as tx:
            yield tx
        if next(cuts, False):
            raise OperationalError("the answer was lost")

    monkeypatch.setattr(broker.database, "write", cut)
    for _ in range(2):
        with pytest.raises(OperationalError):
            consumer.fetch(10, 1 << 30, 0)
    assert broker.stats(["q"])[0].claimed == 3
    again = consumer.fetch(10, 1 << 30, 0)
    assert sorted(each.message.id for each in again) == ["1", "2"]
    settled = consumer.settle([Settlement(each, Verdict.ACK) for each in (mine, *again)])
    assert [*settled] == [Settled.DONE] * 3
    consumer.close()
