"""Where values of settings come from: objects and modules, pyproject.toml, the environment."""

from __future__ import annotations

import importlib
import json
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kernel.config import names as config_names
from kernel.config.registry import Registry
from kernel.config.values import parse
from kernel.errors import ImproperlyConfigured, InvalidSetting
from kernel.interfaces.setting import Setting

ENV_PREFIX: Final = "KERNEL_"

CELERY_VARIABLES: Final[Mapping[str, str]] = {
    "broker_url": "CELERY_BROKER_URL",
    "broker_read_url": "CELERY_BROKER_READ_URL",
    "broker_write_url": "CELERY_BROKER_WRITE_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
}
"""Variables of Celery's that count as well; the KERNEL_ one of the same setting wins."""

CONFIG_MODULE_VARIABLES: Final = ("KERNEL_CONFIG_MODULE", "CELERY_CONFIG_MODULE")

NOT_SETTINGS: Final = frozenset({"app"})
"""Keys of ``[tool.kernel]`` that belong to the command line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and where it came from, in words. `name` is the one that was used, when it is an old one."""

    value: Any
    origin: str
    name: str = ""


Layer = dict[str, Entry]


def load_object(path: str) -> object:
    """The module, or the object in one, that ``module``, ``module:attr`` or ``module.attr`` names.

    Raises ImportError when there is none; errors inside the module pass through.
    """
    module_name, colon, attribute = path.partition(":")
    if colon:
        return _attribute(importlib.import_module(module_name), attribute, path)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as exc:
        parent, dot, last = path.rpartition(".")
        if not dot or exc.name is None or not (path == exc.name or path.startswith(f"{exc.name}.")):
            raise
        return _attribute(importlib.import_module(parent), last, path)


def _attribute(module: object, dotted: str, path: str) -> object:
    target = module
    for part in dotted.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise ImportError(f"{path!r} names {part!r}, which {target!r} does not have") from None
    return target


def read_object(source: object, registry: Registry, *, origin: str, namespace: str | None = None) -> Layer:
    """The settings in a mapping, module, class or instance, under today's names.

    With a namespace, names that carry it (``CELERY_TASK_SERIALIZER``). Without one, today's names or the old
    upper-case ones, not both. Raises `ImproperlyConfigured` on a mixture. Names that nothing declares are kept when
    they look like settings, so that the caller can refuse them.
    """
    pairs = list(_pairs(source))
    given = isinstance(source, Mapping)
    if namespace:
        return _read_namespace(pairs, registry, origin=origin, namespace=namespace)
    layer: Layer = {}
    old: dict[str, str] = {}
    for name, value in pairs:
        today = registry.canonical(name)
        if name != today and name.isupper():
            old[name] = today
        elif today in registry:
            layer[today] = Entry(value, origin)
        elif given or _is_typo(name, value, registry):
            layer[name] = Entry(value, origin)
    _refuse_mixture(old, layer, origin)
    values = dict(pairs)
    for name, today in old.items():
        layer.setdefault(today, Entry(values[name], f"{origin}, as {name}", name))
    return layer


def _pairs(source: object) -> Iterator[tuple[str, Any]]:
    if isinstance(source, Mapping):
        for key, value in source.items():
            if not isinstance(key, str):
                raise InvalidSetting(f"names of settings are texts; {key!r} is a {type(key).__name__}")
            yield key, value
        return
    for name in dir(source):
        if name.startswith("_"):
            continue
        try:
            yield name, getattr(source, name)
        except AttributeError:  # a property, or something listed that is not there
            continue


def _is_typo(name: str, value: Any, registry: Registry) -> bool:
    """Whether a name in somebody's module is meant as a setting: modules hold imports and helpers, too."""
    if isinstance(value, types.ModuleType | type) or callable(value):
        return False
    if name.isupper():
        return name.startswith(("CELERY_", "CELERYD_", "CELERYBEAT_")) and bool(registry.nearest(name, cutoff=0.8))
    return name.islower() and bool(config_names.looks_like_setting(name) or registry.nearest(name, cutoff=0.85))


def _read_namespace(pairs: Iterable[tuple[str, Any]], registry: Registry, *, origin: str, namespace: str) -> Layer:
    prefix = namespace.upper().rstrip("_") + "_"
    layer: Layer = {}
    old: Layer = {}
    for name, value in pairs:
        if not name.upper().startswith(prefix):
            continue
        bare = name[len(prefix) :].lower()
        today = registry.canonical(bare)
        if today in registry:
            layer[today] = Entry(value, f"{origin}, as {name}")
        elif (was := config_names.current_name(name.upper())) is not None:
            old[was] = Entry(value, f"{origin}, as {name}", name)
        elif config_names.looks_like_setting(bare) or registry.nearest(bare, cutoff=0.85):
            layer[bare] = Entry(value, f"{origin}, as {name}")
    return {**old, **layer}


