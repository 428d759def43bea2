"""Features that live on the hooks alone, with an outsider's rights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kernel.builtin.expiry import Expiry
from kernel.builtin.logs import TaskLogs

ESSENTIAL: Final = frozenset({"expiry"})
"""Names that `disable_plugins` cannot switch off: what they do is part of the message protocol."""


def default_plugins() -> Mapping[str, object]:
    """New instances of the built-in plugins, by name."""
    return {"expiry": Expiry(), "logs": TaskLogs()}
