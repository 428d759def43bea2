"""See to it that the servers which the tests start themselves are installed. Standard library only.

As root on a machine with apt-get they are installed; elsewhere the packages are named. A server that is still
missing fails the run where ``CI`` is set, and makes its tests skip everywhere else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
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
    Server("RabbitMQ", "rabbitmq-server", "usr/lib/rabbitmq/bin", ("rabbitmq-server",)),
)


POLICY = Path("/usr/sbin/policy-rc.d")


def install(packages: list[str]) -> None:
    """Install without starting anything: the tests start servers of their own, on free ports."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.DEVNULL, timeout=300, env=quiet)
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    with services_kept_down():
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=900, env=quiet)


@contextlib.contextmanager
def services_kept_down() -> Iterator[None]:
    """Packages ask this program of Debian's whether they may start what they bring; a policy that is there stays."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


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
