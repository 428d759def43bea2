from __future__ import annotations

from kernel_compressor_zstd import ZstdCompressor

from kernel.testing.conformance.compressor import CompressorConformance


class TestZstdCompressor(CompressorConformance):
    compressor = ZstdCompressor
