"""Tasks that are published when a session of SQLAlchemy commits, for kernel.

SQLAlchemy itself is imported when a session is met, and not before.
"""

from __future__ import annotations

from typing import Final

from kernel_contrib_sqlalchemy.plugin import Sessions

__all__ = ["Sessions", "plugin"]

plugin: Final = Sessions()
"""The hook plugin."""
