from __future__ import annotations

from kernel_compressor_zlib import ZlibCompressor

from kernel.testing.conformance.compressor import CompressorConformance


class TestZlibCompressor(CompressorConformance):
    compressor = ZlibCompressor
