"""A process of its own for the tests: ``actor.py COMMAND URL ...``. Every line it prints is a fact."""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
import time
import uuid

from kernel_broker_sql import SqlBroker

from kernel.errors import OperationalError
from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, PublishState, Settled, Settlement, Verdict
from kernel.message import Message, Publication


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def opened(url: str, timeout: float = 30.0) -> SqlBroker:
    broker = SqlBroker(BrokerConfig(url=url, timeout=timeout))
    broker.open()
    return broker


def message(size: int = 20) -> Message:
    return Message({"id": str(uuid.uuid4()), "task": "t"}, b"x" * size, content_type="application/json")


def publish(url: str, queue: str, count: str, batch: str, size: str = "20") -> None:
    """Says each id after the broker took it."""
    broker = opened(url)
    say("ready")
    for _ in range(int(count) // int(batch)):
        items = [Publication(message(int(size)), queue) for _ in range(int(batch))]
        outcomes = broker.publish(items)
        assert all(outcome.state is PublishState.STORED for outcome in outcomes)
        say(*(item.message.id for item in items))
    broker.close()


def consume(url: str, queue: str, idle: str, limit: str = "20") -> None:
    """Settles what it claims, says each id that was done, and ends after `idle` seconds of nothing."""
    broker = opened(url)
    consumer = broker.consume([queue], ConsumeOptions(owner=str(os.getpid())))
    say("ready")
    while taken := consumer.fetch(int(limit), 1 << 30, float(idle)):
        outcomes = consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])
        assert all(outcome is Settled.DONE for outcome in outcomes), outcomes
        say(*(delivery.message.id for delivery in taken))
    broker.close()


def claim(url: str, queue: str, count: str, lease: str) -> None:
    """Claims, waits for a line, and says how settling went."""
    broker = opened(url)
    consumer = broker.consume([queue], ConsumeOptions(owner="holder", lease=float(lease)))
    taken = consumer.fetch(int(count), 1 << 30, 10)
    say("claimed", len(taken))
    sys.stdin.readline()
    outcomes = consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])
    say(*(outcome.value for outcome in outcomes))
    broker.close()


def hold(path: str, seconds: str) -> None:
    """Somebody who takes no turns: a transaction of a database shell."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    say("held")
    time.sleep(float(seconds))
    connection.execute("COMMIT")


def checkpoint(url: str, queue: str) -> None:
    """Publishes and checkpoints as fast as it can, until it is killed."""
    broker = opened(url)
    path = url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None, timeout=30)
    say("ready")
    for number in itertools.count():
        items = [Publication(message(500), queue) for _ in range(20)]
        broker.publish(items)
        say(*(item.message.id for item in items))
        other.execute("PRAGMA wal_checkpoint(" + ("TRUNCATE" if number % 2 else "PASSIVE") + ")").fetchall()


def live(url: str, queue: str, rounds: str) -> None:
    """Publishes, claims and settles, and says what it was told of each: ``sent ID``, ``done ID``, ``failed ID``."""
    broker = opened(url, 5)
    consumer = broker.consume([queue], ConsumeOptions(owner="live"))
    path = url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None, timeout=30)
    for number in range(int(rounds)):
        items = [Publication(message(200 + 37 * number % 900), queue) for _ in range(1 + number % 4)]
        ids = [item.message.id for item in items]
        try:
            broker.publish(items)
            say("sent", *ids)
        except OperationalError as exc:
            say("failed", *ids)
            say("why", exc)
        try:
            taken = consumer.fetch(number % 3, 1 << 30, 0)
            consumer.settle([Settlement(delivery, Verdict.ACK) for delivery in taken])
            say("done", *(delivery.message.id for delivery in taken))
        except OperationalError as exc:
            say("why", exc)
        if number % 10 == 9:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    say("end")
    os._exit(0)


def take_turn(folder: str) -> None:
    """Takes the writers' turn, and keeps it."""
    from kernel_lib_sql.turn import Turn

    assert Turn(folder).acquire(time.monotonic() + 10)
    say("held")
    time.sleep(60)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
