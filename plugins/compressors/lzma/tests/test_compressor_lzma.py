from __future__ import annotations

from kernel_compressor_lzma import LzmaCompressor

from kernel.testing.conformance.compressor import CompressorConformance


class TestLzmaCompressor(CompressorConformance):
    compressor = LzmaCompressor
