"""The result backend that sends each result to the process that called."""

from __future__ import annotations

from kernel_backend_rpc.backend import RpcBackend

__all__ = ["RpcBackend"]
