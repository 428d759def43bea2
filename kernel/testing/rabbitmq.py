"""A private RabbitMQ for tests: one node on free ports of loopback, in a folder of its own, gone when the block ends.

A start takes a few seconds and a virtual host some hundredths of one: a test run starts one node and gives each test a
virtual host. What the node is asked to do, it is told through the shell on its standard input, since ``rabbitmqctl``
takes a second a call.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol

import pytest

from kernel.testing import servers

_SECONDS: Final = 60.0
_FOLDERS: Final = ("usr/lib/rabbitmq/bin", "usr/local/sbin", "opt/homebrew/opt/rabbitmq/sbin", "opt/rabbitmq/sbin")
# Small, since the tests need the other processor; the limits of a big server's tables cost memory and a slow start.
_EMULATOR: Final = (
    "+S 1:1 +SDcpu 1:1 +SDio 2 +A 4 +P 65536 +Q 4096 -setcookie kernel-tests "
    "-kernel inet_dist_use_interface {127,0,0,1}"
)
_SETTINGS: Final[Mapping[str, str]] = {
    "log.file": "false",
    "log.console": "true",
    "log.console.level": "info",
    "loopback_users": "none",
    "disk_free_limit.absolute": "1MB",
}
# Waits for the end of the process that started it, however that comes about, and leaves nothing of the node then.
_GUARD: Final = 'cat > /dev/null; kill -9 "-$1"; rm -rf "$2"'


class Identity(Protocol):
    """Paths of PEM files: an authority, a certificate that it signed, and its key."""

    @property
    def authority(self) -> Path: ...

    @property
    def certificate(self) -> Path: ...

    @property
    def key(self) -> Path: ...


@dataclass(slots=True)
class _Running:
    """The processes of a node that was started: its port mapper, which leads their group, itself, and their guard."""

    mapper: subprocess.Popen[bytes]
    node: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]


@dataclass(slots=True)
class RabbitProcess:
    """A private node, which can be killed and started again on the same data.

    `url` leads to the virtual host ``/``, `tls_url` to the same by TLS, where that was asked for.
    """

    url: str
    port: int
    folder: Path
    tls_url: str | None
    environment: Mapping[str, str]
    _running: _Running | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def pid(self) -> int:
        return self._node.pid

    @property
    def _node(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            raise RuntimeError("this RabbitMQ is not running: start() it first")
        return self._running.node

    def start(self) -> None:
        """Again, on the data that is there; returns when it takes connections."""
        self._running = _start(self.folder, self.environment)

    def kill(self) -> None:
        """As a crash does: nothing is written any more, and no connection is said good-bye to."""
        if running := self._running:
            _kill(running)
            self._running = None

    def stop(self) -> None:
        """Its ordinary end: connections are closed with a reason, and all is written."""
        if running := self._running:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
                running.node.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.node.wait(20)
        self.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop answering, as a hanging machine does, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def evaluate(self, expression: str) -> str:
        """The value of an Erlang expression in the node, as text; what it raises becomes ``{'EXIT', ...}``."""
        with socket.create_server(("127.0.0.1", 0)) as answers:
            answers.settimeout(_SECONDS)
            port = answers.getsockname()[1]
            stdin = self._node.stdin
            assert stdin is not None
            stdin.write(
                f"(fun() -> V = (catch begin {expression} end), "
                f'{{ok, S}} = gen_tcp:connect("127.0.0.1", {port}, [binary]), '
                f'ok = gen_tcp:send(S, unicode:characters_to_binary(io_lib:format("~0tp", [V]))), '
                f"ok = gen_tcp:close(S) end)().\n".encode()
            )
            stdin.flush()
            connection, _ = answers.accept()
            with connection:
                connection.settimeout(_SECONDS)
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def ctl(self, *words: str) -> str:
        """What ``rabbitmqctl`` prints, in about a second. Fails the test when it fails."""
        program = Path(_programs()) / "rabbitmqctl"
        done = subprocess.run(
            [program, "--quiet", *words],
            env={**self.environment, "RABBITMQ_CTL_ERL_ARGS": "-setcookie kernel-tests"},
            capture_output=True, text=True, timeout=_SECONDS, cwd="/",
        )  # fmt: skip
        if done.returncode:
            pytest.fail(f"rabbitmqctl {' '.join(words)} failed: {done.stderr or done.stdout}")
        return done.stdout

    def add_vhost(self, name: str | None = None) -> str:
        """A new virtual host, which ``guest`` may do everything in; its URL."""
        name = name or f"v{next(self._numbers)}"
        self._do(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
            "rabbit_auth_backend_internal:set_permissions("
            f'<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)'
        )
        return self.vhost_url(name)

    def delete_vhost(self, name: str) -> None:
        """With its queues; connections to it are closed by force."""
        self._do(f'rabbit_vhost:delete(<<"{name.rpartition("/")[2]}">>, <<"tests">>)')

    def vhost_url(self, name: str, *, tls: bool = False) -> str:
        base = self.tls_url if tls else self.url
        if base is None:
            raise ValueError("this RabbitMQ has no TLS listener: rabbitmq_server(tls=...) gives it one")
        return f"{base.removesuffix('//')}/{name}"

    def queues(self, vhost: str = "/") -> dict[str, tuple[int, int]]:
        """Name of each queue -> ``(ready, unacknowledged)``, counted now."""
        facts = self.evaluate(
            # Base64: a name with other than Latin letters would be printed as a list of numbers.
            f"[[base64:encode_to_string(N), R, U] || [{{name, {{resource, _, queue, N}}}}, {{messages_ready, R}}, "
            f'{{messages_unacknowledged, U}}] <- rabbit_amqqueue:info_all(<<"{vhost}">>, '
            "[name, messages_ready, messages_unacknowledged])]"
        )
        if not facts.startswith("["):
            pytest.fail(f"RabbitMQ did not list its queues: {facts}")
        return {base64.b64decode(name).decode(): (ready, held) for name, ready, held in json.loads(facts)}

    def close_connections(self, reason: str = "closed by a test") -> None:
        """Close all connections from the server's side, with CONNECTION_FORCED."""
        self._do(f'[rabbit_networking:close_connection(P, "{reason}") || P <- rabbit_networking:connections()], ok')

    def raise_alarm(self) -> None:
        """As when memory runs out: publishers are blocked, until `clear_alarm`."""
        self._do("vm_memory_monitor:set_vm_memory_high_watermark(0.00001), ok")

    def clear_alarm(self) -> None:
        self._do("vm_memory_monitor:set_vm_memory_high_watermark(0.8), ok")

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _do(self, expression: str) -> None:
        answer = self.evaluate(expression)
        if answer != "ok":
            pytest.fail(f"RabbitMQ answered {answer} to {expression}")


