"""Real servers for tests: private, on loopback, in a folder of their own, gone when the block ends.

A missing server skips the test on somebody's laptop and fails it where the environment variable CI is set.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pytest

_START_SECONDS: Final = 60.0
_POSTGRES_FOLDERS: Final = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt/postgresql")
_PORTS: Final = (15_000, 32_000)
_POSTGRES_SETTINGS: Final = (
    # Durable, as a user's server is: what the tests claim about commits must mean something.
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=64MB",
    "max_connections=100",
    "max_prepared_transactions=10",
    "listen_addresses=127.0.0.1",
    "logging_collector=off",
    "lc_messages=C",
)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its URL, the process id of its main process, and the folder of its data."""

    url: str
    pid: int
    folder: Path

    def pause(self) -> None:
        """Stop answering, as a hanging machine does, until `resume`."""
        for pid in (self.pid, *_children(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (self.pid, *_children(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def postgres_server() -> Iterator[Server]:
    """A new PostgreSQL cluster with an empty database, reached by TCP on a free port."""
    folder = _binaries("PostgreSQL", "initdb", _POSTGRES_FOLDERS)
    user = _unprivileged("postgres")
    base = Path(tempfile.mkdtemp(prefix="kernel-postgres-"))
    try:
        data, port = base / "data", _free_port()
        _give(base, user)
        _run_as(user, [f"{folder}/initdb", "-D", str(data), "-U", "kernel", "-A", "trust", "-E", "UTF8", "--no-sync"])
        options = [part for setting in _POSTGRES_SETTINGS for part in ("-c", setting)]
        command = [f"{folder}/postgres", "-D", str(data), "-p", str(port), "-k", str(base), *options]
        with _process(user, command, base / "log", signal.SIGINT) as process:
            _wait(process, base / "log", "ready to accept connections")
            yield Server(f"postgresql://kernel@127.0.0.1:{port}/postgres", process.pid, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


@dataclass(slots=True)
class RedisProcess:
    """A private redis-server on a free port, which can be killed and started again on the same data."""

    url: str
    port: int
    folder: Path
    options: tuple[str, ...]
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """As a crash does: nothing is written any more."""
        self.process.kill()
        self.process.wait(10)

    def start(self) -> None:
        """Again, on the data that is there."""
        self.process = _start_redis(self.port, self.folder, self.options)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis_server(*options: str, fsync: str | None = None, port: int | None = None) -> Iterator[RedisProcess]:
    """A new Redis server. `fsync` of ``always`` or ``everysec`` keeps an append-only file; None keeps nothing.

    `options` are further words of its command line. Without `port` it is a free one.
    """
    if shutil.which("redis-server") is None:
        _missing("Redis is not installed: no redis-server in PATH")
    base = Path(tempfile.mkdtemp(prefix="kernel-redis-"))
    kept = ("--appendonly", "yes", "--appendfsync", fsync) if fsync else ("--appendonly", "no")
    port = port or _free_port()
    words = (*kept, *options)
    try:
        server = RedisProcess(f"redis://127.0.0.1:{port}/0", port, base, words, _start_redis(port, base, words))
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _start_redis(port: int, folder: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    log = folder / "log"
    log.write_bytes(b"")
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--logfile", str(log)]
    process = subprocess.Popen(
        ["redis-server", *place, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    try:
        _wait(process, log, "Ready to accept connections")
    except BaseException:
        process.kill()
        process.wait(10)
        raise
    return process


def _binaries(what: str, program: str, folders: Sequence[str]) -> str:
    """The folder of a server's programs."""
    if found := shutil.which(program):
        return str(Path(found).parent)
    for folder in folders:
        for candidate in sorted(Path(folder).glob("*/bin"), reverse=True):
            if (candidate / program).exists():
                return str(candidate)
    return _missing(f"{what} is not installed: no {program} in PATH or in {', '.join(folders)}")


def _missing(text: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def _unprivileged(name: str) -> str | None:
    """Database servers refuse to run as root: the user to become, or None where this process is not root."""
    if os.geteuid() != 0:
        return None
    import pwd

    for candidate in (name, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(candidate).pw_name
    _missing(f"this process is root, and there is no user {name!r} that the server could run as")


def _give(folder: Path, user: str | None) -> None:
    if user is not None:
        shutil.chown(folder, user)


def _run_as(user: str | None, command: Sequence[str]) -> None:
    done = subprocess.run(command, user=user, capture_output=True, text=True, timeout=_START_SECONDS, cwd="/")
    if done.returncode:
        pytest.fail(f"{command[0]} failed: {done.stderr or done.stdout}")


@contextlib.contextmanager
def _process(
    user: str | None, command: Sequence[str], log: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, user=user, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            # A test may have left it stopped.
            os.killpg(process.pid, signal.SIGCONT)
            process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], log: Path, ready: str) -> None:
    """Until the log says `ready`."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if ready in log.read_text(errors="replace"):
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}")


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _free_port() -> int:
    """A port that nobody listens on, from below those that the system gives to connections going out: between this
    look and the server's own bind one of thousands of them would take it now and then."""
    choice = random.SystemRandom()
    for _ in range(100):
        port = choice.randrange(*_PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port was found from {_PORTS[0]} to {_PORTS[1]}")
