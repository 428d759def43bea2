"""Long texts as JSON, the way they are mostly: ASCII, of which few characters or none need an escape.

The standard encoder looks at each character; here each character that needs an escape is looked for in the whole text,
which processors do many bytes at a time. What comes out is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from json import encoder
from json.encoder import encode_basestring_ascii
from typing import Any, Final

LONG: Final = 4096
"""Characters from which on the other way is faster."""
_RARE: Final = 256
"""One in so many characters needs an escape, at most."""
_LOOKED_AT: Final = 8
"""Items of a list or dictionary that are looked at: who passes more than a few long texts has one among the first."""
_LEVELS: Final = 3
# The backslash is first: it is what the others are written with.
_ESCAPED: Final = tuple(
    (character, encode_basestring_ascii(character)[1:-1]) for character in ("\\", '"', *map(chr, range(32)), "\x7f")
)


def quote(text: str) -> str:
    """`text` as JSON, of ASCII characters alone."""
    if len(text) < LONG or not text.isascii():
        return encode_basestring_ascii(text)
    few, escaped = len(text) // _RARE, text
    for character, escape in _ESCAPED:
        if character in text:
            if text.count(character) > few:
                return encode_basestring_ascii(text)
            escaped = escaped.replace(character, escape)
    return f'"{escaped}"'


def long_text_encoder(default: Callable[[Any], Any]) -> Callable[[Any], str] | None:
    """What encodes a value as `json.JSONEncoder(default=default)` does, with long texts by `quote`; None where Python
    has no encoder in C. Texts that are not long cost more by it."""
    make: Any = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return None

    def encode(value: Any) -> str:
        if isinstance(value, str):
            return quote(value)
        return "".join(make({}, default, quote, None, ": ", ", ", False, False, True)(value, 0))

    return encode


def has_long_text(value: object, levels: int = _LEVELS) -> bool:
    """Whether a long text is near the top of `value`."""
    kind = value.__class__
    if kind is str:
        return len(value) >= LONG  # type: ignore[arg-type]
    if levels:
        if kind is list or kind is tuple:
            return any(has_long_text(item, levels - 1) for item in value[:_LOOKED_AT])  # type: ignore[index]
        if kind is dict:
            return any(has_long_text(item, levels - 1) for item in islice(value.values(), _LOOKED_AT))  # type: ignore[attr-defined]
    return False
