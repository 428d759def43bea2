"""The worker where there are no SOCK_SEQPACKET sockets, as on macOS: the same promises over datagrams."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kernel.testing.workers import WorkerProcess, project_in, results_within, wait_for

pytestmark = pytest.mark.faults

BIG = """
@app.task
def size(text):
    return len(text)
"""


@pytest.mark.parametrize("channel", ["seqpacket", "dgram"])
@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_tasks_run_die_and_stop_over_either(tmp_path: Path, channel: str, pool: str) -> None:
    environment = {"KERNEL_WORKER_CHANNEL": channel}
    with project_in(tmp_path / "p", tasks=BIG) as project:
        worker = WorkerProcess(project, "-P", pool, "-c", "2", environment=environment).wait_ready()
        assert results_within(project.task("work").map_delay([(f"k{n}",) for n in range(300)]), 20) == [
            f"k{n}" for n in range(300)
        ]
        assert project.task("size").delay("x" * 3_000_000).get(timeout=20) == 3_000_000
        slow = project.task("work").delay("slow", 0.5)
        wait_for(lambda: project.counts("BEGIN")["slow"] == 1, 10)
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)
        assert slow.get(timeout=20) == "slow"
        assert worker.stop(timeout=15) == 0
