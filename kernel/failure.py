"""Exceptions as data, there and back: ``{"exc_type", "exc_message", "exc_module"}``, as Celery writes them.

Reading trusts nothing. Only modules that are imported already are looked into, by plain dictionary look-ups that
run no code, and only a subclass of `Exception` is ever called: a stored result that names `SystemExit`, or something
that is no exception at all, comes back as an exception that says so.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any, Final

from kernel import errors
from kernel.saferepr import safe_repr

_OURS: Final = errors.__name__
_CELERY: Final = "celery.exceptions"
_KOMBU: Final = "kombu.exceptions"

# The classes that Celery has under the same name, and the module in which it would look for them.
_WIRE_MODULES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("ImproperlyConfigured", "SecurityError", "TaskPredicate", "Ignore", "Reject", "Retry", "TaskError"),
            *("QueueNotFound", "IncompleteStream", "NotRegistered", "AlreadyRegistered", "TimeoutError"),
            *("MaxRetriesExceededError", "TaskRevokedError", "InvalidTaskError", "ChordError", "BackendError"),
            *("BackendGetMetaError", "BackendStoreError", "OperationalError", "SoftTimeLimitExceeded"),
            *("TimeLimitExceeded", "WorkerLostError", "Terminated"),
        ),
        _CELERY,
    ),
    **dict.fromkeys(("EncodeError", "DecodeError", "ContentDisallowed"), _KOMBU),
}
_WIRE_NAMES: Final[Mapping[str, str]] = {"KernelError": "CeleryError"}
_OUR_NAMES: Final[Mapping[str, str]] = {"CeleryError": "KernelError"}
_READ_AS_OURS: Final = frozenset({_CELERY, _KOMBU, "billiard.exceptions", _OURS})

TRACEBACK_FRAMES: Final = 100
TRACEBACK_CHARS: Final = 32_768
_NAME_CHARS: Final = 256
_MAX_DEPTH: Final = 6
_PLAIN: Final = (str, int, float, bool, type(None))


def encode_exception(exc: BaseException, encodes: Callable[[Any], object] | None = None) -> dict[str, Any]:
    """`exc` as data. Never raises.

    `encodes` is called with an argument of the exception and raises when it cannot be serialized; such an argument
    is replaced by its `repr`. Without it, only what JSON knows is kept.
    """
    module, name = _wire_name(type(exc))
    check = encodes or _check_plain
    return {
        "exc_type": name,
        "exc_message": [arg if _passes(check, arg) else safe_repr(arg) for arg in _arguments(exc)],
        "exc_module": module,
    }


def decode_exception(data: object) -> BaseException:
    """The exception that `data` describes; an exception comes back as it is. Never raises.

    A class that is not imported here gives a `RemoteError` of its name. Something that is no exception class is
    refused with a `SecurityError`, which is returned as the failure.
    """
    if isinstance(data, BaseException):
        return data
    if not isinstance(data, Mapping) or not isinstance(data.get("exc_type"), str):
        return errors.RemoteError(f"a stored failure that describes no exception: {safe_repr(data)}")
    module, name = data.get("exc_module"), data["exc_type"][:_NAME_CHARS]
    module = module[:_NAME_CHARS] if isinstance(module, str) else None
    args = _message(data.get("exc_message"))
    found = _find(module, name)
    if found is None:
        return _stand_in(module, name, args)
    if not isinstance(found, type) or not issubclass(found, BaseException):
        return errors.SecurityError(
            f"a stored failure names {module}.{name}, which is no exception class: it was not called"
        )
    if not issubclass(found, Exception):
        # SystemExit and its like would end the process of whoever asks for the result.
        return _stand_in(module, name, args)
    return _build(found, args)


def traceback_text(exc: BaseException, *, skip: Callable[[str], bool] | None = None) -> str:
    """The traceback of `exc`, at most `TRACEBACK_CHARS` long, with the middle left out where it is longer.

    Leading frames of modules for which `skip` is true are left out, unless all are. Never raises.
    """
    try:
        tb = _user_frames(exc.__traceback__, skip)
        # A negative limit keeps the frames that are nearest to the error.
        lines = traceback.format_exception(type(exc), exc, tb, limit=-TRACEBACK_FRAMES)
        return bounded("".join(lines), TRACEBACK_CHARS)
    except Exception as problem:
        return f"{type(exc).__name__} (its traceback cannot be shown: {type(problem).__name__})\n"


def bounded(text: str, limit: int) -> str:
    """`text`, its middle left out where it is longer than `limit`."""
    if len(text) <= limit:
        return text
    half = (limit - 40) // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def one_line(exc: BaseException) -> str:
    """``Type: text``, whatever `exc` does when it is asked for its text."""
    try:
        text = str(exc)
    except Exception:
        text = ""
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


class ExceptionInfo:
    """What `on_failure` and `on_retry` get as `einfo`: the exception, its class and the text of its traceback."""

    __slots__ = ("exception", "traceback", "type")

    def __init__(self, exception: BaseException, traceback: str | None) -> None:
        self.type = type(exception)
        self.exception = exception
        self.traceback = traceback or ""

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {safe_repr(self.exception)}>"


# --- writing ------------------------------------------------------------------------------------------------


def _wire_name(kind: type[BaseException]) -> tuple[str, str]:
    if kind.__module__ == _OURS:
        name = kind.__name__
        if name in _WIRE_NAMES:
            return _CELERY, _WIRE_NAMES[name]
        return _WIRE_MODULES.get(name, _OURS), name
    return str(kind.__module__), kind.__qualname__


def _arguments(exc: BaseException) -> Sequence[Any]:
    if isinstance(exc, OSError):
        # The file name is no part of `args`, but the constructor takes it.
        try:
            reduced = exc.__reduce__()
            if isinstance(reduced, tuple) and isinstance(reduced[1], tuple):
                return reduced[1]
        except Exception:
            return exc.args
    args = getattr(exc, "args", ())
    return args if isinstance(args, tuple) else (args,)


def _passes(check: Callable[[Any], object], value: Any) -> bool:
    try:
        check(value)
    except Exception:
        return False
    return True


def _check_plain(value: Any, depth: int = 0) -> None:
    """Raises TypeError unless `value` is what JSON can hold."""
    if isinstance(value, _PLAIN):
        return
    if depth < _MAX_DEPTH:
        if isinstance(value, list | tuple):
            for item in value:
                _check_plain(item, depth + 1)
            return
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            for item in value.values():
                _check_plain(item, depth + 1)
            return
    raise TypeError(f"{type(value).__name__} is no JSON value")


# --- reading ------------------------------------------------------------------------------------------------


def _message(message: object) -> Sequence[Any]:
    if isinstance(message, list | tuple):
        return tuple(message)
    return () if message is None else (message,)


def _find(module: str | None, name: str) -> object:
    """What `name` means in an imported module, by dictionary look-ups alone; None when there is nothing."""
    if module in _READ_AS_OURS or module is None:
        ours = vars(errors).get(_OUR_NAMES.get(name, name))
        if isinstance(ours, type) and issubclass(ours, BaseException):
            return ours
    if module is None:
        module = "builtins"
    place: object = sys.modules.get(module)
    if not isinstance(place, ModuleType):
        return None
    for part in name.split("."):
        place = _own_attribute(place, part)
        if place is None:
            return None
    return place


def _own_attribute(place: object, name: str) -> object:
    # No getattr: a module's or class's own __getattr__ could import or run anything.
    if isinstance(place, ModuleType):
        # Nor vars(): a lazily loaded module runs its code when it is asked for its dictionary in the usual way.
        contents: Mapping[str, object] = object.__getattribute__(place, "__dict__")
        return contents.get(name)
    if isinstance(place, type):
        for base in place.__mro__:
            if name in vars(base):
                found: object = vars(base)[name]
                return found
    return None


def _build(kind: type[Exception], args: Sequence[Any]) -> Exception:
    try:
        made = kind(*args)
        if isinstance(made, kind):
            if not isinstance(made, OSError) and made.args != tuple(args):
                # Its constructor makes a text of its arguments, and what was stored is that text already.
                made.args = tuple(args)
            str(made)
            return made
    except Exception:
        return _build_bare(kind, args)
    return _build_bare(kind, args)


def _build_bare(kind: type[Exception], args: Sequence[Any]) -> Exception:
    """An instance past its own constructor, which wants other arguments than `args`: it can be caught by its
    class and keeps its text. Where even that fails, a `RemoteError` of its name."""
    try:
        made = kind.__new__(kind, *args)
        made.args = tuple(args)
        str(made)  # a __str__ that needs what the constructor would have set fails here, not at the caller's
    except Exception:
        return _stand_in(kind.__module__, kind.__qualname__, args)
    return made


def _stand_in(module: str | None, name: str, args: Sequence[Any]) -> errors.RemoteError:
    leaf = name.rpartition(".")[2]
    if not leaf.isidentifier():
        leaf = "RemoteError"
    kind = type(leaf, (errors.RemoteError,), {"__module__": module or _OURS})
    made: errors.RemoteError = kind(*args)
    return made


def _user_frames(tb: TracebackType | None, skip: Callable[[str], bool] | None) -> TracebackType | None:
    if skip is None:
        return tb
    inner = tb
    while inner is not None and skip(str(inner.tb_frame.f_globals.get("__name__", ""))):
        inner = inner.tb_next
    return inner or tb
