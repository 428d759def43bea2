"""Broadcasts: a short log of each topic, which its readers follow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from kernel_lib_sql import Bell, Database, Transaction

from kernel.message import Message
from kernel_broker_sql import rows

_INSERT: Final = f"INSERT INTO kernel_broadcast (topic, sent, {rows.PAYLOAD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_NEWER: Final = f"SELECT id, {rows.PAYLOAD} FROM kernel_broadcast WHERE topic = ? AND id > ? ORDER BY id LIMIT ?"  # noqa: S608
_NEWEST: Final = "SELECT max(id) FROM kernel_broadcast WHERE topic = ?"
_KEPT_SECONDS: Final = 60.0
_KEPT_MESSAGES: Final = 10_000
_TRIM_EVERY: Final = 256


def topic_of(name: str) -> str:
    return f"broadcast:{name}"


def send(tx: Transaction, name: str, batch: Sequence[Message]) -> None:
    """Append to the log of a topic, and now and then cut its end off: what no reader took in time is gone."""
    if tx.dialect == "postgresql":
        # Numbers are given out before commits: without this a reader could pass by one that commits late.
        tx.run("SELECT pg_advisory_xact_lock(7165, hashtext(?))", (name,))
    now = tx.now()
    tx.many(_INSERT, [(name, now, *rows.payload_row(message)) for message in batch])
    last = tx.query(_NEWEST, (name,))[0][0] or 0
    if last % _TRIM_EVERY < len(batch):
        tx.run("DELETE FROM kernel_broadcast WHERE sent < ?", (now - _KEPT_SECONDS,))
        tx.run("DELETE FROM kernel_broadcast WHERE topic = ? AND id <= ?", (name, last - _KEPT_MESSAGES))
    tx.ring(topic_of(name))


class SqlSubscription:
    """Made by `SqlBroker.subscribe`."""

    def __init__(self, database: Database, name: str, closed: Callable[[SqlSubscription], None]) -> None:
        self._database = database
        self._name = name
        self._closed = closed
        self._is_closed = False
        self._reading = threading.Lock()
        # Listening before looking: a broadcast in between is either rung or below the mark.
        self._bell: Bell = database.listen([topic_of(name)])
        with database.read() as tx:
            # Of this topic alone: on a server, numbers of others may be ahead of one of ours that is not committed.
            self._mark: int = tx.query(_NEWEST, (name,))[0][0] or 0

    def read(self, limit: int, timeout: float) -> Sequence[Message]:
        with self._reading:
            return self._read(limit, timeout)

    def _read(self, limit: int, timeout: float) -> Sequence[Message]:
        end = time.monotonic() + timeout
        while not self._is_closed:
            with self._database.read() as tx:
                found = tx.query(_NEWER, (self._name, self._mark, limit))
            if found:
                self._mark = found[-1][0]
                return [rows.message_of(row[1:]) for row in found]
            left = end - time.monotonic()
            if left <= 0 or limit <= 0:
                break
            self._bell.wait(left)
        return []

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._bell.wake()
            with self._reading:  # whoever waits on the bell must be gone before it is closed
                self._bell.close()
            self._closed(self)
