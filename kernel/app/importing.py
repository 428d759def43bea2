"""Importing the modules in which an app's tasks are."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kernel import errors

Packages = Iterable[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Discovery:
    """What `autodiscover_tasks` was told: import `related_name` of each of `packages` when the app loads."""

    packages: Packages
    related_name: str | None

    def run(self) -> None:
        packages = self.packages() if callable(self.packages) else self.packages
        for package in packages:
            import_related(package, self.related_name)


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


def import_related(package: str, related_name: str | None) -> None:
    """Import ``package.related_name``, if there is one; the package alone without a name.

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
        return
    name = f"{package}.{related_name}"
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        # `package` is a plain module, which has nothing below it.
        spec = None
    if spec is not None:
        importlib.import_module(name)
