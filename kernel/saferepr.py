"""Arguments as short text for headers, logs and events: bounded in length, depth and time, and never raising."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

LIMIT: Final = 1024
"""Characters at most."""
DEPTH: Final = 3

_ELLIPSIS: Final = "..."
_QUICK: Final = frozenset({int, float, bool, type(None)})
_QUICK_COUNT: Final = 64
# `repr` of an int past this many bits may be refused by Python, and is nothing to read.
_QUICK_INT: Final = 1 << 63


def args_repr(args: Sequence[Any], *, limit: int = LIMIT, depth: int = DEPTH) -> str:
    """``(2, 'a')``, cut at `limit` characters with ``...``."""
    if not args:
        return "()"
    shown: Sequence[Any] = args
    for place, value in enumerate(args):
        kind = type(value)
        if kind is str:
            if len(value) > limit:
                # What is behind the limit is never seen.
                if shown is args:
                    shown = list(args)
                shown[place] = value[: limit + 1]  # type: ignore[index]
        elif kind not in _QUICK or (kind is int and not -_QUICK_INT < value < _QUICK_INT):
            break
        if place > _QUICK_COUNT:
            break
    else:
        text = repr(tuple(shown))
        return text if len(text) <= limit else text[: limit - len(_ELLIPSIS)] + _ELLIPSIS
    return _cut(tuple(args), limit, depth)


def kwargs_repr(kwargs: Mapping[str, Any], *, limit: int = LIMIT, depth: int = DEPTH) -> str:
    """``{'x': 2}``, cut at `limit` characters with ``...``."""
    if not kwargs:
        return "{}"
    return _cut(kwargs, limit, depth)


def safe_repr(value: Any, *, limit: int = LIMIT, depth: int = DEPTH) -> str:
    """`repr` of any value under the same bounds."""
    return _cut(value, limit, depth)


def _cut(value: Any, limit: int, depth: int) -> str:
    parts: list[str] = []
    left = _write(value, parts, limit, depth)
    text = "".join(parts)
    if left >= 0 and len(text) <= limit:
        return text
    return text[: limit - len(_ELLIPSIS)] + _ELLIPSIS


def _write(value: Any, parts: list[str], left: int, depth: int) -> int:
    """Append the text of `value`; how many characters are left, negative when there were too few."""
    kind = type(value)
    if kind is tuple or kind is list:
        ends = "()" if kind is tuple else "[]"
        return _write_items(((None, item) for item in value), len(value), ends, parts, left, depth, kind is tuple)
    if kind is dict or (isinstance(value, dict) and getattr(kind, "__repr__", None) is dict.__repr__):
        return _write_items(iter(value.items()), len(value), "{}", parts, left, depth, False)
    if kind is set or kind is frozenset:
        return _write_items(((None, item) for item in value), len(value), "{}", parts, left, depth, False)
    text = _leaf(value, left)
    parts.append(text)
    return left - len(text)


def _write_items(items: Any, count: int, ends: str, parts: list[str], left: int, depth: int, is_tuple: bool) -> int:
    if count and depth <= 0:
        text = f"{ends[0]}{_ELLIPSIS}{ends[1]}"
        parts.append(text)
        return left - len(text)
    parts.append(ends[0])
    left -= 2
    is_mapping = ends == "{}"
    for number, (key, item) in enumerate(items):
        if left < 0:
            return left
        if number:
            parts.append(", ")
            left -= 2
        if is_mapping and key is not None:
            left = _write(key, parts, left, depth - 1)
            parts.append(": ")
            left -= 2
        left = _write(item, parts, left, depth - 1)
    parts.append("," + ends[1] if is_tuple and count == 1 else ends[1])
    return left


def _leaf(value: Any, left: int) -> str:
    kind = type(value)
    room = max(left, 0) + 1
    try:
        if kind is str or kind is bytes:
            return repr(value[:room])
        if kind is int and not -_QUICK_INT < value < _QUICK_INT and value.bit_length() > 4 * room:
            return f"<int of {value.bit_length()} bits>"
        return repr(value)[:room]
    except Exception as exc:
        # Somebody's __repr__ raised: that is no reason not to send the task.
        return f"<{kind.__name__}: repr failed: {type(exc).__name__}>"
