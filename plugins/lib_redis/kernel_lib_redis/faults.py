"""Errors of redis-py as the project's errors, each with what happened and what to do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final

from redis import exceptions

from kernel import errors

_AWAY: Final = ("READONLY", "LOADING", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN", "NOAUTH", "UNBLOCKED", "TRYAGAIN")
"""Replies by which a server says that it is not the one to talk to now: the connection is given up with it."""
_AWAY_KINDS: Final = (
    exceptions.ReadOnlyError,
    exceptions.BusyLoadingError,
    exceptions.AuthenticationError,
    exceptions.ClusterDownError,
    exceptions.AskError,
    exceptions.TryAgainError,
)
"""The same where redis-py has taken the word off."""
_CLUSTER_KINDS: Final = (exceptions.ClusterError, exceptions.AskError, exceptions.TryAgainError)
_ELSEWHERE: Final = "non local key"
"""What a script is told that touches a slot which moved to another node."""


class ConnectionLost(errors.OperationalError):
    """The connection broke: a command that was sent may have been carried out or not."""


def unfitting(reply: object, shown: str) -> ConnectionLost:
    """For an answer that its command cannot have: what else the connection says cannot be trusted."""
    return ConnectionLost(f"the connection to {shown} is given up: it answered a script with {reply!r:.100}")


def is_away(exc: BaseException) -> bool:
    """Whether this reply means that the next command should go over a new connection."""
    if isinstance(exc, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return True
    text = str(exc)
    return text.partition(" ")[0] in _AWAY or _ELSEWHERE in text or isinstance(exc, _AWAY_KINDS)


def fault(exc: BaseException, shown: str) -> errors.KernelError:
    """The project's error for one of redis-py's, naming the server without its password."""
    if isinstance(exc, errors.KernelError):
        return exc
    text = _line(exc)
    if isinstance(exc, exceptions.BusyLoadingError | exceptions.ReadOnlyError):
        return errors.OperationalError(f"{shown} takes no writes now ({text}); it is starting, or it is a replica")
    if isinstance(exc, exceptions.OutOfMemoryError) or "maxmemory" in text:
        return errors.OperationalError(
            f"{shown} has no memory left ({text}); raise maxmemory, or let the queues be worked off"
        )
    if "MISCONF" in text or "NOREPLICAS" in text:
        return errors.OperationalError(f"{shown} takes no writes now: {text}")
    if isinstance(exc, exceptions.NoPermissionError) or text.startswith("NOPERM"):
        return errors.OperationalError(f"{shown} does not let this user do that: {text}; {_RIGHTS}")
    if isinstance(exc, _CLUSTER_KINDS) or _ELSEWHERE in text:
        return errors.OperationalError(f"{shown} has not got these keys now ({text}); the cluster is asked again")
    if isinstance(exc, exceptions.ResponseError) and not isinstance(exc, exceptions.ConnectionError):
        return errors.OperationalError(f"{shown} refused a command: {text}")
    return ConnectionLost(f"the connection to {shown} broke: {text}")


_RIGHTS: Final = "it needs the rights `~* &* +@all -@admin +info +role`, or with a global_keyprefix `~prefix* &prefix*`"


def connect_fault(exc: BaseException, shown: str, *, tls: bool = False) -> errors.KernelError:
    """Why no connection could be made; nothing was sent. `tls` says that it was to be one with TLS."""
    text = _line(exc)
    if isinstance(exc, exceptions.BusyLoadingError):
        return errors.OperationalError(f"{shown} is still loading its data ({text})")
    if isinstance(exc, exceptions.NoPermissionError) or text.startswith("NOPERM"):
        return errors.ImproperlyConfigured(f"{shown} does not let this user in: {text}; {_RIGHTS}")
    if isinstance(exc, exceptions.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        return errors.ImproperlyConfigured(
            f"{shown} refused the login ({text}); write redis://user:password@host:6379/0 with the right ones"
        )
    if "DB index" in text or "invalid DB" in text:
        return errors.ImproperlyConfigured(
            f"{shown} has no such database ({text}); numbers go from 0 to `databases` - 1 of its configuration, "
            "which is 15 as shipped"
        )
    if isinstance(exc, exceptions.ResponseError):
        return errors.ImproperlyConfigured(f"{shown} refused the connection: {text}")
    return _unreachable(exc, shown, text, "; or that it speaks TLS" if tls else "")


def _unreachable(exc: BaseException, shown: str, text: str, doubt: str) -> errors.KernelError:
    for each in _chain(exc):
        if isinstance(each, ssl.SSLCertVerificationError):
            return errors.ImproperlyConfigured(
                f"{shown} has a certificate that is not trusted ({each.verify_message or text}); name the authority "
                "that signed it with ssl_ca_certs, and the server by a name that the certificate has"
            )
        if isinstance(each, ssl.SSLError):
            return _tls_fault(each, shown)
        if isinstance(each, FileNotFoundError | PermissionError):
            return errors.OperationalError(
                f"cannot connect to {shown}: {each.strerror or text}; check the path of the socket, or of the files "
                "that ssl_ca_certs, ssl_certfile and ssl_keyfile name"
            )
        if isinstance(each, socket.gaierror):
            return errors.OperationalError(
                f"cannot connect to {shown}: its host has no address ({each.strerror}); check the name"
            )
        if isinstance(each, ConnectionRefusedError):
            return errors.OperationalError(
                f"cannot connect to {shown}: nobody listens there (connection refused); check that the server runs "
                "and the URL is right"
            )
        if isinstance(each, TimeoutError | exceptions.TimeoutError):
            return errors.OperationalError(
                f"cannot connect to {shown}: no answer in time; check that the server runs, and that no firewall is in "
                f"between{doubt}"
            )
        if isinstance(each, ConnectionResetError) or "closed by server" in str(each).lower():
            return errors.OperationalError(
                f"cannot connect to {shown}: it hung up; check that a Redis server listens there, and write rediss:// "
                "if it speaks TLS"
            )
    return errors.OperationalError(
        f"cannot connect to {shown}: {text}; check that the server runs and the URL is right"
    )


def _tls_fault(exc: ssl.SSLError, shown: str) -> errors.KernelError:
    reason = exc.reason or str(exc)
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason or "UNKNOWN_PROTOCOL" in reason:
        return errors.ImproperlyConfigured(
            f"{shown} does not speak TLS ({reason}); write redis:// for a server without it, or another port"
        )
    if "ALERT" in reason or "HANDSHAKE" in reason:
        return errors.ImproperlyConfigured(
            f"{shown} refused the TLS handshake ({reason}); it may ask for a certificate of ours: ssl_certfile and "
            "ssl_keyfile"
        )
    if "EOF" in reason:
        return errors.OperationalError(
            f"cannot connect to {shown}: it hung up during the TLS handshake ({reason}); it may speak "
            "no TLS, or ask for a certificate of ours: ssl_certfile and ssl_keyfile"
        )
    return errors.ImproperlyConfigured(f"{shown} cannot be spoken to with TLS: {reason}")


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An error and those behind it; redis-py tells of the system's in the text alone."""
    found: BaseException | None = exc
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
