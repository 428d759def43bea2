"""The app: `Kernel`, and what it opens."""

from __future__ import annotations

from kernel.app.kernel import Kernel

__all__ = ["Kernel"]
