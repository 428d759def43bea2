"""Build a wheel of every distribution of the workspace into `dist/`. Needs hatchling, and no network.

`python scripts/wheels.py FOLDER` builds them elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from workspace import ROOT, distributions


def build(target: Path) -> list[Path]:
    """Replace our wheels in `target` by fresh ones; other files there are left alone."""
    members = distributions()
    for member in members:
        for old in target.glob(f"{member.name.replace('-', '_')}-*.whl"):
            old.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "-w", str(target), *(str(member.folder) for member in members)]
    subprocess.run(command, check=True, timeout=600)
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
