"""A place for each combination of broker and backend: one worker, which all cases share."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernel import canvas
from kernel.app import Kernel
from kernel.testing import servers
from kernel.testing.rabbitmq import rabbitmq_server
from kernel.testing.workers import Project, WorkerProcess
from kernel.worker.worker import Worker
from tests.canvas import worker_app
from tests.canvas.shop import Ledger, Shop

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMBINATIONS = ("sql", "redis", "amqp+rpc")
"""Those whose worker is a process of its own."""


@dataclass
class Place:
    """An app with a worker on it. `readable` says whether anybody may read a result by its id."""

    app: Kernel
    ledger: Ledger
    readable: bool = True

    def shop(self) -> Shop:
        """For one case."""
        return Shop(self.app, canvas, self.ledger, uuid.uuid4().hex)


@contextlib.contextmanager
def embedded(folder: Path, concurrency: int = 4) -> Iterator[Place]:
    """On memory, with a worker on threads of this process."""
    ledger = Ledger(str(folder / "ledger"))
    app = worker_app.make("memory://", "memory://", ledger)
    try:
        with Worker(app, concurrency=concurrency):
            yield Place(app, ledger)
    finally:
        app.close()


@contextlib.contextmanager
def addresses(combination: str, folder: Path) -> Iterator[tuple[str, str]]:
    """URLs of a new broker and backend."""
    names = {"sql": ("sql", "sql"), "redis": ("redis", "redis"), "amqp+rpc": ("amqp", "rpc")}[combination]
    for kind, name in zip(("broker", "backend"), names, strict=True):
        if importlib.util.find_spec(f"kernel_{kind}_{name}") is None:
            pytest.skip(f"kernel-{kind}-{name} is not installed")
    with contextlib.ExitStack() as stack:
        if combination == "sql":
            yield (f"sqlite:///{folder / 'data.db'}",) * 2
        elif combination == "redis":
            yield (stack.enter_context(servers.redis_server()).url,) * 2
        else:
            yield stack.enter_context(rabbitmq_server()).url, "rpc://"


@contextlib.contextmanager
def apart(combination: str, folder: Path) -> Iterator[Place]:
    """On a combination, with a worker of two processes."""
    ledger = Ledger(str(folder / "ledger"))
    with addresses(combination, folder) as (broker, backend), contextlib.ExitStack() as stack:
        project = Project(folder)
        stack.callback(project.close)
        environment = {
            "SHOP_BROKER": broker,
            "SHOP_BACKEND": backend,
            "SHOP_LEDGER": ledger.path,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        app = worker_app.make(broker, backend, ledger)
        stack.callback(app.close)
        stack.enter_context(WorkerProcess(project, "-c", "2", app="worker_app", environment=environment))
        yield Place(app, ledger, readable=backend != "rpc://")


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with embedded(tmp_path_factory.mktemp("memory")) as place:
        yield place


@pytest.fixture(scope="module", params=COMBINATIONS)
def worker_apart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with apart(request.param, tmp_path_factory.mktemp("apart")) as place:
        yield place
