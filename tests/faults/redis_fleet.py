"""An app on Redis whose workers may take another way to the server than the test does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from kernel.testing.proxy import Proxy
from kernel.testing.servers import RedisProcess
from kernel.testing.workers import Project, WorkerProcess, project_in

LINE = "WORKERS_LINE"
"""The variable that gives a worker another URL."""
_TASKS = """
app.conf.update(
    broker_url=os.environ.get({line!r}, {url!r}),
    result_backend=os.environ.get({line!r}, {url!r}) if {results!r} else None,
)


@app.task(bind=True)
def fenced(self, key, seconds):
    note("BEGIN", key)
    time.sleep(seconds)
    note("VALID" if self.request.lease_valid() else "STALE", key)
    return os.getpid()


@app.task
def after(value):
    note("AFTER", value)


@app.task
def crash(key):
    note("BEGIN", key)
    ctypes.string_at(0)
"""


@contextlib.contextmanager
def redis_project(
    folder: Path, server: RedisProcess, *, tasks: str = "", results: bool = True, **settings: Any
) -> Iterator[Project]:
    """A project on `server`. Its tasks are ``work``, ``add``, ``fenced``, ``after`` and ``crash``; its lease is two
    seconds, unless `settings` say otherwise. Without `results` none are stored."""
    source = _TASKS.format(line=LINE, url=server.url, results=results) + tasks
    with project_in(folder / "p", tasks=source, **{"worker_lease": 2.0, **settings}) as project:
        yield project


def through(project: Project, server: RedisProcess, proxy: Proxy, *arguments: str, **variables: str) -> WorkerProcess:
    """A worker that reaches the server through `proxy`."""
    return WorkerProcess(project, *arguments, environment={LINE: proxy.url(server.url), **variables})


@contextlib.contextmanager
def client_of(server: RedisProcess) -> Iterator[Any]:
    """A plain client, for looking and for breaking things."""
    client = redis.Redis.from_url(server.url)
    try:
        yield client
    finally:
        client.close()


def send(project: Project, count: int, seconds: float = 0.0, *, first: int = 0, **options: Any) -> list[str]:
    """Publish so many tasks; the keys that they will write into the ledger."""
    keys = [f"k{n}" for n in range(first, first + count)]
    project.task("work").map_delay([(key, seconds) for key in keys], **options)
    return keys
