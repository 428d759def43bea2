"""Python types that JSON lacks, and the envelopes they travel in.

An envelope is an object of exactly the keys ``__type__`` and ``__value__``. Markers and values are those of
``kombu.utils.json``, save for ``timedelta``, which kombu does not know.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class JsonType:
    """How values of one type become JSON and come back.

    `encode` turns a value into something JSON can hold, `decode` turns that back and may raise anything for
    what is not valid. Subclasses of `type` are encoded by the same rule.
    """

    type: type
    marker: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _bytes_envelope(value: bytes) -> dict[str, str]:
    # Two markers for one type, as kombu has it: text stays readable, and the rest is base64.
    try:
        return {"__type__": "bytes", "__value__": value.decode("utf-8")}
    except UnicodeDecodeError:
        return {"__type__": "base64", "__value__": base64.b64encode(value).decode("ascii")}


def _decode_base64(value: str) -> bytes:
    return base64.b64decode(value.encode("ascii"), validate=True)


def _decode_bytes(value: str) -> bytes:
    return value.encode("utf-8")


def _decode_date(value: str) -> date:
    # Peers may write a date as a point in time; kombu reads both, and so do we.
    return datetime.fromisoformat(value).date()


def _decode_uuid(value: dict[str, str]) -> uuid.UUID:
    return uuid.UUID(hex=value["hex"])


def _decode_decimal(value: str) -> Decimal:
    if not isinstance(value, str):
        raise TypeError(f"a decimal is written as text, not as {type(value).__name__}")
    return Decimal(value)


def _encode_timedelta(value: timedelta) -> dict[str, int]:
    # Three integers and no sum of seconds: a float cannot hold the microseconds of a long time.
    return {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds}


def _decode_timedelta(value: dict[str, int]) -> timedelta:
    return timedelta(days=value["days"], seconds=value["seconds"], microseconds=value["microseconds"])


def _isoformat(value: date | time) -> str:
    return value.isoformat()


# A datetime is a date too, so the order matters for subclasses.
STANDARD: Final[tuple[JsonType, ...]] = (
    JsonType(datetime, "datetime", _isoformat, datetime.fromisoformat),
    JsonType(date, "date", _isoformat, _decode_date),
    JsonType(time, "time", _isoformat, time.fromisoformat),
    JsonType(Decimal, "decimal", str, _decode_decimal),
    JsonType(uuid.UUID, "uuid", lambda value: {"hex": value.hex}, _decode_uuid),
    JsonType(timedelta, "timedelta", _encode_timedelta, _decode_timedelta),
)

BYTES_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {"bytes": _decode_bytes, "base64": _decode_base64}
bytes_envelope: Final = _bytes_envelope
