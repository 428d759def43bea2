"""Celery in an environment of its own, one broker, and a worker of each system on it for all tests of the folder."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.marks import DeliveryError
from benchmarks.processes import PEERS, peers_python
from kernel.testing import servers
from kernel.testing.rabbitmq import RabbitProcess
from tests.interop.parties import APPS, Ours, Theirs, Worker, wait_for

SHARED = "both"
"""The queue that both workers take from."""


@dataclass
class Fleet:
    """A broker with both systems on it."""

    ours: Ours
    theirs: Theirs
    folder: Path
    readable: bool
    """Whether anybody may read a result by its id, and not the caller alone."""
    workers: tuple[Worker, ...] = ()

    def start(self, *workers: Worker) -> None:
        """These are its workers now, and ready."""
        self.workers = workers
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_ready()

    def stop(self) -> None:
        """All of its workers, also if one of them does not end as it should."""
        with contextlib.ExitStack() as stack:
            for worker in self.workers:
                stack.callback(worker.stop)

    def notes(self, *words: str) -> list[list[str]]:
        """The lines of the ledger that begin with `words`, without these."""
        path = self.folder / "ledger"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [line[len(words) :] for line in lines if line[: len(words)] == list(words)]

    def wait_for_note(self, *words: str) -> list[str]:
        wait_for(lambda: self.notes(*words), self.logs)
        return self.notes(*words)[0]

    def logs(self) -> str:
        return "\n".join(f"--- {worker._log.name}\n{worker.log[-3000:]}" for worker in self.workers)


@dataclass
class Way:
    """Who sends and who runs."""

    fleet: Fleet
    sender: Any
    runner: Any


@pytest.fixture(scope="session")
def celery_python() -> Path:
    """The Python of an environment with Celery in it."""
    # Several processes may run tests of this folder.
    PEERS.mkdir(exist_ok=True)
    try:
        with (PEERS / "celery.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return peers_python("celery")
    except DeliveryError as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@contextlib.contextmanager
def parties(python: Path, folder: Path, broker: str, backend: str) -> Iterator[Fleet]:
    """Both systems on these addresses, with no worker yet; those that it has in the end are stopped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KERNEL_", "CELERY_"))}
    environment = {
        **kept,
        "INTEROP_BROKER": broker,
        "INTEROP_BACKEND": backend,
        "INTEROP_LEDGER": str(folder / "ledger"),
        "KERNEL_RUN_DIR": str(folder / "run"),
        "C_FORCE_ROOT": "1",
        "PYTHONUNBUFFERED": "1",
    }
    sys.path.insert(0, str(APPS))
    try:
        with contextlib.ExitStack() as stack:
            ours = Ours(environment, folder)
            stack.callback(ours.close)
            theirs = Theirs(python, {**environment, "PYTHONPATH": ""}, folder)
            stack.callback(theirs.close)
            fleet = Fleet(ours, theirs, folder, readable=not backend.startswith("rpc"))
            stack.callback(fleet.stop)
            yield fleet
    finally:
        sys.path.remove(str(APPS))


COMBINATIONS = ("redis+redis", "amqp+rpc", "amqp+redis")


@contextlib.contextmanager
def addresses(combination: str, rabbit: Callable[[], RabbitProcess] | None = None) -> Iterator[tuple[str, str]]:
    """URLs of a new broker and backend; `rabbit` gives a node for a broker's virtual host."""
    broker, _, backend = combination.partition("+")
    for kind, name in (("broker", broker), ("backend", backend)):
        if importlib.util.find_spec(f"kernel_{kind}_{name}") is None:
            pytest.skip(f"kernel-{kind}-{name} is not installed")
    with contextlib.ExitStack() as stack:
        urls: list[str] = []
        for name in (broker, backend):
            if name == "redis":
                urls.append(urls[0] if broker == "redis" and urls else stack.enter_context(servers.redis_server()).url)
            elif name == "amqp":
                assert rabbit is not None
                urls.append(rabbit().add_vhost())
            else:
                urls.append("rpc://")
        yield urls[0], urls[1]


@pytest.fixture(scope="session", params=COMBINATIONS)
def fleet(
    request: pytest.FixtureRequest, celery_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("interop")
    node = partial(request.getfixturevalue, "kernel_rabbitmq")
    with addresses(request.param, node) as urls, parties(celery_python, folder, *urls) as fleet:
        fleet.start(*(party.worker(party.queue, SHARED) for party in (fleet.theirs, fleet.ours)))
        yield fleet


@pytest.fixture(scope="module")
def pair(celery_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Both systems on a Redis, and a worker of each on a queue of its own."""
    folder = tmp_path_factory.mktemp("pair")
    with servers.redis_server() as server, parties(celery_python, folder, server.url, server.url) as fleet:
        fleet.start(*(party.worker(party.queue) for party in (fleet.theirs, fleet.ours)))
        yield fleet


@pytest.fixture(params=["celery to kernel", "kernel to celery"])
def way(request: pytest.FixtureRequest, fleet: Fleet) -> Way:
    sender, runner = (fleet.theirs, fleet.ours) if request.param.startswith("celery") else (fleet.ours, fleet.theirs)
    return Way(fleet, sender, runner)
