"""Public is a list: what a package shows is what its `__all__` says."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from workspace import distributions

PACKAGES = [distribution.package.name for distribution in distributions()]
ROOMS = ["kernel", "kernel.testing"]


def shown(module: ModuleType) -> set[str]:
    """Names of our own that a user can reach without an underscore; what was imported from elsewhere is no promise."""
    own = module.__name__.partition(".")[0]
    found = set()
    for name in dir(module):
        value = getattr(module, name)
        home = str(getattr(value, "__module__", ""))
        if not name.startswith("_") and not isinstance(value, ModuleType) and home.partition(".")[0] == own:
            found.add(name)
    return found


@pytest.mark.parametrize("name", sorted({*PACKAGES, *ROOMS}))
def test_all_is_what_is_shown(name: str) -> None:
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    assert listed is not None, f"{name} has no __all__"
    assert list(listed) == sorted(set(listed), key=str), f"{name}.__all__ is not sorted or has doubles"
    assert shown(module) - set(listed) == set(), f"{name} shows names that __all__ lacks"
    for public in listed:
        assert hasattr(module, public), f"{name}.__all__ lists {public}, which is not there"


def test_the_names_that_users_begin_with() -> None:
    import kernel

    assert {"Kernel", "Task", "AsyncResult"} <= set(kernel.__all__)
