"""Content headers of plain calls: of each task's messages what they have in common is written once."""

from __future__ import annotations

import struct
from typing import Final

from kernel_lib_amqp import properties, tables
from kernel_lib_amqp.frames import short

from kernel.message import CALL_HEADERS, Filled, Form, Message
from kernel_broker_amqp import envelope

_MOST: Final = 1000
_KNOWN: Final = {*properties.OCTETS, "reply_to"}
# Names of fields, with the sign for a text behind them.
_ID, _ROOT, _PARENT, _ARGS, _KWARGS = (short(name) + b"S" for name in CALL_HEADERS)
_NO_PARENT: Final = short(CALL_HEADERS[2]) + b"V"
_LONGEST_ID: Final = 64
_PERSISTENT: Final = 2
_pack_long = struct.Struct(">I").pack


class _Cut:
    """The content header of a form, cut where the values of one call go in."""

    __slots__ = ("after", "before", "closing", "mode", "opening", "priority")

    def __init__(self, form: Form) -> None:
        known = form.properties
        self.mode, self.priority = known.get("delivery_mode"), known.get("priority")
        if known.keys() - _KNOWN or not known.keys() >= {*properties.OCTETS}:
            raise ValueError("properties that no plain call has")
        whole = properties.dump(form.content_type, form.content_encoding, b"", {**known, "correlation_id": ""})
        start = 2 + len(short(form.content_type)) + len(short(form.content_encoding))
        # The two octets come first, then the correlation id, which has no length here, then the address for replies.
        self.opening, octets, self.closing = whole[:start], whole[start : start + 2], whole[start + 3 :]
        self.before = tables.dump(form.before)[4:]
        # With all that follows up to the correlation id.
        self.after = tables.dump(form.after)[4:] + octets


def _fill(cut: _Cut, filled: Filled) -> bytes:
    task_id, root_id, parent_id, argsrepr, kwargsrepr = filled[1]
    raw = task_id.encode("utf-8", "surrogatepass")
    args, kwargs = argsrepr.encode("utf-8", "surrogatepass"), kwargsrepr.encode("utf-8", "surrogatepass")
    size = _pack_long(len(raw))
    table = [cut.before, _ID, size, raw, _ROOT]
    if root_id is task_id:
        table += (size, raw)
    else:
        root = root_id.encode("utf-8", "surrogatepass")
        table += (_pack_long(len(root)), root)
    if parent_id is None:
        table.append(_NO_PARENT)
    else:
        parent = parent_id.encode("utf-8", "surrogatepass")
        table += (_PARENT, _pack_long(len(parent)), parent)
    table += (_ARGS, _pack_long(len(args)), args, _KWARGS, _pack_long(len(kwargs)), kwargs, cut.after)
    inner = b"".join(table)
    return b"".join((cut.opening, _pack_long(len(inner) - 2), inner, bytes((len(raw),)), raw, cut.closing))


class Heads:
    """Usable from any thread."""

    def __init__(self) -> None:
        self._cuts: dict[Form, _Cut | None] = {}

    def head(self, message: Message, *, priority: int, persistent: bool) -> bytes:
        """As `envelope.head`, which does what this cannot."""
        filled = message.filled
        if filled is not None:
            cut = self._cut(filled[0])
            same = cut is not None and priority == cut.priority and persistent == (cut.mode == _PERSISTENT)
            # A longer one may not fit a correlation id: that is refused with the reason there.
            if cut is not None and same and len(filled[1][0]) < _LONGEST_ID:
                return _fill(cut, filled)
        return envelope.head(message, priority=priority, persistent=persistent)

    def _cut(self, form: Form) -> _Cut | None:
        try:
            return self._cuts[form]
        except KeyError:
            pass
        if len(self._cuts) >= _MOST:
            self._cuts.clear()
        try:
            cut = _Cut(form)
        except (ValueError, TypeError, OverflowError):
            cut = None
        self._cuts[form] = cut
        return cut
