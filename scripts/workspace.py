"""The distributions of this workspace, read from the files that declare them. Standard library only.

`python scripts/workspace.py` prints one folder a line; with `packages`, one import package a line, as a path.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GENERATED = frozenset({".git", ".venv", ".venv-peers", "dist", "build", ".kernel", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution: its folder, and what its `pyproject.toml` says."""

    folder: Path
    data: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.data["project"]["name"])

    @property
    def version(self) -> str:
        return str(self.data["project"]["version"])

    @property
    def package(self) -> Path:
        """The folder of its import package."""
        return self.folder / self.name.replace("-", "_")

    @property
    def extras(self) -> dict[str, list[str]]:
        return dict(self.data["project"].get("optional-dependencies", {}))

    @property
    def entry_points(self) -> dict[str, dict[str, str]]:
        return dict(self.data["project"].get("entry-points", {}))

    @property
    def optional(self) -> list[str]:
        """What its extras ask of the index. Those of `kernel` name other distributions of the workspace."""
        wanted = [line for lines in self.extras.values() for line in lines]
        return sorted({line for line in wanted if not line.startswith("kernel-")})


def read(folder: Path) -> Distribution:
    return Distribution(folder, tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")))


def distributions(root: Path = ROOT) -> list[Distribution]:
    """The kernel first, then every member of the workspace in the order of its path."""
    kernel = read(root)
    folders = {
        path.parent
        for pattern in kernel.data["tool"]["uv"]["workspace"]["members"]
        for path in root.glob(f"{pattern}/pyproject.toml")
    }
    return [kernel, *(read(folder) for folder in sorted(folders))]


def tracked(root: Path = ROOT) -> list[Path]:
    """Every file of the project: what git tracks or would track; without git, what is not generated."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(listing, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
        paths = [root / name for name in found if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for path in root.rglob("*") if not GENERATED.intersection(path.relative_to(root).parts)]
    return sorted(path for path in paths if path.is_file())


def main(arguments: list[str]) -> int:
    for distribution in distributions():
        path = distribution.package if arguments == ["packages"] else distribution.folder
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
