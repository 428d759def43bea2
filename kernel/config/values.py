"""Values of settings: from Python, from text, and back to text that may be shown.

`coerce` takes what code or TOML gives and is strict: a text is no number. `parse` takes what an environment
variable or a flag gives, where all is text. Both raise `InvalidSetting` with the value, what would be right,
and where it came from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from kernel.errors import InvalidSetting
from kernel.interfaces.setting import Kind, Setting

MASK: Final = "********"

_HIDDEN: Final = re.compile(r"API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI", re.IGNORECASE)
# The second alternative is for a password with a raw slash or so in it, which no URL parser would take but which
# must not be shown either; what looks like a port is none.
_USERINFO: Final = re.compile(
    r"(?P<scheme>[\w.+-]+://)(?P<user>[^\s/?#;:@]*):(?:[^\s/?#;]*@|(?!\d+(?:[/?#;\s]|$))[^\s;]*@)"
)
_QUERY_SECRET: Final = re.compile(r"(?P<name>[?&](?:password|passwd|pwd|secret|token)=)[^&;#]+", re.IGNORECASE)

_TRUE: Final = frozenset({"1", "true", "yes", "on", "y", "t"})
_FALSE: Final = frozenset({"0", "false", "no", "off", "n", "f"})
_NONE: Final = frozenset({"none", "null"})

_DURATION_UNITS: Final[Mapping[str, float]] = {
    "ms": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
    "w": 604800,
    "week": 604800,
}
_DURATION_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)

_RIGHT: Final[Mapping[Kind, str]] = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "list": "a list (or a text with commas)",
    "dict": "a dictionary",
    "seconds": "seconds, a timedelta, or a text such as '30s', '5m' or '1h30m'",
    "bytes": "a number of bytes, or a text such as '512kB' or '16MB'",
    "any": "any value",
}


def expected(setting: Setting) -> str:
    """What would be right for `setting`, in words."""
    text = "one of " + ", ".join(map(repr, setting.choices)) if setting.choices else _RIGHT[setting.kind]
    return f"{text} or None" if setting.optional and None not in setting.choices else text


def coerce(setting: Setting, value: Any, origin: str) -> Any:
    """`value` in the form in which `setting` is kept: seconds as a number, sizes as whole bytes, lists as tuples.

    Raises `InvalidSetting`.
    """
    if value is None and setting.optional:
        return None
    try:
        result = _CONVERTERS[setting.kind](value)
    except (TypeError, ValueError) as exc:
        raise _invalid(setting, value, origin, str(exc)) from None
    return _checked(setting, result, origin)


def parse(setting: Setting, text: str, origin: str) -> Any:
    """The value that `text` means for `setting`. Raises `InvalidSetting`."""
    stripped = text.strip()
    if setting.optional and stripped.lower() in _NONE:
        return None
    try:
        value = _parse_choice(setting, stripped) if setting.choices else _PARSERS[setting.kind](stripped)
        result = _CONVERTERS[setting.kind](value)
    except (TypeError, ValueError) as exc:
        raise _invalid(setting, text, origin, str(exc)) from None
    return _checked(setting, result, origin)


def seconds(value: Any) -> float:
    """Seconds from a number, a timedelta, or a text such as ``"1h30m"``. Raises ValueError or TypeError."""
    if isinstance(value, timedelta):
        result: float = value.total_seconds()
    elif isinstance(value, str):
        result = _duration(value)
    else:
        result = _number(value)
    if result < 0:
        raise ValueError("a duration cannot be negative")
    return result


def size(value: Any) -> int:
    """Bytes from a number or a text such as ``"16MB"``; a kilobyte is 1024 bytes. Raises ValueError or TypeError."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError("not a size")
        return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
    number = _whole(value)
    if number < 0:
        raise ValueError("a size cannot be negative")
    return number


def mask_url(url: str) -> str:
    """`url` (or several, joined by ``;``) with passwords replaced by stars; other texts come back as they are."""
    masked = _USERINFO.sub(lambda m: f"{m['scheme']}{m['user']}:{MASK}@", url)
    return _QUERY_SECRET.sub(lambda m: f"{m['name']}{MASK}", masked)


