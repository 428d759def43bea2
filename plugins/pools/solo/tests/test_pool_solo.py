from __future__ import annotations

from kernel_pool_solo import SoloPool

from kernel.testing.conformance.pool import PoolConformance


class TestSoloPool(PoolConformance):
    pool = SoloPool
    slots = 1
