"""Which transaction an object of SQLAlchemy's stands for."""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from kernel.interfaces.unit import Unit
from kernel_contrib_sqlalchemy.connection import ConnectionUnit
from kernel_contrib_sqlalchemy.session import SessionUnit


def unit_of(given: object) -> Unit | None:
    """That of a session or connection, synchronous or not, or of the session that a registry hands out; None for
    anything else."""
    if isinstance(given, scoped_session | async_scoped_session):
        given = given()
    if isinstance(given, AsyncSession):
        given = given.sync_session
    elif isinstance(given, AsyncConnection):
        given = given.sync_connection
    if isinstance(given, Session):
        return SessionUnit.of(given)
    if isinstance(given, Connection):
        return ConnectionUnit.of(given)
    return None
