"""See to it that the servers which the tests start themselves are installed. Standard library only.

As root on a machine with apt-get they are installed; elsewhere the packages are named. A server that is still
missing fails the run where ``CI`` is set, and makes its tests skip everywhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Server:
    """A server, the program that shows it is there, and the Debian packages that bring it."""

    name: str
    program: str
    folders: str
    packages: tuple[str, ...]

    def found(self) -> bool:
        """Whether the program is on the path or where the distribution puts it."""
        return bool(shutil.which(self.program)) or any(Path("/").glob(f"{self.folders}/{self.program}"))


SERVERS = (
    Server("PostgreSQL", "postgres", "usr/*/postgresql*/*/bin", ("postgresql",)),
    Server("Redis", "redis-server", "usr/*bin", ("redis-server",)),
)


def install(packages: list[str]) -> None:
    """Install without starting anything: the tests start servers of their own, on free ports."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.DEVNULL, timeout=300, env=quiet)
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=900, env=quiet)


def main() -> int:
    packages = [name for server in SERVERS if not server.found() for name in server.packages]
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"servers: installing {' '.join(packages)}", flush=True)
        install(packages)
    missing = [server for server in SERVERS if not server.found()]
    for server in missing:
        hint = f"apt-get install {' '.join(server.packages)}"
        print(f"servers: {server.name} is missing ({hint}); its tests will be skipped", file=sys.stderr)
    return 1 if missing and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
