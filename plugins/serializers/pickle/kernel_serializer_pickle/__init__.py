"""Pickle for kernel: any Python object, between parties that trust each other."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, Final

from kernel import errors
from kernel.interfaces.place import failing_place, type_name
from kernel.interfaces.serializer import INTERFACE

__all__ = ["PickleSerializer"]

# The newest protocol that every Python a peer may still run can read, and the one kombu writes.
_PROTOCOL: Final = 4


class PickleSerializer:
    """See `kernel.interfaces.serializer.Serializer`. Unpickling runs code of the sender's choice: not safe."""

    interface = INTERFACE
    name = "pickle"
    content_type = "application/x-python-serialize"
    content_encoding = "binary"
    safe = False

    def dumps(self, value: Any) -> bytes:
        try:
            return pickle.dumps(value, protocol=_PROTOCOL)
        except errors.SoftTimeLimitExceeded:
            raise
        except RecursionError as exc:
            raise errors.EncodeError("the value is nested too deeply for pickle; pass a flatter structure") from exc
        except Exception as exc:
            path, place = failing_place(value, _pickle, _state)
            raise errors.EncodeError(
                f"{path} is of type {type_name(place)} and cannot be pickled: {exc}. Pass plain data that the task "
                "can make it from again, or give its class __reduce__() or __getstate__()"
            ) from exc

    def loads(self, data: bytes) -> Any:
        stream = io.BytesIO(data)
        try:
            value = pickle.Unpickler(stream).load()
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            raise errors.DecodeError(f"not a pickle that can be read here ({len(data)} bytes): {exc!r}") from exc
        if stream.tell() != len(data):
            raise errors.DecodeError(f"{len(data) - stream.tell()} bytes follow the end of the pickle")
        return value


def _pickle(value: Any) -> bytes:
    return pickle.dumps(value, protocol=_PROTOCOL)


def _state(value: Any) -> Mapping[str, Any] | None:
    state: Any = value.__getstate__() if hasattr(value, "__getstate__") else None
    if isinstance(state, tuple) and len(state) == 2:  # an object with slots: (its __dict__, its slots)
        return {**(state[0] or {}), **(state[1] or {})}
    return state if isinstance(state, dict) else None
