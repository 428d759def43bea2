"""The settings of an app: declared in one registry, read from seven layers, each value with its origin."""

from __future__ import annotations

from kernel.config.settings import DEFAULT, Settings, SettingsWarning, version
from kernel.config.values import mask_url

__all__ = ["DEFAULT", "Settings", "SettingsWarning", "mask_url", "version"]
