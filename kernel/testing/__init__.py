"""What tests of the kernel, of its plugins and of its users stand on. Nothing here is imported by the kernel."""

from __future__ import annotations

__all__: list[str] = []
