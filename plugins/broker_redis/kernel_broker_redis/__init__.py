"""Redis broker for kernel."""

from __future__ import annotations

from kernel_broker_redis.broker import RedisBroker

__all__ = ["RedisBroker"]
