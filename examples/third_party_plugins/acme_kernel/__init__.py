"""Plugins for kernel by Acme. Importing this package loads none of them."""

from __future__ import annotations

__all__: list[str] = []