@contextlib.contextmanager
def rabbitmq_server(*, tls: Identity | None = None, **settings: str) -> Iterator[RabbitProcess]:
    """A new node. `settings` are lines of its ``rabbitmq.conf``, with ``__`` for the dots of a name:
    ``rabbitmq_server(consumer_timeout="2000", vm_memory_high_watermark__relative="0.5")``."""
    _programs()
    base = Path(tempfile.mkdtemp(prefix="kernel-rabbitmq-"))
    try:
        port = servers._free_port()
        lines = {"listeners.tcp.1": f"127.0.0.1:{port}", **_SETTINGS}
        secure = None
        if tls is not None:
            secure = servers._free_port()
            lines |= _tls_lines(tls, secure)
        lines |= {name.replace("__", "."): value for name, value in settings.items()}
        (base / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
        (base / "plugins").write_text("[].")
        server = RabbitProcess(
            url=f"amqp://guest:guest@127.0.0.1:{port}//", port=port, folder=base,
            tls_url=f"amqps://guest:guest@127.0.0.1:{secure}//" if secure else None, environment=_environment(base),
        )  # fmt: skip
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _tls_lines(tls: Identity, port: int) -> dict[str, str]:
    return {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(tls.authority),
        "ssl_options.certfile": str(tls.certificate),
        "ssl_options.keyfile": str(tls.key),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "false",
    }


def _environment(base: Path) -> dict[str, str]:
    """All that a node would else share with one of the system: names, ports, cookie, folders, configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
    return {
        **kept,
        "HOME": str(base),
        "ERL_CRASH_DUMP": str(base / "crash"),
        "ERL_EPMD_PORT": str(servers._free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "rabbit@localhost",
        "RABBITMQ_DIST_PORT": str(servers._free_port()),
        "RABBITMQ_CONF_ENV_FILE": str(base / "none"),
        "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
        "RABBITMQ_LOG_BASE": str(base / "logs"),
        "RABBITMQ_PID_FILE": str(base / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _EMULATOR,
        # The shell on standard input, which `evaluate` speaks to; the script then becomes the node itself, too.
        "RABBITMQ_ALLOW_INPUT": "1",
    }


def _programs() -> str:
    """The folder of RabbitMQ's own programs: Debian's in ``/usr/sbin`` insist on the system's user and folders."""
    for folder in _FOLDERS:
        if (Path("/") / folder / "rabbitmq-server").exists() and shutil.which("erl"):
            return str(Path("/") / folder)
    return servers._missing(
        "RabbitMQ is not installed: no rabbitmq-server in " + ", ".join(f"/{name}" for name in _FOLDERS)
    )


def _start(folder: Path, environment: Mapping[str, str]) -> _Running:
    log = folder / "log"
    with log.open("wb") as output:
        # The node would start a port mapper that outlives it.
        words = ["epmd", "-port", environment["ERL_EPMD_PORT"], "-address", "127.0.0.1"]
        mapper = _process(words, output, environment, group=0)
        node = _process([f"{_programs()}/rabbitmq-server"], output, environment, group=mapper.pid)
    guard = _process(
        ["sh", "-c", _GUARD, "guard", str(mapper.pid), str(folder)], subprocess.DEVNULL, environment, group=0
    )
    running = _Running(mapper, node, guard)
    try:
        servers._wait(node, log, "Server startup complete")
    except BaseException:
        _kill(running)
        raise
    return running


def _process(
    command: Sequence[str], output: IO[bytes] | int, environment: Mapping[str, str], *, group: int
) -> subprocess.Popen[bytes]:
    """A process with a pipe to its standard input, out of reach of the terminal's interrupts."""
    return subprocess.Popen(
        command, env=dict(environment), stdin=subprocess.PIPE, stdout=output, stderr=output, cwd="/",
        process_group=group,
    )  # fmt: skip


def _kill(running: _Running) -> None:
    for group in (running.mapper, running.guard):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group.pid, signal.SIGKILL)
    for process in (running.mapper, running.node, running.guard):
        process.wait(10)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
