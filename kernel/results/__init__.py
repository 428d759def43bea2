"""What `kernel.result` and `kernel.groupresult` are made of."""

from __future__ import annotations

__all__: list[str] = []
