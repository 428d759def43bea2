"""Workers whose server moves: a failover by Sentinel, and a cluster that gives a slot to another node."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernel import errors
from kernel.testing.redis_servers import ask, redis_cluster, redis_sentinel
from kernel.testing.workers import Project, WorkerProcess, project_in, results_within, wait_for

PATIENCE = 40.0
COUNT = 150


def patiently(call: Callable[..., Any], *args: Any) -> Any:
    """What a caller does who may call twice: again, until it is taken."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call(*args)
        except errors.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def send(project: Project, keys: range) -> None:
    work = project.task("work")
    for key in keys:
        patiently(work.apply_async, (str(key), 0.01))


def committed(project: Project, keys: range, worker: WorkerProcess) -> None:
    wanted = {str(key) for key in keys}
    wait_for(
        lambda: wanted <= set(project.counts("COMMIT")),
        PATIENCE,
        lambda: f"missing {sorted(wanted - set(project.counts('COMMIT')))}\n{worker.log[-4000:]}",
    )


@pytest.mark.parametrize(("pool", "count"), [("prefork", 3), ("threads", 1)])
def test_a_failover_while_a_worker_runs(tmp_path: Path, pool: str, count: int) -> None:
    with redis_sentinel(sentinels=count) as sentinels:
        options = {"master_name": sentinels.name}
        settings: dict[str, Any] = {
            "broker_url": sentinels.url,
            "result_backend": sentinels.url,
            "broker_transport_options": options,
            "result_backend_transport_options": options,
            "worker_lease": 2,
        }
        with project_in(tmp_path, **settings) as project, WorkerProcess(project, "-P", pool, "-c", "2") as worker:
            send(project, range(COUNT))
            wait_for(lambda: len(project.counts("COMMIT")) >= 10, PATIENCE, lambda: worker.log)
            # What the replica has not got when the primary dies is lost: replication is behind, and this is what
            # the page on Redis says of it.
            sentinels.wait_for_replica()
            old = sentinels.primary()
            old.kill()
            committed(project, range(COUNT), worker)
            assert sentinels.primary() is not old
            send(project, range(COUNT, COUNT + 20))
            committed(project, range(COUNT + 20), worker)
            results = [patiently(project.task("add").delay, 1, number) for number in range(5)]
            assert results_within(results, PATIENCE) == [1 + number for number in range(5)]


def test_a_fleet_on_a_cluster(tmp_path: Path) -> None:
    with redis_cluster() as cluster:
        options = {"global_keyprefix": "{shop}:"}
        settings: dict[str, Any] = {
            "broker_url": cluster.url,
            "result_backend": cluster.url,
            "broker_transport_options": options,
            "result_backend_transport_options": options,
            "worker_lease": 2,
        }
        with project_in(tmp_path, **settings) as project, WorkerProcess(project, "-P", "threads", "-c", "2") as worker:
            results = [project.task("add").delay(1, number) for number in range(20)]
            assert results_within(results, PATIENCE) == [1 + number for number in range(20)]
            send(project, range(COUNT))
            slot = int(ask(cluster.nodes[0].port, "CLUSTER", "KEYSLOT", "{shop}"))
            cluster.move(slot, (cluster.owner(slot) + 1) % 3)
            send(project, range(COUNT, COUNT + 20))
            committed(project, range(COUNT + 20), worker)
            results = [patiently(project.task("add").delay, 2, number) for number in range(5)]
            assert results_within(results, PATIENCE) == [2 + number for number in range(5)]
