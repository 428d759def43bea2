"""Importing the modules in which an app's tasks are."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

from kernel import errors

Packages = Iterable[str] | Callable[[], Iterable[str]] | None


@dataclass(frozen=True, slots=True)
class Discovery:
    """What `autodiscover_tasks` was told: import `related_name` of each of `packages` when the app loads."""

    packages: Packages
    related_name: str | None

    def run(self) -> list[ModuleType]:
        """The modules that there are, imported."""
        packages = self.packages() if callable(self.packages) else self.packages
        named = _django_packages() if packages is None else packages
        found = [import_related(package, self.related_name) for package in named]
        return [module for module in found if module is not None]


def _django_packages() -> Iterable[str]:
    """The packages of Django's INSTALLED_APPS. Raises `ImproperlyConfigured` where Django is not used."""
    apps = getattr(sys.modules.get("django.apps"), "apps", None)
    if apps is None:
        raise errors.ImproperlyConfigured(
            "autodiscover_tasks() without packages looks through Django's INSTALLED_APPS, and Django is not set up "
            "here: name the packages, as in app.autodiscover_tasks(['proj.shop'])"
        )
    return [config.name for config in apps.get_app_configs()]


def name_main(app: object) -> None:
    """Let the script that defines `app` be imported under its own name, too.

    ``python -m proj.app worker`` runs proj/app.py as ``__main__``. Without this, a module of tasks that says
    ``from proj.app import app`` would run it once more, and register its tasks with a second app that nobody runs.
    """
    main = sys.modules.get("__main__")
    if main is None or not any(value is app for value in vars(main).values()):
        return
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None) or ""
    name = spec.name if spec is not None else os.path.splitext(os.path.basename(file))[0]
    if not name or name in sys.modules:
        return
    sys.modules[name] = main
    package, _, last = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], last, main)


def import_modules(names: Iterable[str], *, setting: str) -> None:
    """Import each; errors inside a module pass through, a name that is no module is told with the setting."""
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
                raise errors.ImproperlyConfigured(
                    f"the module {name!r} in {setting} does not exist (in {exc.name!r}): it must be importable from "
                    "the directory of the worker, or be installed"
                ) from exc
            raise


def import_related(package: str, related_name: str | None) -> ModuleType | None:
    """Import ``package.related_name``, if there is one; the package alone without a name. Returns what it imported.

    The path of a class (``proj.apps.ShopConfig``) means the package above it. Errors inside the modules pass through.
    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as exc:
        parent = package.rpartition(".")[0]
        if not parent or exc.name != package:
            raise
        package = parent
        importlib.import_module(package)
    if related_name is None:
        return sys.modules[package]
    name = f"{package}.{related_name}"
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        # `package` is a plain module, which has nothing below it.
        spec = None
    return None if spec is None else importlib.import_module(name)
