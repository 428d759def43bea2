"""Errors of databases as the project's errors, each with what happened and what to do."""

from __future__ import annotations

import sqlite3
from typing import Final

from kernel import errors

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class DatabaseDamaged(errors.ImproperlyConfigured):
    """The file holds what no database of ours would: nothing is read from it until somebody mended it."""


class SchemaTooNew(errors.ImproperlyConfigured):
    """A later version of the project has changed the tables."""


class ReadOnly(errors.ImproperlyConfigured):
    """The database cannot be written to by this user or on this mount."""


def sqlite_fault(exc: sqlite3.Error, path: str, *, waited: float | None = None) -> errors.KernelError:
    """The project's error for one of SQLite's, naming `path`."""
    kind = _kind_of(exc)
    if kind in _DAMAGED:
        return damaged(path, str(exc))
    if kind in _BUSY:
        return locked(path, waited)
    if kind == sqlite3.SQLITE_READONLY:
        return read_only(path, str(exc))
    if kind == sqlite3.SQLITE_FULL:
        return errors.OperationalError(
            f"no space left for the database {path}: nothing of this was stored; free some space and send it again"
        )
    if kind == sqlite3.SQLITE_CANTOPEN:
        return errors.OperationalError(
            f"cannot open the database {path} ({exc}); its folder must exist and be writable by this user, and "
            "the process must have file descriptors left"
        )
    name = getattr(exc, "sqlite_errorname", "") or type(exc).__name__
    return errors.OperationalError(f"the database {path} failed: {exc} ({name}); nothing of this was stored")


def is_busy(exc: sqlite3.Error) -> bool:
    """Whether another connection holds a lock that this needed."""
    return _kind_of(exc) in _BUSY


def _kind_of(exc: sqlite3.Error) -> int:
    return (getattr(exc, "sqlite_errorcode", 0) or 0) & 0xFF


def locked(path: str, waited: float | None = None) -> errors.OperationalError:
    after = "" if waited is None else f" for {waited:.1f} s"
    return errors.OperationalError(
        f"the database {path} is locked by another process{after}; end the transaction that holds it "
        f"(`fuser {path}` lists who has it open), or allow more time"
    )


def damaged(path: str, why: str) -> DatabaseDamaged:
    return DatabaseDamaged(
        f"the database {path} is damaged ({why}); stop every process that uses it, keep a copy, then rescue what can "
        f"be read with `sqlite3 {path} .recover | sqlite3 rescued.db` and put rescued.db in its place"
    )


def read_only(path: str, why: str) -> ReadOnly:
    return ReadOnly(
        f"the database {path} cannot be written ({why}); the file and its folder must belong to this user, be "
        "writable, and not lie on a read-only mount"
    )


class CommitUnknown(errors.OperationalError):
    """The connection broke while the commit was under way: it may have happened or not."""


def server_fault(exc: BaseException, name: str, *, unknown: bool = False) -> errors.KernelError:
    """The project's error for one of a server's driver, naming the server without its password."""
    if isinstance(exc, errors.KernelError):
        return exc
    first = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if unknown:
        return CommitUnknown(f"the connection to {name} broke during a commit ({first}): it may be stored or not")
    state = getattr(exc, "sqlstate", None) or ""
    if state in ("25006", "42501"):
        return ReadOnly(f"{name} cannot be written ({first}); use a primary server and a role with write access")
    if state == "53100":
        return errors.OperationalError(f"{name} has no space left: nothing of this was stored ({first})")
    return errors.OperationalError(f"{name} failed: {first}")
