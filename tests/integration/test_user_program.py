"""Programs that start a worker themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.app import Kernel
from kernel.testing.workers import wait_for

APP = """
from kernel import Kernel

app = Kernel("proj", include=["{jobs}"])


@app.task
def here(x):
    return x + 1


if __name__ == "__main__":
    raise SystemExit(app.worker_main())
"""
JOBS = """
from {module} import app


@app.task
def there(x):
    return x * 2
"""


@pytest.mark.parametrize(
    ("file", "module", "command"),
    [("proj/app.py", "proj.app", ["-m", "proj.app"]), ("single.py", "single", ["single.py"])],
    ids=["python -m proj.app worker", "python single.py worker"],
)
def test_a_script_that_is_its_own_worker_has_all_its_tasks(
    tmp_path: Path, file: str, module: str, command: list[str]
) -> None:
    jobs = "proj.jobs" if "/" in file else "jobs"
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(APP.format(jobs=jobs))
    (tmp_path / file).with_name("jobs.py").write_text(JOBS.format(module=module))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KERNEL_", "CELERY_"))}
    url = f"sqlite:///{tmp_path}/data.db"
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, *command, "worker", "-l", "INFO", "-c", "1"],
            cwd=tmp_path,
            env=kept | {"KERNEL_DATA": str(tmp_path / "data.db"), "KERNEL_RUN_DIR": str(tmp_path / "run")},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "ready." in log.read_text() or worker.poll() is not None, 30, log.read_text)
        with Kernel("client", broker=url, backend=url) as client:
            assert client.send_task("proj.here", (1,)).get(timeout=10) == 2, log.read_text()
            assert client.send_task(f"{jobs}.there", (4,)).get(timeout=10) == 8, log.read_text()
        worker.terminate()
        assert worker.wait(20) == 0, log.read_text()
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)
