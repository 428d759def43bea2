"""bzip2 for kernel."""

from __future__ import annotations

import bz2

from kernel import errors
from kernel.interfaces.serializer import INTERFACE

__all__ = ["Bzip2Compressor"]


class Bzip2Compressor:
    """See `kernel.interfaces.serializer.Compressor`. One stream; a second one is taken for trailing garbage."""

    interface = INTERFACE
    name = "bzip2"
    content_type = "application/x-bz2"

    def compress(self, data: bytes) -> bytes:
        return bz2.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        inflater = bz2.BZ2Decompressor()
        try:
            # One byte more than the limit shows that there is more; a negative length would mean "no limit".
            output = inflater.decompress(data, max(limit, 0) + 1)
        except (OSError, ValueError) as exc:
            raise errors.DecodeError(f"damaged bzip2 data ({len(data)} bytes): {exc}") from exc
        if len(output) > limit:
            raise errors.PayloadTooLarge(f"{len(data)} bytes of bzip2 data inflate to more than {limit} bytes")
        if not inflater.eof:
            raise errors.DecodeError(f"truncated bzip2 data: it ends after {len(data)} bytes, before its end mark")
        if inflater.unused_data:
            raise errors.DecodeError(f"{len(inflater.unused_data)} bytes follow the end of the bzip2 stream")
        return output
