"""`ConnectionUnit`: calls that wait for a transaction of a connection to commit, with or without a session on it."""

from __future__ import annotations

import weakref
from typing import Any, Final

from sqlalchemy import Connection, TwoPhaseTransaction, event

from kernel.interfaces.unit import Held
from kernel_contrib_sqlalchemy.sending import enlist_all, send_all

KEY: Final = "kernel_contrib_sqlalchemy"


class ConnectionUnit:
    """See `kernel.interfaces.unit.Unit`. One for a `Connection`, kept in the `info` of what it has from the pool.

    Each call belongs to the depth of savepoints at which it was held. Savepoints that were there before anything was
    held are not told apart: when one of them is rolled back, all calls are forgotten.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = weakref.ref(connection)
        self._depth = 0
        self._waiting: list[tuple[int, Held]] = []
        event.listen(connection, "commit", self._commit)
        event.listen(connection, "rollback", self._rollback)
        event.listen(connection, "savepoint", self._savepoint)
        event.listen(connection, "release_savepoint", self._release_savepoint)
        event.listen(connection, "rollback_savepoint", self._rollback_savepoint)

    @classmethod
    def of(cls, connection: Connection) -> ConnectionUnit:
        found = connection.info.get(KEY)
        # What comes from the pool keeps its `info`, and may have had another `Connection` around it.
        if not isinstance(found, ConnectionUnit) or found._connection() is not connection:
            found = connection.info[KEY] = cls(connection)
        return found

    def hold(self, held: Held) -> None:
        """Raises TypeError for a two-phase transaction."""
        connection = self._connection()
        if connection is not None and isinstance(connection.get_transaction(), TwoPhaseTransaction):
            raise TypeError(
                "a call cannot wait for a two-phase transaction of a connection, whose end only its manager knows; "
                "use a Session(twophase=True)"
            )
        self._waiting.append((self._depth, held))

    def _commit(self, connection: Connection) -> None:
        """Right before the commit, and the only moment there is: so it is done here, and found done afterwards."""
        waiting, self._waiting, self._depth = self._waiting, [], 0
        if not waiting:
            return
        enlist_all([held for _, held in waiting if held.enlists], connection)
        connection.dialect.do_commit(connection.connection)
        send_all([held for _, held in waiting])

    def _rollback(self, connection: Connection) -> None:
        self._waiting, self._depth = [], 0

    def _savepoint(self, connection: Connection, name: Any) -> None:
        self._depth += 1

    def _release_savepoint(self, connection: Connection, name: Any, context: Any) -> None:
        self._depth = max(0, self._depth - 1)
        self._waiting = [(min(depth, self._depth), held) for depth, held in self._waiting]

    def _rollback_savepoint(self, connection: Connection, name: Any, context: Any) -> None:
        # The depth is 0 if it was made before this was listened to: then it holds all there is.
        self._waiting = [(depth, held) for depth, held in self._waiting if depth < self._depth]
        self._depth = max(0, self._depth - 1)
