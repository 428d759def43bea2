"""What was held is stored or sent, on whichever side of a greenlet that is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from kernel.interfaces.unit import Held


def enlist_all(waiting: Sequence[Held], connection: Connection) -> None:
    """Store all of it in the transaction of `connection`, if the broker is on the same database. An event loop is not
    held up while the broker is opened; what is stored goes over the connection itself."""
    if not waiting:
        return
    # All are of one app, or of few, whose brokers are open from then on.
    if in_greenlet():
        await_only(asyncio.to_thread(_open, waiting))
    for held in waiting:
        if not held.enlist(connection):
            return


def _open(waiting: Sequence[Held]) -> None:
    for held in waiting:
        held.open()


def send_all(ready: Sequence[Held]) -> None:
    """Send all of it, in order; the errors come when that is done. An event loop is not held up meanwhile."""
    if not ready:
        return
    if in_greenlet():
        await_only(asyncio.to_thread(_send, ready))
    else:
        _send(ready)


def _send(ready: Sequence[Held]) -> None:
    failures: list[Exception] = []
    for held in ready:
        try:
            held.send()
        except Exception as exc:
            exc.add_note("the transaction was committed before; only this call was not sent")
            failures.append(exc)
    if failures:
        raise failures[0] if len(failures) == 1 else ExceptionGroup(f"{len(failures)} calls were not sent", failures)
