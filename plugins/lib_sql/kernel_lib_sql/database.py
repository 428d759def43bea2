"""A database as drivers use it, whatever its dialect."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from kernel_lib_sql.bell import Bell
from kernel_lib_sql.faults import SchemaTooNew
from kernel_lib_sql.transaction import Dialect, Transaction

_VERSIONS: Final = """CREATE TABLE IF NOT EXISTS kernel_schema (
    part VARCHAR(64) NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class Part:
    """The tables of one driver. `steps[n]` brings version n to n + 1: for each dialect, its statements.

    A step that was released is never edited; a change is a new step.
    """

    name: str
    steps: Sequence[Mapping[Dialect, Sequence[str]]]

    @property
    def version(self) -> int:
        return len(self.steps)


class Database(abc.ABC):
    """Connections to one database, shared by all threads of a process.

    Errors are `OperationalError` for what may pass, and `ImproperlyConfigured` (`DatabaseDamaged`, `SchemaTooNew`,
    `ReadOnly`) for what no retry will mend. After a fork the child finds it closed and opens connections of its own.
    """

    dialect: Dialect

    def __init__(self, *, domain: str, timeout: float) -> None:
        self.domain = domain
        """Equal for two objects that reach the same database."""
        self.timeout = timeout
        self.generation = 0
        """Changes whenever another database may have come to stand behind the same URL."""
        self._ready: set[str] = set()

    @abc.abstractmethod
    def open(self) -> None:
        """Connect, and check that it can be used; called again it does nothing."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release connections and bells. It may be opened again."""

    @abc.abstractmethod
    def write(self, *, durable: bool = True, timeout: float | None = None) -> AbstractContextManager[Transaction]:
        """A transaction that commits at the end of the block, and is rolled back by any exception.

        With `durable` the commit survives a power cut. Without, it may be undone by one, though never in part, and
        never by the death of a process. Waits up to `timeout` seconds (default: the database's) for other writers.
        """

    @abc.abstractmethod
    def read(self, *, timeout: float | None = None) -> AbstractContextManager[Transaction]:
        """A transaction that writes nothing and waits for no writer; one consistent state throughout the block."""

    @abc.abstractmethod
    def listen(self, topics: Iterable[str] = ()) -> Bell: ...

    @abc.abstractmethod
    def ring(self, topics: Iterable[str]) -> None:
        """Wake whoever listens to one of these; for what was not written through a transaction."""

    def heard(self, topic: str) -> bool:
        """False only if certainly nobody listens to `topic`."""
        return True

    def is_dead(self, address: str) -> bool:
        """True only if the process behind a bell's address is certainly gone; False when that cannot be known."""
        return False

    def ensure(self, part: Part) -> None:
        """Bring the tables of `part` to its version; done once a process. Raises `SchemaTooNew`."""
        if part.name in self._ready:
            return
        if self._stored_version(part) != part.version:
            with self.write() as tx:
                self._migrate(tx, part)
        self._ready.add(part.name)

    @abc.abstractmethod
    def _has_table(self, tx: Transaction, name: str) -> bool: ...

    def _stored_version(self, part: Part) -> int:
        # A plain read, because every child of a worker comes by here and writers would queue up behind each other.
        with self.read() as tx:
            return _version_of(tx, part) if self._has_table(tx, "kernel_schema") else 0

    def _serialize_migrations(self, tx: Transaction) -> None:
        """Hold off other processes that would make the same tables, until the transaction ends."""

    def _migrate(self, tx: Transaction, part: Part) -> None:
        self._serialize_migrations(tx)
        tx.execute(_VERSIONS)
        at = _version_of(tx, part)
        if at > part.version:
            raise SchemaTooNew(
                f"the tables of {part.name!r} in {self.domain} are of version {at}, and this installation knows "
                f"{part.version}: upgrade it to the version that the others run, or use another database"
            )
        for step in part.steps[at:]:
            for statement in step[self.dialect]:
                tx.execute(statement)
        tx.execute("DELETE FROM kernel_schema WHERE part = ?", (part.name,))
        tx.execute("INSERT INTO kernel_schema (part, version) VALUES (?, ?)", (part.name, part.version))


def _version_of(tx: Transaction, part: Part) -> int:
    rows = tx.query("SELECT version FROM kernel_schema WHERE part = ?", (part.name,))
    return int(rows[0][0]) if rows else 0
