"""From what `-A` says to the app. Needs nothing of the command line; the worker's fork server uses it, too."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from kernel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from kernel.app import Kernel

ATTRIBUTES: Final = ("app", "celery", "kernel")

NO_APP: Final = (
    "No app was given. Name its module with -A (`-A proj` or `-A proj.tasks:app`), in the variable KERNEL_APP, "
    'or as `app = "proj"` under [tool.kernel] in pyproject.toml.'
)


class AppNotFound(ImproperlyConfigured):
    """The app cannot be found or imported; the cause is chained."""


def find_app(path: str) -> Kernel:
    """The app that `path` names: ``module``, ``module:attribute`` or ``module.attribute``.

    In a module, that is `app`, `celery` or `kernel`, else its only app, else one found alike in ``module.celery``.
    The current directory is looked into first. Raises `AppNotFound`, saying what was looked at.
    """
    add_current_directory()
    module_name, colon, attribute = path.partition(":")
    _refuse_file_name(path, module_name)
    if colon and attribute:
        return _from_attribute(_import(module_name, path), attribute, path)
    module = _import_or_none(module_name, path)
    if module is not None:
        return _from_module(module, path)
    parent, dot, last = module_name.rpartition(".")
    owner = _import_or_none(parent, path) if dot else None
    if owner is None:
        raise AppNotFound(
            f"-A {path}: there is no module {module_name!r}. It was looked for in {os.getcwd()} and on Python's path; "
            "run the command in the folder that holds it, or use --workdir."
        )
    if not hasattr(owner, last):
        raise AppNotFound(
            f"-A {path}: the module {parent!r} has neither a submodule nor an attribute {last!r}{_apps_in(owner)}"
        )
    return _from_attribute(owner, last, path)


def app_path(given: str | None = None, environ: Mapping[str, str] | None = None) -> str | None:
    """What names the app: `given` (``-A``), KERNEL_APP, or `app` under ``[tool.kernel]`` of the nearest project."""
    path = given or (os.environ if environ is None else environ).get("KERNEL_APP")
    if path:
        return path
    from kernel.config import sources as config_sources  # not needed by `--help`

    project = config_sources.nearest_pyproject(Path.cwd())
    value = config_sources.read_tool_table(project).get("app") if project else None
    if value is not None and not isinstance(value, str):
        raise ImproperlyConfigured(f"`app` under [tool.kernel] in {project} is {value!r}; it names a module")
    return value


def add_current_directory() -> None:
    """Let modules of the current directory be imported, as `python -m` does."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _refuse_file_name(path: str, module_name: str) -> None:
    if module_name.endswith(".py") or "/" in module_name:
        name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise AppNotFound(f"-A {path}: that is a file's name; a module's is needed, such as `-A {name}`")
    if not module_name or not all(part.isidentifier() for part in module_name.split(".")):
        raise AppNotFound(f"-A {path}: that is no module's name; write `-A module` or `-A module:attribute`")


def _import(name: str, path: str) -> ModuleType:
    module = _import_or_none(name, path)
    if module is None:
        raise AppNotFound(
            f"-A {path}: there is no module {name!r}. It was looked for in {os.getcwd()} and on Python's path."
        )
    return module


def _import_or_none(name: str, path: str) -> ModuleType | None:
    """The module; None when it (and not something that it imports) does not exist."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if name == missing or name.startswith(f"{missing}."):
            # `a.b` of a module `a` that is no package is missing, too, and says "a.b" here.
            return None
        raise _import_failed(name, path, exc) from exc
    except (Exception, SystemExit) as exc:
        raise _import_failed(name, path, exc) from exc


def _import_failed(name: str, path: str, exc: BaseException) -> AppNotFound:
    where = ""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if "importlib" not in frame.filename]
    if isinstance(exc, SyntaxError) and exc.filename:
        where = f" ({exc.filename}:{exc.lineno})"
    elif len(frames) > 1:
        where = f" ({frames[-1].filename}:{frames[-1].lineno})"
    return AppNotFound(f"-A {path}: importing {name!r} failed: {type(exc).__name__}: {exc}{where}")


def _from_attribute(module: ModuleType, attribute: str, path: str) -> Kernel:
    from kernel.app import Kernel

    target: object = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise AppNotFound(f"-A {path}: {module.__name__!r} has no attribute {attribute!r}{_apps_in(module)}")
        target = getattr(target, part)
    if isinstance(target, ModuleType):
        return _from_module(target, path)
    if not isinstance(target, Kernel):
        raise AppNotFound(
            f"-A {path}: {attribute!r} is a {type(target).__qualname__}, and no Kernel app{_apps_in(module)}"
        )
    return target


def _from_module(module: ModuleType, path: str) -> Kernel:
    found = _search(module, path)
    if found is not None:
        return found
    looked = f"-A {path}: {module.__name__!r} ({getattr(module, '__file__', 'built in')}) holds no Kernel app: "
    looked += f"neither as {', '.join(ATTRIBUTES)} nor under any other name"
    if not hasattr(module, "__path__"):
        raise AppNotFound(f"{looked}.")
    inner = _import_or_none(f"{module.__name__}.celery", path)
    found = _search(inner, path) if inner is not None else None
    if found is None:
        raise AppNotFound(f"{looked}, and {module.__name__}.celery {'has none' if inner else 'does not exist'}.")
    return found


def _search(module: ModuleType, path: str) -> Kernel | None:
    from kernel.app import Kernel

    for name in ATTRIBUTES:
        # An `app` may be a web application, and `kernel` is often the imported package itself.
        candidate = vars(module).get(name)
        if isinstance(candidate, Kernel):
            return candidate
    apps = {id(value): value for value in vars(module).values() if isinstance(value, Kernel)}
    if len(apps) > 1:
        names = sorted(name for name, value in vars(module).items() if isinstance(value, Kernel))
        choice = " or ".join(f"-A {module.__name__}:{name}" for name in names)
        raise AppNotFound(f"-A {path}: {module.__name__!r} holds {len(apps)} apps; say which: {choice}")
    return next(iter(apps.values()), None)


def _apps_in(module: ModuleType) -> str:
    from kernel.app import Kernel

    names = sorted(name for name, value in vars(module).items() if isinstance(value, Kernel))
    return f". It has: {', '.join(names)}." if names else "."
