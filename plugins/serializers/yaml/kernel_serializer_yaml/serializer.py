"""The serializer itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from kernel import errors
from kernel.interfaces.place import failing_place, type_name
from kernel.interfaces.serializer import INTERFACE
from kernel_serializer_yaml.documents import Dumper, Loader, check_shape


class YamlSerializer:
    """See `kernel.interfaces.serializer.Serializer`. Tuples come back as lists, sets as sets; keys keep their type."""

    interface = INTERFACE
    name = "yaml"
    content_type = "application/x-yaml"
    content_encoding = "utf-8"
    safe = True

    def dumps(self, value: Any) -> bytes:
        try:
            return _dump(value)
        except errors.SoftTimeLimitExceeded:
            raise
        except RecursionError as exc:
            raise errors.EncodeError("the value contains itself, or is nested too deeply for YAML") from exc
        except Exception as exc:
            path, place = failing_place(value, _dump, _plain)
            raise errors.EncodeError(
                f"{path} is of type {type_name(place)} and cannot be YAML: {_reason(exc)}. Pass plain data instead, "
                "or give its class a __json__() method that returns plain data"
            ) from exc

    def loads(self, data: bytes) -> Any:
        try:
            check_shape(data)
            return yaml.load(data, Loader=Loader)  # noqa: S506 - a subclass of the safe loader
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            raise errors.DecodeError(f"not valid YAML ({len(data)} bytes): {_reason(exc)}") from exc


def _dump(value: Any) -> bytes:
    text: bytes = yaml.dump(value, Dumper=Dumper, encoding="utf-8", sort_keys=False, allow_unicode=False)
    return text


def _plain(value: Any) -> Mapping[str, Any] | None:
    plain = getattr(value, "__json__", None)
    return plain() if callable(plain) else None


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
