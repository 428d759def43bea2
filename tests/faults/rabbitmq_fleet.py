"""An app on RabbitMQ, and what an operator does there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import Project
from tests.faults.fleet import fleet_project


@contextlib.contextmanager
def rabbit_project(folder: Path, url: str, *, results: bool = False, **settings: Any) -> Iterator[Project]:
    """`fleet_project` on the virtual host at `url`. With `results` they come by ``rpc://``."""
    with fleet_project(folder, url, backend="rpc://" if results else None, **settings) as project:
        yield project


def delete_queue(server: RabbitProcess, url: str, queue: str) -> None:
    """As an operator does. Fails the test if there is none."""
    vhost = url.rpartition("/")[2]
    answer = server.evaluate(
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
        'element(1, rabbit_amqqueue:delete(Q, false, false, <<"tests">>))'
    )
    assert answer == "ok", answer
