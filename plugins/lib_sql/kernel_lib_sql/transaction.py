"""One open transaction, as statements see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

Dialect = Literal["sqlite", "postgresql"]


class Transaction(Protocol):
    """Statements inside one transaction; valid until the ``with`` block that gave it ends.

    SQL texts use ``?`` for parameters in every dialect and are best constant texts, because translated and
    prepared ones are kept. No text may hold a literal question mark.
    """

    @property
    def dialect(self) -> Dialect: ...

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement, which may also be one that writes and has a RETURNING clause."""
        ...

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """The number of rows that were changed."""
        ...

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        """A statement whose outcome nobody asks for. Over a network it costs no round trip of its own, and its error
        may come with a later statement or the commit."""
        ...

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """The same statement for each row of parameters; how many rows were changed in all."""
        ...

    def any_of(self, column: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        """A condition that `column` (ours, never a user's) is one of `values` (all texts or all integers), and
        its parameters. Where the dialect allows it the text is the same for every number of values."""
        ...

    def now(self) -> float:
        """Unix seconds on the clock that due times and dates are compared with: the server's, or this host's."""
        ...

    def ring(self, topic: str) -> None:
        """Wake whoever listens to `topic`, as soon as the transaction is committed, and only then."""
        ...
