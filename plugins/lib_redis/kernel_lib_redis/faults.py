"""Errors of redis-py as the project's errors, each with what happened and what to do."""

from __future__ import annotations

from typing import Final

from redis import exceptions

from kernel import errors

_AWAY: Final = ("READONLY", "LOADING", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN", "NOAUTH", "UNBLOCKED", "TRYAGAIN")
"""Replies by which a server says that it is not the one to talk to now: the connection is given up with it."""


class ConnectionLost(errors.OperationalError):
    """The connection broke: a command that was sent may have been carried out or not."""


def is_away(exc: BaseException) -> bool:
    """Whether this reply means that the next command should go over a new connection."""
    if isinstance(exc, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return True
    return str(exc).partition(" ")[0] in _AWAY or isinstance(
        exc, exceptions.ReadOnlyError | exceptions.BusyLoadingError | exceptions.AuthenticationError
    )


def fault(exc: BaseException, shown: str) -> errors.KernelError:
    """The project's error for one of redis-py's, naming the server without its password."""
    if isinstance(exc, errors.KernelError):
        return exc
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if isinstance(exc, exceptions.BusyLoadingError | exceptions.ReadOnlyError):
        return errors.OperationalError(f"{shown} takes no writes now ({text}); it is starting, or it is a replica")
    if isinstance(exc, exceptions.OutOfMemoryError) or "maxmemory" in text:
        return errors.OperationalError(
            f"{shown} has no memory left ({text}); raise maxmemory, or let the queues be worked off"
        )
    if isinstance(exc, exceptions.ResponseError) and not isinstance(exc, exceptions.ConnectionError):
        return errors.OperationalError(f"{shown} refused a command: {text}")
    return ConnectionLost(f"the connection to {shown} broke: {text}")


def connect_fault(exc: BaseException, shown: str) -> errors.KernelError:
    """Why no connection could be made; nothing was sent."""
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if isinstance(exc, exceptions.BusyLoadingError):
        return errors.OperationalError(f"{shown} is still loading its data ({text})")
    if isinstance(exc, exceptions.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        return errors.ImproperlyConfigured(
            f"{shown} refused the login ({text}); write redis://user:password@host:6379/0 with the right ones"
        )
    if isinstance(exc, exceptions.ResponseError):
        return errors.ImproperlyConfigured(f"{shown} refused the connection: {text}")
    return errors.OperationalError(
        f"cannot connect to {shown}: {text}; check that the server runs and the URL is right"
    )
