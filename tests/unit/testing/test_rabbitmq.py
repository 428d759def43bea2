"""The RabbitMQ of the tests leaves nothing behind, however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from kernel.testing.workers import wait_for

SCRIPT = """
from kernel.testing.rabbitmq import rabbitmq_server
with rabbitmq_server() as server:
    running = server._running
    print(running.mapper.pid, running.node.pid, running.guard.pid, server.folder, flush=True)
    input()
"""


def there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_is_killed_takes_its_server_along(kernel_rabbitmq: object) -> None:
    # The fixture skips where there is no RabbitMQ.
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    *pids, folder = process.stdout.readline().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    wait_for(lambda: not any(there(int(pid)) for pid in pids), 15)
    wait_for(lambda: not Path(folder).exists(), 10)
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()
