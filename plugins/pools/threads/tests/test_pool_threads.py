from __future__ import annotations

from kernel_pool_threads import ThreadsPool

from kernel.testing.conformance.pool import PoolConformance


class TestThreadsPool(PoolConformance):
    pool = ThreadsPool