def _refuse_mixture(old: Mapping[str, str], new: Layer, origin: str) -> None:
    """Celery's rule: one source speaks the old names or today's; a setting given in both forms does not count."""
    only_old = {name: today for name, today in old.items() if today not in new}
    only_new = [name for name in new if name not in old.values()]
    if not only_old or not only_new:
        return
    renames = ", ".join(f"{name} -> {today}" for name, today in sorted(only_old.items()))
    raise ImproperlyConfigured(
        f"{origin} mixes old names of settings with today's ({', '.join(sorted(only_new)[:5])}). Rename: {renames}"
    )


def nearest_pyproject(directory: Path) -> Path | None:
    """The first pyproject.toml in `directory` or above it."""
    start = directory.absolute()
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            return path
    return None


def read_tool_table(path: Path) -> dict[str, Any]:
    """``[tool.kernel]`` of a pyproject.toml; empty without one. Raises `ImproperlyConfigured` on bad TOML."""
    import tomllib  # most processes find no such file

    try:
        text = path.read_bytes().decode()
        if "kernel" not in text:
            return {}
        table = tomllib.loads(text).get("tool", {}).get("kernel", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ImproperlyConfigured(f"{path} cannot be read: {exc}") from exc
    if not isinstance(table, dict):
        raise ImproperlyConfigured(f"[tool.kernel] in {path} is no table")
    return table


def read_pyproject(directory: Path) -> Layer:
    """The settings of the nearest pyproject.toml, values not checked."""
    path = nearest_pyproject(directory)
    if path is None:
        return {}
    origin = f"[tool.kernel] in {path}"
    table = {name.replace("-", "_"): value for name, value in read_tool_table(path).items()}
    return {name: Entry(value, origin) for name, value in table.items() if name not in NOT_SETTINGS}


def snapshot(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that may concern settings."""
    return {name: value for name, value in environ.items() if name.startswith((ENV_PREFIX, "CELERY_"))}


def read_environment(variables: Mapping[str, str], settings: Iterable[Setting]) -> Layer:
    """Values of `settings` from variables ``KERNEL_<NAME>``, ``KERNEL_<NAME>_FILE`` and four of Celery's.

    An empty variable counts as absent. Raises `InvalidSetting`.
    """
    layer: Layer = {}
    if not variables:
        return layer
    for setting in settings:
        found = _variable(variables, setting.name)
        if found is None:
            continue
        name, text = found
        layer[setting.name] = Entry(
            parse(setting, text, f"environment variable {name}"), f"environment variable {name}"
        )
    return layer


def _variable(variables: Mapping[str, str], setting: str) -> tuple[str, str] | None:
    names = [ENV_PREFIX + setting.upper()]
    names += [ENV_PREFIX + alias.upper() for alias, today in config_names.ALIASES.items() if today == setting]
    plain = next((name for name in names if variables.get(name)), None)
    file = next((f"{name}_FILE" for name in names if variables.get(f"{name}_FILE")), None)
    if plain and file:
        raise InvalidSetting(f"{plain} and {file} are both set; {setting} can come from one of them")
    if file:
        return file, _read_secret(file, variables[file])
    celery = CELERY_VARIABLES.get(setting, "")
    name = plain or (celery if variables.get(celery) else None)
    return (name, variables[name]) if name else None


def _read_secret(variable: str, path: str) -> str:
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSetting(f"{variable} names the file {path!r}, which cannot be read: {exc}") from exc
    return text.rstrip("\r\n")


def near_misses(variables: Mapping[str, str], registry: Registry) -> Iterator[tuple[str, str]]:
    """Variables ``KERNEL_...`` that are no setting but spelled almost like one, with that one.

    Other software uses the prefix, too: what is not near is not ours to mention.
    """
    for name in variables:
        if not name.startswith(ENV_PREFIX):
            continue
        bare = name.removeprefix(ENV_PREFIX).lower()
        plain = bare.removesuffix("_file")
        if plain in registry or plain in config_names.ALIASES:
            continue
        near = registry.nearest(plain, count=1, cutoff=0.9)
        if near:
            yield name, near[0]


def read_arguments(argv: Iterable[str], registry: Registry, namespace: str) -> dict[str, Any]:
    """Values by name from texts ``key=value``; a text without a cast stays a text. Raises `ImproperlyConfigured`."""
    values: dict[str, Any] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip("."):
            raise ImproperlyConfigured(f"{argument!r} sets nothing: write name=value")
        name = f"{namespace}_{key[1:]}" if key.startswith(".") else key.replace(".", "_", 1)
        for candidate in (name, name.upper(), name.removeprefix(f"{namespace}_")):
            if registry.canonical(candidate) in registry:
                name = registry.canonical(candidate)
                break
        values[name] = _cast(text, argument)
    return values


def _cast(text: str, argument: str) -> Any:
    kind, close, rest = text[1:].partition(")")
    if not text.startswith("(") or not close or kind not in _CASTS:
        return text
    try:
        return _CASTS[kind](rest)
    except ValueError as exc:
        raise ImproperlyConfigured(f"the value in {argument!r} is no {kind}: {exc}") from None


_CASTS: Final[Mapping[str, Callable[[str], Any]]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: text.lower() in ("1", "true", "yes", "on"),
    "json": json.loads,
    "tuple": json.loads,
    "list": json.loads,
    "dict": json.loads,
}
