"""JSON in the bytes that `kombu.utils.json` would write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kernel import errors
from kernel.interfaces.place import failing_place, type_name
from kernel.interfaces.serializer import INTERFACE
from kernel_serializer_json.texts import LONG, has_long_text, long_text_encoder
from kernel_serializer_json.types import BYTES_DECODERS, STANDARD, JsonType, bytes_envelope

_ADVICE: Final = (
    "give its class a __json__() method that returns plain data, pass plain data instead, or use a JsonSerializer"
    "(types=[JsonType(...)]) of your own (see the README of kernel-serializer-json)"
)


class JsonSerializer:
    """See `kernel.interfaces.serializer.Serializer`.

    Beyond JSON's own types it carries bytes, datetime, date, time, timedelta, Decimal and UUID, and encodes
    whatever an object's ``__json__()`` returns. Tuples come back as lists, and keys as text. `types` adds
    further types; a type that comes earlier wins.
    """

    interface = INTERFACE
    name = "json"
    content_type = "application/json"
    content_encoding = "utf-8"
    safe = True
    takes_subclasses = True

    def __init__(self, types: Sequence[JsonType] = ()) -> None:
        self._types = (*types, *STANDARD)
        self._by_type = {known.type: known for known in reversed(self._types)}
        self._decoders: dict[str, Callable[[Any], Any]] = {
            **BYTES_DECODERS,
            **{known.marker: known.decode for known in reversed(self._types)},
        }
        # Separators and escapes are the defaults, since those are what kombu writes.
        self._encode = json.JSONEncoder(default=self._envelope).encode
        self._encode_long = long_text_encoder(self._envelope) or self._encode
        # Looking for long texts costs small values too much: they are looked for where the last one was long.
        self._seen_long = False
        self._decode = json.JSONDecoder(object_hook=self._open_envelope).decode
        self._decode_plain = json.JSONDecoder().raw_decode

    def dumps(self, value: Any) -> bytes:
        try:
            if self._seen_long and has_long_text(value):
                return self._encode_long(value).encode("ascii")
            text = self._encode(value)
            self._seen_long = len(text) >= LONG
            return text.encode("ascii")
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            raise self._encode_error(value, exc) from exc

    def loads(self, data: bytes) -> Any:
        try:
            text = str(data, "utf-8")
            if "__type__" not in text and text[:1] in ("[", "{"):
                # The usual case, without a call in Python for each object in it.
                value, end = self._decode_plain(text)
                if end == len(text):
                    return value
            return self._decode(text)
        except (errors.DecodeError, errors.SoftTimeLimitExceeded):
            raise
        except RecursionError as exc:
            raise errors.DecodeError(f"JSON of {len(data)} bytes is nested too deeply") from exc
        except Exception as exc:
            raise errors.DecodeError(f"not valid JSON ({len(data)} bytes): {exc}") from exc

    def _envelope(self, value: Any) -> Any:
        """Called by the C encoder for what JSON does not know; what it returns is encoded in turn."""
        known = self._by_type.get(type(value))
        if known is None:
            plain = getattr(value, "__json__", None)
            if plain is not None:
                return plain()
            if isinstance(value, bytes):
                return bytes_envelope(value)
            if _is_lazy_text(value):
                return str(value)
            known = next((known for known in self._types if isinstance(value, known.type)), None)
            if known is None:
                raise TypeError(f"{type_name(value)} has no form in JSON")
        return {"__type__": known.marker, "__value__": known.encode(value)}

    def _open_envelope(self, found: dict[str, Any]) -> Any:
        if len(found) != 2 or "__type__" not in found or "__value__" not in found:
            return found
        marker = found["__type__"]
        decoder = self._decoders.get(marker) if isinstance(marker, str) else None
        if decoder is None:
            raise errors.DecodeError(f"unknown __type__ {_short(marker)}; known: {', '.join(sorted(self._decoders))}")
        try:
            return decoder(found["__value__"])
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            raise errors.DecodeError(f"no valid {marker}: {_short(found['__value__'])} ({exc})") from exc

    def _encode_error(self, value: Any, cause: Exception) -> errors.EncodeError:
        path, place = failing_place(value, self._encode, _json_attributes)
        if isinstance(cause, RecursionError):
            return errors.EncodeError(f"{path[:60]} is nested too deeply for JSON; pass a flatter structure")
        advice = f": {_ADVICE}" if isinstance(cause, TypeError) else ""
        return errors.EncodeError(f"{path} is of type {type_name(place)} and cannot be JSON: {cause}{advice}")


def _json_attributes(value: Any) -> Mapping[str, Any] | None:
    plain = getattr(value, "__json__", None)
    return plain() if callable(plain) else None


def _is_lazy_text(value: object) -> bool:
    # Django's lazy translations are texts that are not written out yet. Whoever holds one has imported the module.
    django = sys.modules.get("django.utils.functional")
    return django is not None and isinstance(value, django.Promise)


def _short(value: object) -> str:
    # `repr` of hostile data may be long, or fail for a number of too many digits.
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"<{type_name(value)}>"
    return text if len(text) <= 80 else text[:77] + "..."
