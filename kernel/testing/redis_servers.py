"""Redis as it is run in earnest: behind TLS, watched by Sentinels, as a cluster. Private, as in `servers`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from kernel.testing import servers
from kernel.testing.servers import RedisProcess, redis_server

MASTER: Final = "mymaster"
_SLOTS: Final = 16384
_SECONDS: Final = 30.0
_HIGHEST_PORT: Final = 55_000
"""A cluster's nodes speak to each other 10,000 ports above."""


# --- TLS ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files: an authority, a certificate of it for 127.0.0.1 and localhost, its key, and an authority
    that signed neither."""

    authority: Path
    certificate: Path
    key: Path
    stranger: Path


def certificates(folder: Path) -> Certificates:
    """New certificates in `folder`, good for two days, made with the program ``openssl``."""
    if shutil.which("openssl") is None:
        servers._missing("openssl is not installed: no openssl in PATH")
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key", folder / "stranger.pem")
    for path, name in ((made.authority, "kernel test authority"), (made.stranger, "somebody else")):
        _openssl(folder, "req", "-x509", *_key(path.with_suffix(".key")), "-days", "2", "-subj", f"/CN={name}",
                 "-out", str(path))  # fmt: skip
    _openssl(folder, "req", *_key(made.key), "-subj", "/CN=localhost", "-out", "request.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl(folder, "x509", "-req", "-in", "request.pem", "-CA", str(made.authority), "-CAkey", "ca.key",
             "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", str(made.certificate))  # fmt: skip
    return made


def _key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]


def _openssl(folder: Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        pytest.fail(f"openssl {words[0]} failed: {done.stderr}")


@contextlib.contextmanager
def redis_tls_server(*options: str) -> Iterator[tuple[RedisProcess, Certificates]]:
    """A server that speaks TLS alone, and its certificates. Its `url` is ``rediss://`` and names no authority."""
    folder = Path(tempfile.mkdtemp(prefix="kernel-tls-"))
    try:
        made = certificates(folder)
        port = servers._free_port()
        words = (
            "--port", "0", "--tls-port", str(port), "--tls-cert-file", str(made.certificate),
            "--tls-key-file", str(made.key), "--tls-ca-cert-file", str(made.authority),
            *(() if "--tls-auth-clients" in options else ("--tls-auth-clients", "no")),
        )  # fmt: skip
        with redis_server(*words, *options) as server:
            server.url = f"rediss://127.0.0.1:{port}/0"
            server.port = port
            yield server, made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- Sentinel -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SentinelSet:
    """A primary, a replica and Sentinels that watch them and change their roles when the primary is silent.

    `url` is ``sentinel://...;...``, and `name` how the Sentinels call the primary.
    """

    url: str
    name: str
    servers: list[RedisProcess]
    sentinels: list[subprocess.Popen[bytes]]
    ports: list[int]
    password: str = ""

    def primary(self) -> RedisProcess:
        """Where the Sentinels see the primary now."""
        answer = self._ask(self.ports[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name).splitlines()
        return next(server for server in self.servers if str(server.port) == answer[1])

    def wait_for_failover(self, old: RedisProcess) -> RedisProcess:
        """Until another one is the primary, and takes writes."""
        _until(lambda: self.primary() is not old and "role:master" in self._info(self.primary()))
        return self.primary()

    def wait_for_replica(self) -> None:
        """Until the replica has got what the primary was sent before this call."""
        offset = _fact(self._info(self.primary()), "master_repl_offset")
        (replica,) = (server for server in self.servers if server is not self.primary())
        _until(lambda: _fact(self._info(replica), "slave_repl_offset") >= offset)

    def _info(self, server: RedisProcess) -> str:
        return self._ask(server.port, "INFO", "replication")

    def _ask(self, port: int, *words: str) -> str:
        return ask(port, *words, password=self.password)


def _fact(text: str, name: str) -> int:
    return next(int(line.partition(":")[2]) for line in text.splitlines() if line.startswith(f"{name}:"))


@contextlib.contextmanager
def redis_sentinel(
    *options: str, sentinels: int = 1, silence: float = 0.6, name: str = MASTER, password: str = ""
) -> Iterator[SentinelSet]:
    """Sentinels that take a primary for dead after `silence` seconds. `options` are those of both servers.

    With a `password` the servers ask for it, and so does a single Sentinel.
    """
    folder = Path(tempfile.mkdtemp(prefix="kernel-sentinel-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        locked = ("--requirepass", password, "--masterauth", password) if password else ()
        fast = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *locked, *options)
        primary = stack.enter_context(redis_server(*fast))
        replica = stack.enter_context(redis_server("--replicaof", "127.0.0.1", str(primary.port), *fast))
        _until(lambda: "master_link_status:up" in ask(replica.port, "INFO", "replication", password=password))
        ports = [servers._free_port() for _ in range(sentinels)]
        lines = [
            f"sentinel monitor {name} 127.0.0.1 {primary.port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {name} {round(silence * 1000)}",
            f"sentinel failover-timeout {name} 4000",
        ]
        if password:
            lines += [f"sentinel auth-pass {name} {password}", f"requirepass {password}"]
        running = [stack.enter_context(_sentinel(port, folder / str(port), lines, password)) for port in ports]
        for port in ports:
            _until(lambda port=port: _sees_replica(port, name, sentinels - 1, password))  # type: ignore[misc]
        url = ";".join(f"sentinel://127.0.0.1:{port}" for port in ports)
        yield SentinelSet(url, name, [primary, replica], running, ports, password)


def _sees_replica(port: int, name: str, others: int, password: str) -> bool:
    facts = ask(port, "SENTINEL", "MASTER", name, password=password).splitlines()
    known = dict(zip(facts[::2], facts[1::2], strict=False))
    return known.get("num-slaves") == "1" and known.get("num-other-sentinels") == str(others)


@contextlib.contextmanager
def _sentinel(port: int, folder: Path, lines: Sequence[str], password: str) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir()
    config, log = folder / "sentinel.conf", folder / "log"
    log.touch()
    own = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", f"logfile {log}"]
    config.write_text("\n".join([*own, *lines]) + "\n")
    process = subprocess.Popen(
        ["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    try:
        _until(lambda: process.poll() is None and ask(port, "PING", password=password).strip() == "PONG")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(10)


# --- Cluster --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ClusterSet:
    """Primaries that share the slots among them, in order. `url` names all of them."""

    url: str
    nodes: list[RedisProcess]
    names: list[str] = field(default_factory=list)

    def owner(self, slot: int) -> int:
        """The number of the node that has a slot."""
        port = _slot_port(self.nodes[0].port, slot)
        return next(at for at, node in enumerate(self.nodes) if node.port == port)

    def move(self, slot: int, to: int) -> None:
        """Give a slot, and the keys that are in it, to another node."""
        at = self.owner(slot)
        old, new = self.nodes[at].port, self.nodes[to].port
        ask(new, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.names[at])
        ask(old, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.names[to])
        for _ in range(100):
            if not (keys := ask(old, "CLUSTER", "GETKEYSINSLOT", str(slot), "1000").split()):
                break
            ask(old, "MIGRATE", "127.0.0.1", str(new), "", "0", "5000", "KEYS", *keys)
        for port in (new, old, *(node.port for node in self.nodes)):
            ask(port, "CLUSTER", "SETSLOT", str(slot), "NODE", self.names[to])


@contextlib.contextmanager
def redis_cluster(*options: str, nodes: int = 3, replicas: int = 0) -> Iterator[ClusterSet]:
    """A cluster of so many primaries. The first `replicas` of them have a replica each, behind them in `nodes`."""
    words = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *options)
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(redis_server(*words, port=_cluster_port())) for _ in range(nodes + replicas)]
        names = [ask(node.port, "CLUSTER", "MYID").strip() for node in running]
        bounds = [_SLOTS * at // nodes for at in range(nodes + 1)]
        for at, node in enumerate(running[:nodes]):
            ask(node.port, "CLUSTER", "SET-CONFIG-EPOCH", str(at + 1))
            ask(node.port, "CLUSTER", "ADDSLOTS", *map(str, range(bounds[at], bounds[at + 1])))
        for node in running[1:]:
            ask(node.port, "CLUSTER", "MEET", "127.0.0.1", str(running[0].port))
        for node in running:
            _until(lambda node=node: _is_whole(node.port, len(running)))  # type: ignore[misc]
        for at, node in enumerate(running[nodes:]):
            ask(node.port, "CLUSTER", "REPLICATE", names[at])
            _until(lambda node=node: "master_link_status:up" in ask(node.port, "INFO", "replication"))  # type: ignore[misc]
        url = ";".join(f"redis+cluster://127.0.0.1:{node.port}" for node in running[:nodes])
        yield ClusterSet(url, running, names)


def _is_whole(port: int, nodes: int) -> bool:
    facts = ask(port, "CLUSTER", "INFO")
    return "cluster_state:ok" in facts and f"cluster_known_nodes:{nodes}" in facts


def _cluster_port() -> int:
    for _ in range(1000):
        port = servers._free_port()
        if port < _HIGHEST_PORT and _is_free(port + 10_000):
            return port
    pytest.fail("no free pair of ports for a node of a cluster")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _slot_port(port: int, slot: int) -> int | None:
    """The port of the owner of a slot, as the node at `port` knows it."""
    for line in ask(port, "CLUSTER", "NODES").splitlines():
        words = line.split()
        for part in words[8:]:
            first, _, last = part.partition("-")
            if first.isdecimal() and int(first) <= slot <= int(last or first):
                return int(words[1].partition("@")[0].rpartition(":")[2])
    return None


# --- asking ---------------------------------------------------------------------------------------------------


def ask(port: int, *words: str, password: str = "") -> str:
    """What the server at `port` answers, as redis-cli tells it; "" while there is none."""
    command = ["redis-cli", "-p", str(port), *words]
    login = {"REDISCLI_AUTH": password} if password else {}
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, env={**os.environ, **login}).stdout
    return ""


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not true():
        if time.monotonic() > deadline:
            pytest.fail("the servers of a test did not come to be as they should")
        time.sleep(0.05)
