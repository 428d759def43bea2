"""Where in a value its serializer failed, in the words of the person who wrote the call.

Serializers find out that something cannot be encoded, and C code seldom says where. This helper is for the
error path alone: it encodes parts of the value again until it knows which of them is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_MAX_DEPTH: Final = 60
_BODY: Final = ("args", "kwargs", "embed")
_LINKS: Final = frozenset(("callbacks", "errbacks", "chain", "chord"))
_PLAIN: Final = (str, bytes, bytearray, int, float, bool, type(None))

Attributes = Callable[[Any], Mapping[str, Any] | None]


def failing_place(value: Any, encode: Callable[[Any], object], attributes: Attributes | None = None) -> tuple[str, Any]:
    """The path to the innermost part of `value` for which `encode` raises, and that part.

    The path starts at ``args``, ``kwargs`` or ``embed`` when `value` is the body of a task message, else at
    ``value``: ``args[0]['order'].created``. A key that is to blame is shown as ``kwargs.key((1, 2))``.
    `attributes` gives the attributes by which `encode` sees an object that is no list, tuple, set or mapping;
    without it such an object is not looked into. Never raises; `encode` is called for each part on the way,
    so the cost is the size of the value times the depth of the place.
    """
    path, place = "value", value
    body = _is_body(value)
    above: list[int] = []
    while len(above) < _MAX_DEPTH and id(place) not in above and not isinstance(place, _Key):
        above.append(id(place))
        for step, part in _parts(place, attributes):
            if not _encodes(part, encode):
                path = _BODY[int(step[1:-1])] if body and len(above) == 1 else path + step
                place = part
                break
        else:
            break
    return path, next(iter(place)) if isinstance(place, _Key) else place


def type_name(value: Any) -> str:
    """The name of a value's type as an error should show it: ``set``, ``shop.models.Order``."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_body(value: Any) -> bool:
    """Whether it is ``[args, kwargs, embed]``; a result may be any value, and must not be named like one."""
    return (
        isinstance(value, list | tuple)
        and len(value) == len(_BODY)
        and isinstance(value[0], list | tuple)
        and isinstance(value[1], dict)
        and (value[2] is None or (isinstance(value[2], dict) and value[2].keys() <= _LINKS))
    )


def _encodes(part: Any, encode: Callable[[Any], object]) -> bool:
    try:
        encode(part)
    except Exception:
        return False
    return True


def _parts(place: Any, attributes: Attributes | None) -> Iterator[tuple[str, Any]]:
    if isinstance(place, _PLAIN):
        return
    if isinstance(place, Mapping):
        for key, part in place.items():
            if not isinstance(key, str):
                yield f".key({_short(key)})", _Key({key: None})
            yield f"[{_short(key)}]", part
    elif isinstance(place, list | tuple | set | frozenset):
        for index, part in enumerate(place):
            yield f"[{index}]", part
    elif attributes is not None:
        yield from ((f".{name}", part) for name, part in (_attributes(place, attributes) or {}).items())


class _Key(dict[Any, None]):
    """A mapping of one suspicious key, encoded in place of the key: a key is only wrong as a key."""


def _attributes(place: Any, attributes: Attributes) -> Mapping[str, Any] | None:
    try:
        found = attributes(place)
    except Exception:
        return None
    return found if isinstance(found, Mapping) else None


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type_name(key)}>"
    return text if len(text) <= 40 else text[:37] + "..."
