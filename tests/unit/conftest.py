"""Distributions that exist for one test."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest


class Installer:
    """Puts distributions with entry points and modules where Python and stevedore find them, as pip would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: set[str] = set()

    def add(
        self,
        distribution: str,
        version: str = "1.0",
        *,
        points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """`points` are names and targets by group; `modules` are sources by module name."""
        where = folder or self.folder
        info = where / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        sections = [
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in names.items())
            for group, names in points.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(sections))
        for name, source in (modules or {}).items():
            (where / f"{name}.py").write_text(textwrap.dedent(source))
            self.modules.add(name)
        self.refresh()

    @staticmethod
    def refresh() -> None:
        """What a new process would do: forget what was read."""
        from stevedore import ExtensionManager, _cache

        ExtensionManager.ENTRY_POINT_CACHE.clear()
        _cache._c._internal.clear()
        importlib.invalidate_caches()


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    from stevedore import _cache

    # Nothing of a test goes into the cache on disk that other programs of this user read.
    monkeypatch.setattr(_cache._c, "_disable_caching", True)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made = Installer(folder)
    made.refresh()
    yield made
    for name in made.modules:
        sys.modules.pop(name, None)
    monkeypatch.undo()
    made.refresh()
