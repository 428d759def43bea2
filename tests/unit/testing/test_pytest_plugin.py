"""The pytest plugin, used as a project would use it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import Kernel
from kernel.worker.worker import Worker


def test_an_app_of_the_tests_own(kernel_app: Kernel) -> None:
    assert (kernel_app.conf.broker_url, kernel_app.conf.result_backend) == ("memory://", "memory://")
    assert kernel_app.state == "new"


@pytest.mark.kernel(task_default_queue="outer", timezone="Europe/Prague")
class TestMarkers:
    @pytest.mark.kernel(task_default_queue="inner")
    def test_the_nearest_marker_wins(self, kernel_app: Kernel) -> None:
        assert kernel_app.conf.task_default_queue == "inner"
        assert kernel_app.conf.timezone == "Europe/Prague"

    def test_a_class_may_be_marked(self, kernel_app: Kernel) -> None:
        assert kernel_app.conf.task_default_queue == "outer"


def test_a_worker_runs_tasks(kernel_app: Kernel, kernel_worker: Worker) -> None:
    @kernel_app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    assert add.delay(2, 3).get(timeout=10) == 5
    assert kernel_worker.status is None


def test_it_is_found_in_a_project_that_knows_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(
        "import pytest, sys\n"
        "def test_nothing_is_imported_for_nothing():\n"
        "    assert 'kernel.app' not in sys.modules\n"
        "@pytest.mark.kernel(task_ignore_result=True)\n"
        "def test_one(kernel_app, kernel_worker):\n"
        "    task = kernel_app.task(lambda: 1, name='one')\n"
        "    assert kernel_app.conf.task_ignore_result\n"
        "@pytest.mark.kernel('positional')\n"
        "def test_two(kernel_app):\n"
        "    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", "--rootdir=."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "2 passed, 1 error" in done.stdout
    assert "takes settings by name" in done.stdout


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # Fixtures that are asked for by name end before this one, which is automatic.
    assert set(threading.enumerate()) <= before
