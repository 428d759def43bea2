"""The settings of an app: `app.conf`.

A setting's value comes from the last of these that has one: its default; defaults that `add_defaults` gave;
``[tool.kernel]`` of the nearest pyproject.toml; code (the constructor, `config_from_object`, attributes and
`update`, the later the stronger); environment variables ``KERNEL_<NAME>``; flags of the command line.

Objects, files and the environment are read at the first read of any setting, so that code may go on configuring
until then. Every value is checked where it enters. A read after that is one look into a dictionary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from kernel.config import sources
from kernel.config.catalogue import FIXED_WHILE_OPEN
from kernel.config.layers import Defaults, Layers, ObjectSource, SettingsWarning
from kernel.config.sources import Layer
from kernel.config.values import as_text, censor, jsonable, mask_url
from kernel.errors import ImproperlyConfigured
from kernel.interfaces.setting import Setting

__all__ = ["DEFAULT", "Settings", "SettingsWarning", "mask_url", "version"]

DEFAULT: Final = "default"


class Settings(Mapping[str, Any]):
    """Reads like a mapping and like an object; writes are checked at once.

    `values` are the constructor's settings, and `source` says in words where they were given. `directory` is
    where the search for pyproject.toml starts (None: the current one, when the settings are first read).
    `discover` is called when a name comes up that nothing has declared; it may call `declare`. Without it
    such names are kept, unread, until `validate`. `environ` stands in for the process's environment.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        directory: str | Path | None = None,
        discover: Callable[[], object] | None = None,
        environ: Mapping[str, str] | None = None,
        source: str = "the constructor",
    ) -> None:
        # Names without an underscore are settings, and their values live in the instance's own dictionary.
        self._lock = threading.RLock()
        self._layers = Layers(directory=directory, environ=environ)
        self._discover = discover
        self._asking = False
        self._entries: Layer = {}
        self._resolved = False
        self._resolving = False
        self._frozen: frozenset[str] = frozenset()
        if values:
            # Whoever makes these settings cannot be asked yet: only what is surely a slip is refused at once.
            self._asking = True
            self._write(values, source, cutoff=0.9 if discover else 0.8)
            self._asking = False

    # --- reading --------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Reached only by a name that is not in the instance's dictionary: all are there once the sources are read.
        if name.startswith("_"):
            raise AttributeError(name)
        self._resolve()
        today = self._layers.registry.canonical(name)
        if today in self.__dict__:
            return self.__dict__[today]
        near = ", ".join(self._layers.registry.nearest(name))
        raise AttributeError(f"there is no setting {name!r}" + (f"; nearest: {near}" if near else ""))

    def __getitem__(self, name: str) -> Any:
        if not isinstance(name, str) or name not in self:
            raise KeyError(name)
        return self.__dict__[self._layers.registry.canonical(name)]

    def __contains__(self, name: object) -> bool:
        self._resolve()
        return isinstance(name, str) and name[:1] != "_" and self._layers.registry.canonical(name) in self.__dict__

    def __iter__(self) -> Iterator[str]:
        self._resolve()
        return iter([name for name in self.__dict__ if name[0] != "_"])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Settings: {len(self._entries)} set>" if self._resolved else "<Settings: not read yet>"

    def find_option(self, name: str, namespace: str = "celery") -> Setting:
        """The declaration of `name` or of ``namespace_name``. Raises KeyError."""
        registry = self._layers.registry
        for candidate in (name, f"{namespace}_{name}", f"{namespace}_{name}".upper()):
            if registry.canonical(candidate) in registry:
                return registry[registry.canonical(candidate)]
        raise KeyError(name)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """The value of `name` or of ``namespace_name``. Raises KeyError."""
        return self[self.find_option(name, namespace).name]

    def get_by_parts(self, *parts: str) -> Any:
        """The value of the setting whose name is `parts` joined by underscores. Raises KeyError."""
        return self["_".join(filter(None, parts))]

    # --- writing --------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._write({name: value}, f"app.conf.{name}")

    def __setitem__(self, name: str, value: Any) -> None:
        self._write({name: value}, f"app.conf[{name!r}]")

    def __delattr__(self, name: str) -> None:
        """Forget what code set by attribute or `update`: what was there before counts again."""
        with self._lock:
            today = self._layers.registry.canonical(name)
            holders = [layer for layer in self._layers.code if isinstance(layer, dict) and today in layer]
            if not holders:
                raise AttributeError(f"{name} was not set by code")
            if today in self._frozen:
                raise self._frozen_error([today])
            for layer in holders:
                del layer[today]
            self._rebuild_if_resolved()

    def update(self, *mappings: Mapping[str, Any] | Iterable[tuple[str, Any]], **values: Any) -> None:
        """Set several: all of them or, when one is refused, none. Old names are understood."""
        merged: dict[str, Any] = {}
        for mapping in mappings:
            merged.update(mapping)
        self._write({**merged, **values}, "app.conf.update")

    def setdefault(self, name: str, value: Any) -> Any:
        """Set `name` unless something has set it; its value then."""
        if not self.value_set_for(name):
            self[name] = value
        return self[name]

    def add_defaults(self, defaults: Mapping[str, Any] | Defaults, source: str = "add_defaults") -> None:
        """Values that count where nothing else gives one. A callable is asked when the settings are first read."""
        with self._lock:
            given = self._layers.given_defaults
            if isinstance(defaults, Mapping):
                given.append(self._layers.checked(defaults, source))
            else:
                given.append(self._layers.checked(defaults(), source) if self._resolved else defaults)
            self._rebuild_if_resolved()

    def config_from_object(
        self, obj: object, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from a mapping, module, class or instance, or from what ``module``, ``module:attr`` or
        ``module.attr`` names, when they are first needed (at once with `force`).

        A second call replaces what the first one read. `silent` ignores an object that cannot be imported.
        """
        with self._lock:
            before = list(self._layers.code)
            self._layers.code = [item for item in before if not isinstance(item, ObjectSource)]
            self._layers.code.append(ObjectSource(obj, silent=silent, namespace=namespace))
            try:
                if force:
                    self._resolve()
                self._rebuild_if_resolved()
            except BaseException:
                self._layers.code = before
                raise

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """`config_from_object` of the module that an environment variable names. False when it names none and
        `silent` is given; without that, raises `ImproperlyConfigured`."""
        module = self._layers.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"the environment variable {variable_name} is not set; it should name the module of the settings"
            )
        self.config_from_object(module, silent=silent, force=force)
        return True

    def override(self, values: Mapping[str, Any], source: str = "the command line") -> None:
        """Set what wins over everything else: flags of the command line. A text is parsed as in a variable."""
        with self._lock:
            typed = {name: self._layers.parsed(name, value, source) for name, value in values.items()}
            self._refuse_misspelled(typed, source)
            layer = self._layers.checked(typed, source)
            self._refuse_frozen(layer)
            before = self._layers.flags
            self._layers.flags = {**before, **layer}
            try:
                self._rebuild_if_resolved()
            except BaseException:
                self._layers.flags = before
                raise

    def config_from_cmdline(self, argv: Iterable[str], namespace: str = "celery") -> None:
        """`override` from texts ``key=value``, where a key is ``ns.key``, ``ns_key`` or ``.key`` (of `namespace`).

        A value may say its type, as in ``(int)5`` or ``(json)[1]``. Raises `ImproperlyConfigured`.
        """
        self.override(sources.read_arguments(argv, self._layers.registry, namespace), "the command line")

    # --- plugins and drivers --------------------------------------------------------------------------------

    def declare(self, settings: Iterable[Setting], source: str) -> None:
        """Make settings of a driver or plugin known; what was set under their names before is checked now."""
        with self._lock:
            settings = list(settings)
            taken = [setting.name for setting in settings if hasattr(Settings, setting.name)]
            if taken:
                raise ImproperlyConfigured(
                    f"{source} declares a setting {taken[0]!r}, which is a method of the settings"
                )
            names = self._layers.registry.declare(settings, source)
            if names:
                self._layers.read_declared(names)
                self._layers.forget_defaults(names)
                self._rebuild_if_resolved()

    def driver_values(self, settings: Iterable[Setting]) -> dict[str, Any]:
        """The values of the settings that a driver class declares, by name."""
        return {setting.name: self[setting.name] for setting in settings}

    def validate(self) -> None:
        """Read everything, and raise `UnknownSetting` for what nothing has declared by now."""
        self._resolve()
        with self._lock:
            self._refuse_unknown()

    def freeze(self) -> None:
        """The drivers are open: what they were built from cannot be changed until `thaw`."""
        self.validate()
        declared = {setting.name for setting in self._layers.registry if self._layers.owner(setting.name)}
        self._frozen = frozenset(FIXED_WHILE_OPEN | declared)

    def thaw(self) -> None:
        """The drivers are closed."""
        self._frozen = frozenset()

    # --- telling --------------------------------------------------------------------------------------------

    @property
    def resolved(self) -> bool:
        """Whether objects, files and environment have been read."""
        return self._resolved

    def origin(self, name: str) -> str:
        """Where the value of `name` came from, in words; ``default`` when nothing set it. Raises KeyError."""
        if name not in self:
            raise KeyError(name)
        today = self._layers.registry.canonical(name)
        entry = self._entries.get(today)
        if entry is not None:
            return entry.origin
        owner = self._layers.owner(today)
        return f"{DEFAULT} of {owner}" if owner else DEFAULT

    def setting(self, name: str) -> Setting:
        """The declaration of `name`. Raises `UnknownSetting`."""
        registry = self._layers.registry
        today = registry.canonical(name)
        if today not in registry:
            raise registry.unknown(name, "the request")
        return registry[today]

    def settings(self) -> list[Setting]:
        """Every declaration, sorted by name."""
        return sorted(self._layers.registry, key=lambda setting: setting.name)

    def declared_by(self, name: str) -> str:
        """Who declared `name`: ``kernel``, or a driver or plugin."""
        return self._layers.registry.source(self._layers.registry.canonical(name))

    def value_set_for(self, name: str) -> bool:
        """Whether anything but a default gives `name` its value."""
        self._resolve()
        return self._layers.registry.canonical(name) in self._entries

    def changes(self) -> dict[str, Any]:
        """The values that differ from the defaults, by name."""
        registry = self._layers.registry
        return {
            name: self[name] for name in sorted(self) if name not in registry or self[name] != registry[name].default
        }

    without_defaults = changes

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Values by name; `censored` hides secrets, and passwords in URLs."""
        names = sorted(self) if with_defaults else list(self.changes())
        return {name: self.shown(name) if censored else self[name] for name in names}

    def shown(self, name: str) -> Any:
        """The value of `name` as it may be shown to anyone: secrets are stars. A default is no secret."""
        value = self[name]
        registry = self._layers.registry
        today = registry.canonical(name)
        if today not in registry:
            return censor(today, value)
        setting = registry[today]
        return value if value == setting.default else censor(today, value, secret=setting.secret)

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """`table` as lines ``name: value``."""
        return "\n".join(f"{name}: {as_text(value)}" for name, value in self.table(with_defaults, censored).items())

    def export(self) -> dict[str, Any]:
        """The values that JSON can hold, not censored, for the worker's own processes."""
        return {name: value for name, value in self.items() if jsonable(value)}

    def maybe_warn_deprecated_settings(self) -> bool:
        """Whether old names are in use; each was told of when it was read."""
        self._resolve()
        return any(entry.name for entry in self._entries.values())

    # --- inside ---------------------------------------------------------------------------------------------

    def _write(self, values: Mapping[str, Any], origin: str, *, cutoff: float = 0.8) -> None:
        with self._lock:
            self._refuse_misspelled(values, origin, cutoff=cutoff)
            layer = self._layers.checked(values, origin)
            self._refuse_frozen(layer)
            before = list(self._layers.code)
            last = before[-1] if before else None
            if isinstance(last, dict):
                self._layers.code = [*before[:-1], {**last, **layer}]
            else:
                self._layers.code = [*before, layer]
            try:
                self._rebuild_if_resolved()
            except BaseException:
                self._layers.code = before
                raise

    def _resolve(self) -> None:
        if self._resolved:
            return
        with self._lock:
            # Reading may ask plugins, which read settings: those see what is there so far.
            if self._resolved or self._resolving:
                return
            self._resolving = True
            try:
                self._layers.read()
                self._rebuild()
                if self._discover is not None:
                    self._refuse_unknown()
                self._resolved = True
            finally:
                self._resolving = False
                if not self._resolved:
                    self._forget_values()
            self._warn_near_misses()

    def _rebuild_if_resolved(self) -> None:
        if self._resolved or self._resolving:
            self._layers.read_objects()
            self._rebuild()
            if self._resolved and self._discover is not None:
                self._refuse_unknown()

    def _rebuild(self) -> None:
        entries = self._layers.merge()
        values = self._layers.values(entries)
        if self._frozen:
            self._refuse_frozen(entries)
        gone = [name for name in self.__dict__ if name[0] != "_" and name not in values]
        self.__dict__.update(values)
        # Last, since whoever takes it for a version of the values may be reading them.
        self._entries = entries
        for name in gone:
            self.__dict__.pop(name, None)

    def _forget_values(self) -> None:
        """After a failure: the next read must meet it again, not half of the settings."""
        for name in [name for name in self.__dict__ if name[0] != "_"]:
            self.__dict__.pop(name, None)

    def _refuse_unknown(self) -> None:
        """Raise for the first name that nothing declares, once whoever might declare it was asked."""
        if not self._layers.unknown(self._entries):
            return
        self._ask()
        for name in self._layers.unknown(self._entries):
            raise self._layers.registry.unknown(name, self._entries[name].origin)

    def _refuse_misspelled(self, values: Mapping[str, Any], origin: str, *, cutoff: float = 0.8) -> None:
        """Refuse at once what is nearly a setting, and anything unknown when all sources have been read."""
        registry = self._layers.registry
        for name in values:
            if not isinstance(name, str):
                raise ImproperlyConfigured(f"names of settings are texts, and {name!r} (from {origin}) is none")
            if registry.canonical(name) in registry:
                continue
            if (self._resolved and self._discover is not None) or registry.nearest(name, cutoff=cutoff):
                self._ask()
                if registry.canonical(name) not in registry:
                    raise registry.unknown(name, origin)

    def _ask(self) -> None:
        """Let plugins declare their settings; what they read or set meanwhile asks nobody."""
        if self._discover is None or self._asking:
            return
        self._asking = True
        try:
            self._discover()
        finally:
            self._asking = False

    def _refuse_frozen(self, layer: Layer) -> None:
        changed = [
            name for name, entry in layer.items() if name in self._frozen and self.__dict__.get(name) != entry.value
        ]
        if changed:
            raise self._frozen_error(changed)

    def _frozen_error(self, names: Iterable[str]) -> ImproperlyConfigured:
        return ImproperlyConfigured(
            f"{', '.join(sorted(names))} cannot be changed while the app is open: its drivers were built with it. "
            "Set it before the first task is sent, or call app.close() first."
        )

    def _warn_near_misses(self) -> None:
        if self._layers.near_misses():
            self._ask()
        for variable, near in self._layers.near_misses():
            self._layers.warn(
                variable, f"{variable} is no setting and was ignored; did you mean KERNEL_{near.upper()}?"
            )


version: Final[Callable[[Settings], object]] = attrgetter("_entries")
"""An object that is another one after each change of the settings. Before they are read it says nothing."""
