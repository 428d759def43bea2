"""Zstandard for kernel."""

from __future__ import annotations

from typing import Final

import zstandard

from kernel import errors
from kernel.interfaces.serializer import INTERFACE

__all__ = ["ZstdCompressor"]

# RFC 8878, 3.1.1.1.2: a decoder should take windows of up to 8 MiB, and may refuse larger ones.
_WINDOW: Final = 8 * 2**20
# A block is four bytes at least and inflates to 128 KiB at most. The decoder has no limit on its output but
# returns after each piece of input, so pieces are so small that one cannot become more than 8 MiB.
_PIECE: Final = 256


class ZstdCompressor:
    """See `kernel.interfaces.serializer.Compressor`. One frame; a second one is taken for trailing garbage."""

    interface = INTERFACE
    name = "zstd"
    content_type = "application/zstd"

    def compress(self, data: bytes) -> bytes:
        # With the checksum a flipped bit is an error, and not another argument; it costs four bytes.
        return zstandard.ZstdCompressor(write_checksum=True).compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        inflater = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        pieces: list[bytes] = []
        size = at = 0
        try:
            while at < len(data) and not inflater.eof:
                piece = inflater.decompress(data[at : at + _PIECE])
                at += _PIECE
                if piece:
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        raise errors.PayloadTooLarge(
                            f"{len(data)} bytes of Zstandard data inflate to more than {limit} bytes"
                        )
        except zstandard.ZstdError as exc:
            if "too much memory" in str(exc):
                raise errors.PayloadTooLarge(f"Zstandard data with a window over {_WINDOW >> 20} MiB") from exc
            raise errors.DecodeError(f"damaged Zstandard data ({len(data)} bytes): {exc}") from exc
        if not inflater.eof:
            raise errors.DecodeError(f"truncated Zstandard data: it ends after {len(data)} bytes, before its end")
        if inflater.unused_data or at < len(data):
            raise errors.DecodeError("bytes follow the end of the Zstandard frame")
        return b"".join(pieces)
