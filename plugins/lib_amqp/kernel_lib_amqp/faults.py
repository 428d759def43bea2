"""What goes wrong between us and the server, as the project's errors."""

from __future__ import annotations

import ssl
from typing import Final

from amqp import exceptions as amqp_exceptions

from kernel import errors

NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406
_OURS: Final = ("KEY_VALUES_MISMATCH", "NO_START_LINE", "BAD_END_LINE", "PEM_LIB", "KEY_TYPE_MISMATCH")
_CUT_SHORT: Final = (
    "; the server ended the connection during the greeting: it may refuse our certificate, or want one (certfile and "
    "keyfile in broker_use_ssl)"
)
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "HTTP_REQUEST")


class ConnectionLost(errors.OperationalError):
    """The connection broke: what was sent and not answered may have been carried out or not.

    `silent`: nobody said so. The server was not heard of for too long, and what else leads to it may be as dead.
    """

    silent = False


class ChannelClosed(errors.OperationalError):
    """The server closed a channel and said why; `code` is AMQP's (404 no such queue, 406 it is different, ...).

    The connection lives on; what was delivered on the channel and not settled goes back to its queue.
    """

    def __init__(self, text: str, *, channel: int, code: int) -> None:
        super().__init__(text)
        self.channel = channel
        self.code = code


class Blocked(errors.OperationalError):
    """The server takes no messages now: its memory or its disk is short. Nothing was sent."""


def broke(exc: BaseException, shown: str) -> ConnectionLost:
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    fault = ConnectionLost(f"the connection to {shown} broke: {text}")
    fault.silent = isinstance(exc, TimeoutError)
    return fault


def connect_fault(exc: BaseException, shown: str) -> errors.KernelError:
    """Why no connection could be made; nothing was sent."""
    if isinstance(exc, errors.KernelError):
        return exc
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if isinstance(exc, amqp_exceptions.AccessRefused):
        if "mechanism EXTERNAL" in text:
            return errors.ImproperlyConfigured(
                f"{shown} refused the login by certificate ({text}); name one as certfile and keyfile in "
                "broker_use_ssl that the server knows as a user of its own"
            )
        return errors.ImproperlyConfigured(
            f"{shown} refused the login ({text}); write amqp://user:password@host:5672/vhost with the right ones"
        )
    if isinstance(exc, amqp_exceptions.NotAllowed | amqp_exceptions.InvalidPath):
        return errors.ImproperlyConfigured(f"{shown} refused the virtual host: {text}; create it, or name another")
    if isinstance(exc, ssl.SSLCertVerificationError):
        return errors.ImproperlyConfigured(
            f"the certificate of {shown} cannot be trusted ({text}); name its authority as ca_certs in broker_use_ssl"
        )
    if isinstance(exc, ssl.SSLError):
        return _tls_fault(exc, shown, text)
    if isinstance(exc, ConnectionResetError | BrokenPipeError):
        tls = shown.startswith("amqps")
        text += _CUT_SHORT if tls else ", as a port does that speaks TLS alone (amqps://)"
    return errors.OperationalError(
        f"cannot connect to {shown}: {text}; check that the server runs and the URL is right"
    )


def _tls_fault(exc: ssl.SSLError, shown: str, text: str) -> errors.KernelError:
    reason = exc.reason or ""
    if reason in _OURS:
        return errors.ImproperlyConfigured(
            f"certfile and keyfile in broker_use_ssl cannot be used for {shown} ({text}); name a certificate and the "
            "key that belongs to it, both as PEM files"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return errors.ImproperlyConfigured(
            f"{shown} refused our certificate, or wants one ({text}); name one that it trusts as certfile and keyfile "
            "in broker_use_ssl"
        )
    if "EOF" in text:
        text += _CUT_SHORT
    if reason in _NO_TLS:
        text += "; what answers there speaks no TLS: amqps:// needs the port for it, mostly 5671"
    return errors.OperationalError(f"cannot connect to {shown} by TLS: {text}")
