"""`DeferredMessage`: one that is most likely run where it was made, so that its body need not be written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernel.interfaces.serializer import Serializer
from kernel.message import Message


class Unwritten:
    """A body whose chain is left as it is in memory. `start` is the body without it, serialized by `codec`: whoever
    runs the task gets what a reader of the message would get. `size` is about that of the whole in bytes."""

    __slots__ = ("chain", "codec", "size", "start")

    def __init__(self, codec: Serializer, start: bytes, chain: Sequence[Any], *, size: int) -> None:
        self.codec = codec
        self.start = start
        self.chain = chain
        self.size = size

    def whole(self, start: Sequence[Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """``(args, kwargs, embed)`` of the body, of what `start` was read as."""
        args, kwargs, embed = start
        return args, kwargs, {**embed, "chain": [*self.chain]}


class DeferredMessage(Message):
    """Its body is written when somebody asks for it, by the serializer that has read what the chain is of."""

    __slots__ = ("_written", "unwritten")

    def __init__(self, headers: str, unwritten: Unwritten, **facts: Any) -> None:
        self.unwritten = unwritten
        self._written = b""
        super().__init__(headers, b"", **facts)

    @property
    def body(self) -> bytes:
        if not self._written:
            codec = self.unwritten.codec
            self._written = codec.dumps(self.unwritten.whole(codec.loads(self.unwritten.start)))
        return self._written

    @body.setter
    def body(self, value: bytes) -> None:
        self._written = value

    @property
    def size(self) -> int:
        return len(self._written) or self.unwritten.size


def message_of(headers: str, body: bytes | Unwritten, **facts: Any) -> Message:
    """A message with this body, as `Message` takes the rest."""
    return DeferredMessage(headers, body, **facts) if isinstance(body, Unwritten) else Message(headers, body, **facts)
