"""Build a wheel of every distribution of the workspace into `dist/`. Needs hatchling, and no network.

`python scripts/wheels.py FOLDER` builds them elsewhere.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from hatchling.build import build_wheel
from workspace import ROOT, distributions


def build(target: Path) -> list[Path]:
    """Replace our wheels in `target` by fresh ones; other files there are left alone."""
    members = distributions()
    folder = str(target.resolve())
    for member in members:
        for old in target.glob(f"{member.name.replace('-', '_')}-*.whl"):
            old.unlink()
    for member in members:
        # As pip does it, without a process and an environment for each of them.
        with contextlib.chdir(member.folder):
            build_wheel(folder)
    built = [next(iter(target.glob(f"{member.name.replace('-', '_')}-{member.version}-*.whl"))) for member in members]
    return sorted(built)


def main(arguments: list[str]) -> int:
    target = Path(arguments[0]) if arguments else ROOT / "dist"
    target.mkdir(parents=True, exist_ok=True)
    wheels = build(target)
    print("\n".join(path.name for path in wheels))
    print(f"{len(wheels)} wheels in {target}; install with: pip install --find-links {target} 'kernel[sql]'")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
