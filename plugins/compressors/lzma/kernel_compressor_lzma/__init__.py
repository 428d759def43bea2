"""LZMA for kernel: the .xz format out, .xz and .lzma in."""

from __future__ import annotations

import lzma
from typing import Final

from kernel import errors
from kernel.interfaces.serializer import INTERFACE

__all__ = ["LzmaCompressor"]

# A header may ask for a dictionary of 4 GiB. Presets up to 8 need 33 MiB or less; peers write preset 6 (9 MiB).
_MEMORY: Final = 40 * 2**20


class LzmaCompressor:
    """See `kernel.interfaces.serializer.Compressor`. One stream; a second one is taken for trailing garbage."""

    interface = INTERFACE
    name = "lzma"
    content_type = "application/x-lzma"

    def compress(self, data: bytes) -> bytes:
        return lzma.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        inflater = lzma.LZMADecompressor(memlimit=_MEMORY)
        try:
            # One byte more than the limit shows that there is more; a negative length would mean "no limit".
            output = inflater.decompress(data, max(limit, 0) + 1)
        except lzma.LZMAError as exc:
            if "Memory usage limit" in str(exc):
                raise errors.PayloadTooLarge(
                    f"LZMA data that needs more than {_MEMORY >> 20} MiB of memory to inflate; use preset 8 or lower"
                ) from exc
            raise errors.DecodeError(f"damaged LZMA data ({len(data)} bytes): {exc}") from exc
        if len(output) > limit:
            raise errors.PayloadTooLarge(f"{len(data)} bytes of LZMA data inflate to more than {limit} bytes")
        if not inflater.eof:
            raise errors.DecodeError(f"truncated LZMA data: it ends after {len(data)} bytes, before its end mark")
        if inflater.unused_data:
            raise errors.DecodeError(f"{len(inflater.unused_data)} bytes follow the end of the LZMA stream")
        return output
