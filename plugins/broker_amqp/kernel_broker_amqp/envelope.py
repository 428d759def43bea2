"""Task messages as Celery puts them on AMQP: properties, a header table, and the body as it is.

What is ours alone is in one header, `STATE`: recorded starts, what an AMQP table cannot hold, and for dead letters
their story. It is taken out again before anyone sees the headers, as is what the server adds on the way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from kernel_lib_amqp import properties, tables

from kernel import errors
from kernel.message import Message

STATE: Final = "x-kernel"
_STATE_MARK: Final = b"\x08x-kernelF"
_OF_SERVER: Final = ("x-death", "x-delivery-count")
_ETA_MARK: Final = b"\x03etaS"
PRIVATE: Final = b"x-"
"""Without it there is nothing to be taken out."""
_PERSISTENT: Final = 2

State = Mapping[str, Any]


class AmqpMessage(Message):
    """A message as it came; nothing is decoded before it is asked for."""

    __slots__ = ("_at", "_flags", "_head", "_table")

    def __init__(self, head: bytes, body: bytes) -> None:
        self._head = head
        try:
            self.content_type, self.content_encoding, self._table, self._flags, self._at = properties.split(head)
        except errors.InvalidTaskError:
            # Whoever reads its headers hears why.
            self.content_type, self.content_encoding, self._table, self._flags, self._at = "", "", head[:0] + b"?", 0, 0
        self.body = body
        self._leave_unread()

    @property
    def headers(self) -> dict[str, Any]:
        if self._headers is None:
            found = tables.load(self._table) if self._table else {}
            self._headers = _public(found) if PRIVATE in self._table else found
        return self._headers

    @property
    def raw_headers(self) -> bytes:
        if self._raw_headers is None:
            self._raw_headers = _json(self.headers)
        assert isinstance(self._raw_headers, bytes)
        return self._raw_headers

    @property
    def properties(self) -> dict[str, Any]:
        if self._properties is None:
            found = properties.load(self._head, self._flags, self._at)
            added = state(self._table).get("bare", "") if _STATE_MARK in self._table else ""
            for name in added.split():
                found.pop(name, None)
            self._properties = found
        return self._properties

    @property
    def raw_properties(self) -> bytes:
        known = self.properties
        return _json(known) if known else b""

    @property
    def at_hand(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return self.headers, self.properties

    @property
    def size(self) -> int:
        return len(self.body) + len(self._head)

    @property
    def table(self) -> bytes:
        """The header table as it came, with its length."""
        return self._table


_encoder: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


def _json(value: Mapping[str, Any]) -> bytes:
    return _encoder(value).encode()


def _public(table: dict[str, Any]) -> dict[str, Any]:
    """The headers without what the broker and its server keep in them."""
    private = table.pop(STATE, None)
    if isinstance(private, dict) and isinstance(text := private.get("json"), str):
        table.update(json.loads(text))
    for name in [name for name in table if name.startswith("x-")]:
        if name in _OF_SERVER or name.startswith(("x-first-death-", "x-last-death-")):
            del table[name]
    return table


def state(table: bytes) -> State:
    """What we keep in a message; empty for most."""
    if _STATE_MARK not in table:
        return {}
    try:
        found = tables.load(table).get(STATE)
    except errors.InvalidTaskError:
        return {}
    return found if isinstance(found, dict) else {}


def state_of(message: Message) -> State:
    """The same of a message that came."""
    return state(message.table) if isinstance(message, AmqpMessage) else {}


def due_of(message: Message) -> float:
    """The time that a message which came names as its `eta`, in Unix seconds; 0 for none."""
    if isinstance(message, AmqpMessage) and _ETA_MARK not in message.table:
        return 0.0
    try:
        eta = message.header("eta")
        moment = datetime.fromisoformat(eta) if isinstance(eta, str) else None
    except (errors.InvalidTaskError, ValueError):
        return 0.0
    if moment is None:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def head(message: Message, *, priority: int = 0, persistent: bool = True, known: State | None = None) -> bytes:
    """The content header of a message, with `known` as our own state. Raises `InvalidTaskError` for what AMQP cannot
    carry."""
    try:
        given = message.properties
        private = dict(known or {})
        added = []
        if given.get("delivery_mode") is None:
            added.append("delivery_mode")
        if priority and given.get("priority") is None:
            added.append("priority")
        if added or priority != given.get("priority", 0) or not persistent:
            mode = _PERSISTENT if persistent else 1
            given = {**given, "delivery_mode": mode, "priority": priority or given.get("priority")}
        if added:
            private["bare"] = " ".join(added)
        return properties.dump(message.content_type, message.content_encoding, _table(message.headers, private), given)
    except (ValueError, TypeError, OverflowError) as exc:
        raise errors.InvalidTaskError(f"the message has no form in AMQP: {exc}") from exc


def _table(headers: Mapping[str, Any], private: dict[str, Any]) -> bytes:
    if not private:
        try:
            return tables.dump(headers)
        except (ValueError, TypeError):
            pass
    fitting, odd = dict(headers), {}
    for name, value in headers.items():
        try:
            tables.dump({name: value})
        except (ValueError, TypeError):
            odd[name] = fitting.pop(name)
    if odd:
        private["json"] = json.dumps(odd)
    return tables.dump({**fitting, STATE: private} if private else fitting)


def restated(message: Message, known: State) -> bytes:
    """The content header of a message that goes out again as it came, with another state of ours."""
    kept = {name: value for name, value in known.items() if value is not None}
    return head(message, priority=message.priority, persistent=message.properties.get("delivery_mode") != 1, known=kept)
