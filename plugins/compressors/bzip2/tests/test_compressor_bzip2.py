from __future__ import annotations

from kernel_compressor_bzip2 import Bzip2Compressor

from kernel.testing.conformance.compressor import CompressorConformance


class TestBzip2Compressor(CompressorConformance):
    compressor = Bzip2Compressor
