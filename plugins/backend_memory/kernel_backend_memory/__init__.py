"""In-process result backend for kernel."""

from __future__ import annotations

from kernel_backend_memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]
