"""A PostgreSQL server of our own for one benchmark: fresh, on a Unix socket, with its shipped durability."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

DEADLINE = 120
PORT = 54999  # names the socket's file; no network port is opened


class Missing(Exception):
    """The server is not installed here."""


def programs() -> Path:
    """The folder of `initdb` and `pg_ctl`."""
    on_path = shutil.which("pg_ctl")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists():
            return folder
    raise Missing("PostgreSQL is not installed (apt-get install postgresql)")


def account() -> str | None:
    """Whose processes the server's are: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise Missing("PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody`")


class Server:
    """`with Server() as url:`, and everything is gone afterwards."""

    def __init__(self) -> None:
        self._programs = programs()
        self._account = account()
        # A short path: a Unix socket's name has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
        self._data = self._folder / "data"
        if self._account:
            shutil.chown(self._folder, self._account)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command, cwd=self._folder, user=self._account, capture_output=True, text=True, timeout=DEADLINE
        )
        if done.returncode:
            raise Missing(f"{program} failed: {done.stdout} {done.stderr}")

    def __enter__(self) -> str:
        self._run("initdb", "-D", str(self._data), "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -p {PORT}"
        log = str(self._folder / "log")
        # `pg_ctl` must not hold our pipes open through the server, hence the log.
        command = [str(self._programs / "pg_ctl"), "-D", str(self._data), "-o", options, "-l", log, "-w", "start"]
        subprocess.run(
            command, cwd=self._folder, user=self._account, stdout=subprocess.DEVNULL, check=True, timeout=DEADLINE
        )
        return f"host={self._folder} port={PORT} user=bench dbname=postgres"

    @property
    def url(self) -> str:
        """The same for SQLAlchemy."""
        return f"postgresql://bench@/postgres?host={self._folder}&port={PORT}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
