"""zlib streams for kernel, under the content type that Celery's peers call gzip."""

from __future__ import annotations

import zlib

from kernel import errors
from kernel.interfaces.serializer import INTERFACE

__all__ = ["ZlibCompressor"]


class ZlibCompressor:
    """See `kernel.interfaces.serializer.Compressor`. One raw zlib stream, and not the gzip file format."""

    interface = INTERFACE
    name = "zlib"
    content_type = "application/x-gzip"

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        inflater = zlib.decompressobj()
        try:
            # One byte more than the limit shows that there is more; zlib takes 0 for "no limit".
            output = inflater.decompress(data, max(limit, 0) + 1)
        except zlib.error as exc:
            raise errors.DecodeError(f"damaged zlib data ({len(data)} bytes): {exc}") from exc
        if len(output) > limit:
            raise errors.PayloadTooLarge(f"{len(data)} bytes of zlib data inflate to more than {limit} bytes")
        if not inflater.eof:
            raise errors.DecodeError(f"truncated zlib data: it ends after {len(data)} bytes, before its end mark")
        if inflater.unused_data:
            raise errors.DecodeError(f"{len(inflater.unused_data)} bytes follow the end of the zlib stream")
        return output
