from __future__ import annotations

from kernel_pool_asyncio import AsyncioPool

from kernel.testing.conformance.pool import PoolConformance


class TestAsyncioPool(PoolConformance):
    pool = AsyncioPool
