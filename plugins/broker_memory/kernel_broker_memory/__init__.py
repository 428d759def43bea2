"""In-process broker for kernel."""

from __future__ import annotations

from kernel_broker_memory.broker import MemoryBroker

__all__ = ["MemoryBroker"]
