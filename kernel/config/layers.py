"""The layers of an app's settings and how they become one: who wins, and what is refused or warned about."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from kernel.config import sources
from kernel.config.registry import KERNEL, Registry
from kernel.config.sources import Entry, Layer
from kernel.config.values import coerce, parse
from kernel.errors import ImproperlyConfigured
from kernel.interfaces.setting import Setting

Defaults = Callable[[], Mapping[str, Any]]

_OWN_MODULES: Final = ("kernel.config", "kernel.app", "collections")


class SettingsWarning(UserWarning):
    """A setting that works under another name, has no effect yet, or is probably misspelled."""


class ObjectSource:
    """What was given to `config_from_object`, read at need and once."""

    __slots__ = ("layer", "namespace", "silent", "source")

    def __init__(self, source: object, *, silent: bool = False, namespace: str | None = None) -> None:
        self.source = source
        self.silent = silent
        self.namespace = namespace
        self.layer: Layer | None = None

    @property
    def origin(self) -> str:
        if isinstance(self.source, str):
            return self.source
        if isinstance(self.source, Mapping):
            return "the dictionary given to config_from_object"
        return str(getattr(self.source, "__name__", type(self.source).__qualname__))

    def read(self, registry: Registry) -> Layer:
        source = self.source
        if isinstance(source, str):
            try:
                source = sources.load_object(source)
            except ImportError as exc:
                if self.silent:
                    return {}
                raise ImproperlyConfigured(f"the configuration {self.source!r} cannot be imported: {exc}") from exc
        return sources.read_object(source, registry, origin=self.origin, namespace=self.namespace)


class Layers:
    """Layers from the weakest to the strongest: given defaults, project file, code, environment, flags."""

    def __init__(self, *, directory: str | Path | None, environ: Mapping[str, str] | None) -> None:
        self.registry = Registry()
        self.told: set[str] = set()
        self.given_defaults: list[Layer | Defaults] = []
        self.code: list[Layer | ObjectSource] = []
        self.flags: Layer = {}
        self._directory = directory
        self._environ = environ
        self._module: ObjectSource | None = None
        self._project: Layer = {}
        self._environment: Layer = {}
        self._variables: dict[str, str] = {}
        self._defaults: dict[str, Any] = {}

    @property
    def environ(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ

    def checked(self, values: Mapping[str, Any], origin: str) -> Layer:
        """`values` as a layer under today's names. Names that nothing declares are kept as they are.

        Raises `InvalidSetting`; warns about old names and settings that are not served.
        """
        layer: Layer = {}
        for name, value in values.items():
            today = self.registry.canonical(name)
            layer[today] = Entry(value, origin, name if today != name and name.isupper() else "")
        self.check(layer, list(layer))
        return layer

    def check(self, layer: Layer, names: Iterable[str]) -> None:
        """Replace the values of `names` in `layer` by checked ones."""
        for name in names:
            entry = layer.get(name)
            if entry is None or name not in self.registry:
                continue
            setting = self.registry[name]
            layer[name] = Entry(coerce(setting, entry.value, entry.origin), entry.origin, entry.name)
            self._tell(setting, layer[name])

    def parsed(self, name: str, value: Any, origin: str) -> Any:
        """`value` of a flag: a text means what it would mean in an environment variable."""
        today = self.registry.canonical(name)
        if isinstance(value, str) and today in self.registry:
            return parse(self.registry[today], value, origin)
        return value

    def read(self) -> None:
        """Read what is outside the code. Raises `ImproperlyConfigured` and its kind."""
        self._variables = sources.snapshot(self.environ)
        self._environment = sources.read_environment(self._variables, self.registry)
        try:
            directory = Path.cwd() if self._directory is None else Path(self._directory)
            self._project = sources.read_pyproject(directory)
        except FileNotFoundError:  # the current directory was deleted
            self._project = {}
        self.check(self._project, list(self._project))
        for at, defaults in enumerate(self.given_defaults):
            if not isinstance(defaults, dict):
                self.given_defaults[at] = self.checked(defaults(), "add_defaults")
        module = next(filter(None, map(self._variables.get, sources.CONFIG_MODULE_VARIABLES)), None)
        self._module = ObjectSource(module) if module else None
        self.read_objects()

    def read_objects(self) -> None:
        """Read the objects of the code that were not read yet."""
        for source in [self._module, *self.code]:
            if isinstance(source, ObjectSource) and source.layer is None:
                layer = source.read(self.registry)
                self.check(layer, list(layer))
                source.layer = layer

    def read_declared(self, names: Iterable[str]) -> None:
        """Settings called `names` were declared: check what was set under them, and look into the environment."""
        names = list(names)
        for layer in self._all():
            self.check(layer, names)
        declared = [self.registry[name] for name in names]
        self._environment.update(sources.read_environment(self._variables, declared))

    def merge(self) -> Layer:
        """The entry that wins, for every name that has one."""
        merged: Layer = {}
        for layer in self._all():
            merged.update(layer)
        self._derive(merged)
        return merged

    def values(self, merged: Layer) -> dict[str, Any]:
        """Every value: defaults, and `merged` over them."""
        for setting in self.registry:
            if setting.name not in self._defaults:
                default = setting.default
                # An app's own copy, since code may edit a dictionary that it got from the settings.
                self._defaults[setting.name] = dict(default) if isinstance(default, dict) else default
        return {**self._defaults, **{name: entry.value for name, entry in merged.items()}}

    def forget_defaults(self, names: Iterable[str]) -> None:
        for name in names:
            self._defaults.pop(name, None)

    def unknown(self, merged: Layer) -> list[str]:
        return [name for name in merged if name not in self.registry]

    def near_misses(self) -> list[tuple[str, str]]:
        return [(name, near) for name, near in sources.near_misses(self._variables, self.registry)]

    def warn(self, key: str, message: str) -> None:
        """Warn once for each key, at the line outside this package's configuration that caused it."""
        if key not in self.told:
            self.told.add(key)
            warnings.warn(message, SettingsWarning, stacklevel=_depth_outside())

    def _all(self) -> list[Layer]:
        given = [layer for layer in self.given_defaults if isinstance(layer, dict)]
        code = [item.layer if isinstance(item, ObjectSource) else item for item in [self._module, *self.code]]
        return [*given, self._project, *(layer for layer in code if layer), self._environment, self.flags]

    def _derive(self, merged: Layer) -> None:
        """`visibility_timeout` is what Celery calls the lease; the setting of that name goes before."""
        options = merged.get("broker_transport_options")
        if options is None or "worker_lease" in merged or "visibility_timeout" not in options.value:
            return
        origin = f"broker_transport_options['visibility_timeout'] ({options.origin})"
        lease = coerce(self.registry["worker_lease"], options.value["visibility_timeout"], origin)
        merged["worker_lease"] = Entry(lease, origin)

    def _tell(self, setting: Setting, entry: Entry) -> None:
        if entry.name:
            self.warn(entry.name, f"{entry.name} is an old name: the setting is called {setting.name} ({entry.origin})")
        if not setting.served and entry.value != setting.default:
            self.warn(
                setting.name,
                f"the setting {setting.name} is kept but has no effect in this version ({entry.origin}). "
                f"What it is for: {setting.doc}",
            )

    def owner(self, name: str) -> str:
        """Who declared `name`, unless that is the kernel."""
        source = self.registry.source(name)
        return "" if source == KERNEL else source


def _depth_outside() -> int:
    """The `stacklevel` of the nearest caller that is not part of the configuration."""
    depth = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OWN_MODULES):
        frame = frame.f_back
        depth += 1
    return depth
