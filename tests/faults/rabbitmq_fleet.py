"""An app on RabbitMQ whose workers may take another way to the server than the test does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel.testing.proxy import Proxy
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import Project, WorkerProcess, project_in

LINE = "WORKERS_LINE"
"""The variable that gives a worker another URL."""
_TASKS = """
app.conf.update(broker_url=os.environ.get({line!r}, {url!r}))


@app.task(bind=True)
def fenced(self, key, seconds):
    note("BEGIN", key)
    try:
        time.sleep(seconds)
    finally:  # told of a loss, too
        note("VALID" if self.request.lease_valid() else "STALE", key)
    return os.getpid()


@app.task
def after(value):
    note("AFTER", value)
"""


@contextlib.contextmanager
def rabbit_project(
    folder: Path, url: str, *, tasks: str = "", results: bool = False, **settings: Any
) -> Iterator[Project]:
    """A project on the virtual host at `url`. Its tasks are ``work``, ``add``, ``fenced`` and ``after``; its lease is
    two seconds, unless `settings` say otherwise. With `results` they come by ``rpc://``."""
    source = _TASKS.format(line=LINE, url=url) + tasks
    chosen = {"worker_lease": 2.0, **({"backend": "rpc://"} if results else {}), **settings}
    with project_in(folder / "p", tasks=source, **chosen) as project:
        yield project


def through(project: Project, url: str, proxy: Proxy, *arguments: str, **variables: str) -> WorkerProcess:
    """A worker that reaches the server through `proxy`."""
    return WorkerProcess(project, *arguments, environment={LINE: proxy.url(url), **variables})


def send(project: Project, count: int, seconds: float = 0.0, *, first: int = 0, **options: Any) -> list[str]:
    """Publish so many tasks; the keys that they will write into the ledger."""
    keys = [f"k{n}" for n in range(first, first + count)]
    project.task("work").map_delay([(key, seconds) for key in keys], **options)
    return keys


def delete_queue(server: RabbitProcess, url: str, queue: str) -> None:
    """As an operator does. Fails the test if there is none."""
    vhost = url.rpartition("/")[2]
    answer = server.evaluate(
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
        'element(1, rabbit_amqqueue:delete(Q, false, false, <<"tests">>))'
    )
    assert answer == "ok", answer
