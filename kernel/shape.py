"""Messages that are alike: most differ from the one before in a few texts, and the rest need not be read again."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from kernel.message import Message

TEXTS: Final = (
    "id",
    "task",
    "root_id",
    "parent_id",
    "group",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "shadow",
    "eta",
    "expires",
)
"""Headers that are texts, and that may differ between messages of one shape."""

NUMBERS: Final = ("group_index",)
"""The same for numbers from 0 to 2^31."""

Values = tuple[str | int, ...]

_KNOWN: Final = 256


class Shape:
    """What messages of one kind have in common: all of their headers and properties, but for the values of a few.

    `header_names` are of `TEXTS` and `NUMBERS`, and `property_names` of texts. The values of one message are those of
    its headers, and behind them those of its properties, in this order; `id` and `task` are never empty. `packed` is
    the shape in bytes, for our own pipes. `fields` is for `kernel.request`: what it has read of the common headers.
    """

    __slots__ = (
        "_headers",
        "_properties",
        "_property_copies",
        "copies",
        "fields",
        "header_names",
        "id_at",
        "packed",
        "places",
        "property_names",
        "task_at",
    )

    def __init__(
        self,
        headers: Mapping[str, Any],
        header_names: Sequence[str],
        properties: Mapping[str, Any],
        property_names: Sequence[str],
    ) -> None:
        """Of a message of this shape. Raises ValueError when there is anything in it but values of JSON."""
        self.header_names = tuple(header_names)
        self.property_names = tuple(property_names)
        self._headers = {name: None if name in self.header_names else value for name, value in headers.items()}
        self._properties = {name: None if name in self.property_names else value for name, value in properties.items()}
        self.places = {name: at for at, name in enumerate(self.header_names)}
        """Where the value of a header is that differs."""
        self.id_at, self.task_at = self.header_names.index("id"), self.header_names.index("task")
        self.packed = marshal.dumps((self._headers, self.header_names, self._properties, self.property_names))
        self.copies = _copies(self._headers)
        """The names of headers that are lists or objects, and what makes a copy of each: every message has its own."""
        self._property_copies = _copies(self._properties)
        self.fields: Mapping[str, Any] | None = None

    @staticmethod
    @lru_cache(maxsize=_KNOWN)
    def unpack(packed: bytes) -> Shape:
        """The shape that is `packed`; the same one for the same bytes."""
        return Shape(*marshal.loads(packed))  # noqa: S302 - made above, by a process of ours

    @property
    def common(self) -> Mapping[str, Any]:
        """The headers, with None in place of those that differ."""
        return self._headers

    def headers(self, values: Values) -> dict[str, Any]:
        """All headers of the message with these values, in the order in which they came."""
        found = self._headers.copy()
        found.update(zip(self.header_names, values, strict=False))
        for name, copy in self.copies:
            found[name] = copy()
        return found

    def properties(self, values: Values) -> dict[str, Any]:
        """The same for its properties."""
        found = self._properties.copy()
        found.update(zip(self.property_names, values[len(self.header_names) :], strict=False))
        for name, copy in self._property_copies:
            found[name] = copy()
        return found


def _copies(values: Mapping[str, Any]) -> list[tuple[str, Callable[[], Any]]]:
    """What makes a new one of each value that could be changed."""
    return [(name, _copy_of(value)) for name, value in values.items() if isinstance(value, list | dict)]


def _copy_of(value: list[Any] | dict[str, Any]) -> Callable[[], Any]:
    items = value.values() if isinstance(value, dict) else value
    return (
        partial(marshal.loads, marshal.dumps(value)) if any(isinstance(x, list | dict) for x in items) else value.copy
    )


class ShapedMessage(Message):
    """A message of which only its values are kept: the rest is that of its shape. Its headers as text are not those
    that came, but say the same."""

    __slots__ = ("shape", "values")

    shape: Shape
    values: Values

    def __init__(self, shape: Shape, values: Values, body: bytes, content_type: str, content_encoding: str) -> None:
        self.shape = shape
        self.values = values
        self.body = body
        self.content_type = content_type
        self.content_encoding = content_encoding
        self._leave_unread()

    @property
    def headers(self) -> dict[str, Any]:
        if self._headers is None:
            self._headers = self.shape.headers(self.values)
        return self._headers

    def header(self, name: str) -> Any:
        if self._headers is not None:
            return self._headers.get(name)
        shape = self.shape
        at = shape.places.get(name)
        return shape.common.get(name) if at is None else self.values[at]

    @property
    def id(self) -> str:
        return str(self.values[self.shape.id_at])

    @property
    def task(self) -> str:
        return str(self.values[self.shape.task_at])

    @property
    def properties(self) -> dict[str, Any]:
        if self._properties is None:
            self._properties = self.shape.properties(self.values)
        return self._properties

    @property
    def raw_headers(self) -> bytes:
        _ = self.headers
        return super().raw_headers

    @property
    def raw_properties(self) -> bytes:
        _ = self.properties
        return super().raw_properties

    @property
    def at_hand(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return self.headers, self.properties

    @property
    def size(self) -> int:
        return len(self.body) + len(self.shape.packed)
