from __future__ import annotations

from kernel_pool_prefork import PreforkPool

from kernel.testing.conformance.pool import PoolConformance


class TestPreforkPool(PoolConformance):
    pool = PreforkPool
