"""Redis result backend for kernel."""

from __future__ import annotations

from kernel_backend_redis.backend import RedisBackend

__all__ = ["RedisBackend"]
