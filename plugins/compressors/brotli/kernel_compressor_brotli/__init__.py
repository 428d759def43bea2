"""Brotli for kernel."""

from __future__ import annotations

from typing import Final

import brotli

from kernel import errors
from kernel.interfaces.serializer import INTERFACE

__all__ = ["BrotliCompressor"]

_PIECE: Final = 2**20
# The library's own default (11) is for files that are compressed once; it takes a second for 2 MB.
_QUALITY: Final = 5


class BrotliCompressor:
    """See `kernel.interfaces.serializer.Compressor`."""

    interface = INTERFACE
    name = "brotli"
    content_type = "application/x-brotli"

    def compress(self, data: bytes) -> bytes:
        compressed: bytes = brotli.compress(data, quality=_QUALITY)
        return compressed

    def decompress(self, data: bytes, limit: int) -> bytes:
        inflater = brotli.Decompressor()
        pieces: list[bytes] = []
        size, more = 0, data
        try:
            while not inflater.is_finished():
                piece = inflater.process(more, output_buffer_limit=min(max(limit - size, 0) + 1, _PIECE))
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise errors.PayloadTooLarge(f"{len(data)} bytes of Brotli data inflate to more than {limit} bytes")
                if inflater.can_accept_more_data() and not inflater.is_finished():
                    raise errors.DecodeError(f"truncated Brotli data: it ends after {len(data)} bytes, before its end")
                more = b""
        except brotli.error as exc:
            raise errors.DecodeError(f"damaged Brotli data, or bytes after its end ({len(data)} bytes)") from exc
        return b"".join(pieces)
