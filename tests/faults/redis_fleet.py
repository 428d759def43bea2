"""An app on Redis, and a client that looks at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from kernel.testing.servers import RedisProcess
from kernel.testing.workers import Project
from tests.faults.fleet import fleet_project


@contextlib.contextmanager
def redis_project(
    folder: Path, server: RedisProcess, *, results: bool = True, apart: bool = False, **settings: Any
) -> Iterator[Project]:
    """`fleet_project` on `server`. Without `results` none are stored; `apart` in another database, where they cannot be
    stored in the step that ends a task."""
    place = server.url.removesuffix("/0") + "/1" if apart else server.url
    with fleet_project(folder, server.url, backend=place if results else None, **settings) as project:
        yield project


@contextlib.contextmanager
def client_of(server: RedisProcess) -> Iterator[Any]:
    """A plain client, for looking and for breaking things."""
    client = redis.Redis.from_url(server.url)
    try:
        yield client
    finally:
        client.close()