def censor(name: str, value: Any, *, secret: bool = False) -> Any:
    """`value` of the setting `name` as it may be shown to anyone."""
    if value is None or value == "" or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping) and not secret:
        return {key: censor(str(key), item) for key, item in value.items()}
    if secret or _HIDDEN.search(name):
        return MASK
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, list | tuple):
        return type(value)(censor(name, item) for item in value)
    return value


def as_text(value: Any) -> str:
    """`value` as it may be typed into an environment variable, for tables and messages."""
    if isinstance(value, tuple | list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, dict | list | tuple):
        try:
            return json.dumps(value)
        except (TypeError, ValueError):
            return repr(value)
    return value if isinstance(value, str) else repr(value)


def jsonable(value: Any) -> bool:
    """Whether JSON can hold `value`."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _invalid(setting: Setting, value: Any, origin: str, reason: str) -> InvalidSetting:
    # By its own name nothing is hidden, or the message would not help; what is inside a dictionary is.
    shown = MASK if setting.secret else repr(censor("", value))
    if len(shown) > 200:
        shown = shown[:200] + "..."
    detail = f" ({reason})" if reason else ""
    # Where any type will do, the reason alone says what would be right.
    takes = "" if reason and setting.kind == "any" else f": it takes {expected(setting)}"
    return InvalidSetting(f"{setting.name} cannot be {shown}{detail}{takes}. The value came from {origin}.")


def _checked(setting: Setting, value: Any, origin: str) -> Any:
    if setting.choices and value not in setting.choices:
        raise _invalid(setting, value, origin, "")
    if setting.check is not None:
        try:
            setting.check(value)
        except (TypeError, ValueError) as exc:
            raise _invalid(setting, value, origin, str(exc)) from None
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"that is {_article(value)}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"that is {_article(value)}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"that is {_article(value)}")
    if math.isnan(value):
        raise ValueError("not a number")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"that is {_article(value)}")
    return value


def _items(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)
    if isinstance(value, set | frozenset):
        return tuple(sorted(value, key=str))
    if not isinstance(value, list | tuple):
        raise TypeError(f"that is {_article(value)}")
    return tuple(value)


def _table(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        # The same object: code that edits a dictionary it gave, or got from the settings, means the setting.
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"that is {_article(value)}")
    return dict(value)


def _anything(value: Any) -> Any:
    return value


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def _duration(text: str) -> float:
    stripped = text.strip()
    try:
        number = float(stripped)
    except ValueError:
        pass
    else:
        return _number(int(number) if number.is_integer() else number)
    total, at = 0.0, 0
    while at < len(stripped):
        match = _DURATION_PART.match(stripped, at)
        unit = match[2].lower() if match else ""
        factor = _DURATION_UNITS.get(unit) or _DURATION_UNITS.get(unit.removesuffix("s"))
        if match is None or factor is None:
            raise ValueError("not a duration")
        total += float(match[1]) * factor
        at = match.end()
    if not stripped:
        raise ValueError("not a duration")
    return int(total) if total.is_integer() else total


def _parse_choice(setting: Setting, text: str) -> Any:
    for choice in setting.choices:
        if str(choice).lower() == text.lower():
            return choice
    raise ValueError("")


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("not a whole number") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("not a number") from None


def _parse_bool(text: str) -> bool:
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("use 1, true, yes or on; 0, false, no or off")


def _parse_list(text: str) -> Any:
    return _parse_json(text) if text.startswith("[") else text


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ValueError(f"not JSON: {exc}") from None


def _parse_any(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        if text[:1] in "[{":
            raise ValueError("starts like JSON and is none") from None
        return text


_CONVERTERS: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "str": _text,
    "int": _whole,
    "float": _number,
    "bool": _truth,
    "list": _items,
    "dict": _table,
    "seconds": seconds,
    "bytes": size,
    "any": _anything,
}
_PARSERS: Final[Mapping[Kind, Callable[[str], Any]]] = {
    "str": _anything,
    "int": _parse_int,
    "float": _parse_float,
    "bool": _parse_bool,
    "list": _parse_list,
    "dict": _parse_json,
    "seconds": _anything,
    "bytes": _anything,
    "any": _parse_any,
}
