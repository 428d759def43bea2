"""Make `.venv` with every distribution of the workspace installed editable. Standard library only.

Nothing is done when nothing changed: the stamp holds a digest of every file that decides what is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from workspace import ROOT, Distribution, distributions

VENV = ROOT / ".venv"
STAMP = VENV / "workspace.stamp"
PIP_DEADLINE = 900


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def digest(members: list[Distribution]) -> str:
    """Changes when anything changes that decides what `.venv` holds."""
    state = hashlib.sha256(f"{ROOT}\n{sys.version_info[:2]}".encode())
    inputs = [ROOT / "constraints.txt", ROOT / "requirements-dev.txt", Path(__file__)]
    for path in inputs + [member.folder / "pyproject.toml" for member in members]:
        state.update(str(path).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def environment() -> dict[str, str]:
    """pip's own settings of the machine (index, certificates) stay; only its chatter is turned off."""
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
    return {**os.environ, **quiet}


def usable() -> bool:
    """Whether `.venv` has a Python that is new enough and has pip."""
    probe = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([VENV / "bin/python", "-c", probe], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def create() -> None:
    """Make the environment; on Debian, where `venv` is a package of its own, install that first if we may."""
    make = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    say(f"creating {VENV.name} with Python {sys.version.split()[0]}")
    if subprocess.run(make, stdout=subprocess.DEVNULL, timeout=300).returncode == 0:
        return
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"this Python has no working venv module; installing {package}")
        subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.DEVNULL, timeout=300, check=True)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
        subprocess.run(install, stdout=subprocess.DEVNULL, timeout=600, check=True)
        if subprocess.run(make, stdout=subprocess.DEVNULL, timeout=300).returncode == 0:
            return
    sys.exit(f"setup: `{' '.join(make)}` failed. On Debian and Ubuntu: apt-get install {package}, then try again.")


def pip(*arguments: str) -> None:
    command = [str(VENV / "bin/python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *arguments]
    if subprocess.run(command, env=environment(), timeout=PIP_DEADLINE).returncode:
        sys.exit("setup: pip failed; its reason is above. Is the package index reachable from here?")


def install(members: list[Distribution]) -> None:
    say("installing the tools and libraries that constraints.txt pins")
    pip("-r", str(ROOT / "requirements-dev.txt"))
    say(f"installing {len(members)} distributions of the workspace, editable")
    # One call, so that pip finds each of ours for the others and never asks the index for one of their names.
    # The extras' requirements go beside them: pip 23 forgets an editable folder's own name once it has extras.
    targets = [part for member in members for part in ("-e", str(member.folder))]
    pip("--no-build-isolation", *targets, *(line for member in members for line in member.optional))


def main() -> int:
    began = time.monotonic()
    members = distributions()
    wanted = digest(members)
    if usable():
        if STAMP.exists() and STAMP.read_text(encoding="ascii") == wanted:
            return 0
    else:
        create()
    STAMP.unlink(missing_ok=True)
    install(members)
    STAMP.write_text(wanted, encoding="ascii")
    say(f"done in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
