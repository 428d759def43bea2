"""`SessionUnit`: calls that wait for a session of SQLAlchemy to commit."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, event, exc
from sqlalchemy.orm import Session, SessionTransaction

from kernel.interfaces.unit import Held
from kernel_contrib_sqlalchemy.connection import ConnectionUnit
from kernel_contrib_sqlalchemy.sending import enlist_all, send_all

KEY: Final = "kernel_contrib_sqlalchemy"


class SessionUnit:
    """See `kernel.interfaces.unit.Unit`. One for a session, kept in its `info`; used by the session's own thread.

    Each call belongs to the innermost transaction that is open: the root one or a savepoint. A savepoint that is
    released hands its calls to the transaction around it, and whatever ends otherwise takes its calls with it.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._waiting: list[tuple[SessionTransaction, Held]] = []
        self._ready: list[Held] = []
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    @classmethod
    def of(cls, session: Session) -> SessionUnit:
        found = session.info.get(KEY)
        # The `info` of a session may have come from another one's.
        if not isinstance(found, SessionUnit) or found.session is not session:
            found = session.info[KEY] = cls(session)
        return found

    def hold(self, held: Held) -> None:
        """Raises InvalidRequestError of SQLAlchemy's for a session without autobegin that was not begun."""
        session = self.session
        if not session.in_transaction():
            # As with `session.add`: from here on there is something to commit.
            session.begin()
        innermost = session.get_nested_transaction() or session.get_transaction()
        assert innermost is not None, "it was just begun"
        self._waiting.append((innermost, held))

    def _before_commit(self, session: Session) -> None:
        """Right before the commit: what can be part of it becomes so. Also before a savepoint is released, since
        whatever undoes that undoes the messages."""
        # A prepared transaction cannot notify anybody (PostgreSQL).
        waiting = [held for _, held in self._waiting if held.enlists]
        if session.twophase or not waiting:
            return
        try:
            connection = session.connection()
        except exc.UnboundExecutionError:
            return  # a session of several databases: which of them is not told
        enlist_all(waiting, connection)

    def _after_commit(self, session: Session) -> None:
        ended = session.get_nested_transaction()
        if ended is not None:
            around = ended.parent
            assert around is not None, "a savepoint is in a transaction"
            self._waiting = [(around if mine is ended else mine, held) for mine, held in self._waiting]
            return
        self._ready += [held for _, held in self._waiting]
        self._waiting = []

    def _after_end(self, session: Session, ended: SessionTransaction) -> None:
        self._waiting = [(mine, held) for mine, held in self._waiting if mine is not ended]
        if ended.parent is not None:
            return
        self._waiting = []
        ready, self._ready = self._ready, []
        outer = session.bind
        if ready and isinstance(outer, Connection) and outer.in_transaction():
            # The session joined a transaction that is somebody else's to commit.
            unit = ConnectionUnit.of(outer)
            for held in ready:
                unit.hold(held)
        else:
            send_all(ready)
