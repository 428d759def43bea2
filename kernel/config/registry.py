"""Which settings there are: the kernel's own, and what drivers and hook plugins declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kernel.config import catalogue as config_catalogue
from kernel.config import names as config_names
from kernel.config import unserved as config_unserved
from kernel.errors import ImproperlyConfigured, UnknownSetting
from kernel.interfaces.setting import Setting

KERNEL: Final = "kernel"

_OLD_PREFIXES: Final = (("celeryd_", "worker_"), ("celerybeat_", "beat_"), ("celery_", ""))


class Registry:
    """Settings by name, each with who declared it. Every app has its own."""

    def __init__(self) -> None:
        self._settings = {setting.name: setting for setting in config_catalogue.SERVED + config_unserved.UNSERVED}
        self._sources: dict[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._settings

    def __getitem__(self, name: str) -> Setting:
        return self._settings[name]

    def __iter__(self) -> Iterator[Setting]:
        return iter(self._settings.values())

    def source(self, name: str) -> str:
        """Who declared `name`: ``kernel`` or what was given to `declare`."""
        return self._sources.get(name, KERNEL)

    def canonical(self, name: str) -> str:
        """`name` itself when it is declared, else today's name of an old one, else `name`."""
        if name in self._settings:
            return name
        return config_names.current_name(name) or name

    def declare(self, settings: Iterable[Setting], source: str) -> list[str]:
        """Add settings; the names whose declaration is new or changed.

        Two sources may declare the same setting alike. A driver may serve a name that the kernel only knows.
        Raises `ImproperlyConfigured` when two declarations differ.
        """
        changed = []
        for setting in settings:
            standing = self._settings.get(setting.name)
            if standing is not None and (standing == setting or _alike(standing, setting)) and standing.served:
                continue
            if standing is not None and standing.served:
                raise ImproperlyConfigured(
                    f"{source} declares the setting {setting.name} as {_describe(setting)}, but "
                    f"{self.source(setting.name)} declares it as {_describe(standing)}: one of them needs another name"
                )
            if not setting.name.isidentifier() or setting.name != setting.name.lower() or setting.name.startswith("_"):
                raise ImproperlyConfigured(
                    f"{source} declares a setting called {setting.name!r}: a name is lower-case letters, digits and _"
                )
            self._settings[setting.name] = setting
            self._sources[setting.name] = source
            changed.append(setting.name)
        return changed

    def nearest(self, name: str, *, count: int = 3, cutoff: float = 0.75) -> list[str]:
        """Declared names that are spelled most like `name`, the nearest first."""
        from difflib import get_close_matches  # only errors need it

        wanted = self.canonical(name).lower()
        for old, new in _OLD_PREFIXES:
            if wanted.startswith(old):
                wanted = new + wanted.removeprefix(old)
                break
        return get_close_matches(wanted, list(self._settings), n=count, cutoff=cutoff)

    def unknown(self, name: str, origin: str) -> UnknownSetting:
        """The error for a name that nothing declares."""
        near = self.nearest(name)
        if near:
            advice = f"Did you mean {' or '.join(near)}?"
        else:
            advice = "`kernel config` lists all settings; one of a plugin is known once the plugin is installed."
        return UnknownSetting(f"there is no setting {name!r} (from {origin}). {advice}")


def _alike(one: Setting, other: Setting) -> bool:
    return one.kind == other.kind and one.default == other.default and one.choices == other.choices


def _describe(setting: Setting) -> str:
    return f"{setting.kind} with default {setting.default!r}"
