"""How commands end: their exit codes, and which error leads to which."""

from __future__ import annotations

from typing import Final

from kernel import errors
from kernel.finding import AppNotFound

OK: Final = 0
FAILED: Final = 1
"""It ran, and found or met a failure."""
USAGE: Final = 2
"""The command line or the settings are wrong."""
APP: Final = 3
"""The app cannot be found or imported."""
UNREACHABLE: Final = 4
"""The broker or the result backend cannot be reached."""
NO_REPLY: Final = 5
"""No worker replied."""
REFUSED: Final = 6
"""Not confirmed, not permitted, or locked."""
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "it worked",
    FAILED: "it ran, and found or met a failure",
    USAGE: "the command line or the settings are wrong",
    APP: "the app cannot be found or imported",
    UNREACHABLE: "the broker or the result backend cannot be reached",
    NO_REPLY: "no worker replied",
    REFUSED: "not confirmed, not permitted, or locked",
    INTERRUPTED: "interrupted",
}


def code_of(error: BaseException) -> int:
    """The exit code that `error` leads to."""
    if isinstance(error, AppNotFound):
        return APP
    if isinstance(error, errors.ImproperlyConfigured | NotImplementedError):
        return USAGE
    if isinstance(error, errors.OperationalError | errors.BackendError):
        return UNREACHABLE
    if isinstance(error, errors.SecurityError):
        return REFUSED
    return FAILED
