"""The hook plugins of an app: found, examined, bound, called."""

from __future__ import annotations

from kernel.extensions.hot import Bound, HotHooks
from kernel.extensions.manager import Extensions, PluginInfo
from kernel.extensions.watch import Running

__all__ = ["Bound", "Extensions", "HotHooks", "PluginInfo", "Running"]
