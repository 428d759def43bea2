from __future__ import annotations

from kernel_compressor_brotli import BrotliCompressor

from kernel.testing.conformance.compressor import CompressorConformance


class TestBrotliCompressor(CompressorConformance):
    compressor = BrotliCompressor
    checksum = False
