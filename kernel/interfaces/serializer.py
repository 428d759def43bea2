"""Serializers and compressors: bytes for values, and smaller bytes for bytes."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

INTERFACE = (1, 0)


@runtime_checkable
class Serializer(Protocol):
    """Stateless and usable from any thread.

    `safe` says that decoding bytes from a stranger runs no code of theirs. One with `takes_subclasses = True`, which
    need not be there, encodes classes derived from dict and list as these; the others are given none.
    """

    interface: tuple[int, int]
    name: str
    content_type: str
    content_encoding: str
    safe: bool

    def dumps(self, value: Any) -> bytes:
        """Raises `EncodeError` naming the place in the value (``kwargs['order'].created``) and its type."""
        ...

    def loads(self, data: bytes) -> Any:
        """Raises `DecodeError` on anything that is not of this format, whatever the bytes."""
        ...


@runtime_checkable
class Compressor(Protocol):
    """Stateless and usable from any thread. `content_type` is the value of the header `compression`."""

    interface: tuple[int, int]
    name: str
    content_type: str

    def compress(self, data: bytes) -> bytes: ...

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Raises `PayloadTooLarge` as soon as the output passes `limit` bytes, having held no more than about
        that much, and `DecodeError` on damaged or truncated data."""
        ...
