"""Many coroutines at once on one event loop; plain functions on threads beside it."""

from __future__ import annotations

from kernel_pool_asyncio.pool import AsyncioPool

__all__ = ["AsyncioPool"]
