"""Plugins that hang, apps that misbehave at import, apps that share a process. Case D6 and the worker's own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kernel import Kernel
from kernel.testing.workers import Project, WorkerProcess, project_in, wait_for
from kernel.worker.worker import Worker

pytestmark = pytest.mark.faults

HANGING_PLUGIN = """
import time
from kernel.hooks import hookimpl

class Plugin:
    @hookimpl
    def kernel_task_admit(self, delivery):
        if delivery.message.headers.get("task") == "proj.add":
            while True:
                time.sleep(1)

plugin = Plugin()
"""


@pytest.mark.case("D6")
def test_a_plugin_that_hangs_costs_no_lease_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "p"))
    settings = {"worker_lease": 2, "plugins": ["hanging:plugin"], "worker_hook_deadline": 10}
    with project_in(tmp_path / "p", **settings) as project:
        (project.folder / "hanging.py").write_text(HANGING_PLUGIN)
        worker = WorkerProcess(project, "-c", "1").wait_ready()
        running = project.task("work").delay("running", 4)
        wait_for(lambda: project.counts("BEGIN")["running"] == 1, 10)
        stuck = project.task("add").delay(1, 2)
        wait_for(lambda: "hanging" in worker.log, 10, lambda: worker.log)
        other = WorkerProcess(project, "-c", "1", environment={"KERNEL_DISABLE_PLUGINS": "hanging:plugin"})
        doctor = project.command("-A", "proj", "doctor", "--json", check=False)
        assert "hanging" in doctor.stdout, doctor.stdout + doctor.stderr
        assert json.loads(doctor.stdout)
        # Its lease of two seconds is renewed all the while, until it gives up: nobody else gets what it holds.
        with other:

            def begun_by_another() -> bool:
                return project.counts("BEGIN")["running"] > 1

            def gives_up() -> bool:
                return "worker_hook_deadline" in worker.log

            wait_for(lambda: begun_by_another() or gives_up(), 30)
            assert gives_up(), worker.log
            assert worker.process.wait(30) == 70  # for its supervisor
            assert running.get(timeout=20) == "running"
            assert stuck.get(timeout=20) == 3


BAD_APPS = {
    "exits": ("import os\nos._exit(0)\n", "ended while it did so"),
    "calls sys.exit": ("import sys\nsys.exit(4)\n", "SystemExit: 4"),
    "raises": ("raise RuntimeError('no database')\n", "no database"),
    "has no app": ("x = 1\n", "no Kernel app"),
}


@pytest.mark.parametrize("kind", BAD_APPS)
def test_an_app_that_cannot_be_imported_is_told(tmp_path: Path, kind: str) -> None:
    source, words = BAD_APPS[kind]
    project = Project(tmp_path / "p")
    (project.folder / "bad.py").write_text(source)
    ended = project.command("-A", "bad", "worker", "-c", "1", check=False, timeout=30)
    assert ended.returncode not in (0, None)
    assert words in ended.stderr, ended.stderr


def test_an_app_that_starts_threads_is_warned_of_and_works(tmp_path: Path) -> None:
    tasks = """
import threading
threading.Thread(target=time.sleep, args=(3600,), name="metrics", daemon=True).start()
"""
    with project_in(tmp_path / "p", tasks=tasks) as project, WorkerProcess(project, "-c", "2") as worker:
        assert "metrics" in worker.log
        assert project.task("add").delay(1, 2).get(timeout=10) == 3


def test_spawned_children_do_not_inherit_them(tmp_path: Path) -> None:
    tasks = """
import threading

@app.task
def threads():
    return [thread.name for thread in threading.enumerate()]
"""
    with (
        project_in(tmp_path / "p", tasks=tasks, worker_start_method="spawn") as project,
        WorkerProcess(project, "-c", "2"),
    ):
        assert "MainThread" in project.task("threads").delay().get(timeout=20)


def test_an_app_that_patches_with_gevent(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    project = Project(tmp_path / "p")
    source = (project.folder / "proj.py").read_text()
    (project.folder / "proj.py").write_text("from gevent import monkey\nmonkey.patch_all()\n" + source)
    with WorkerProcess(project, "-c", "2") as worker:
        assert "gevent" in worker.log
        call = "from proj import add; print(add.delay(1, 2).get(timeout=10))"
        ended = subprocess.run(
            [sys.executable, "-c", call],
            cwd=project.folder,
            env=project.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.stdout.strip() == "3", ended.stderr


def test_two_apps_in_one_process_do_not_meet(tmp_path: Path) -> None:
    """Each has its own broker, registry, plugins and worker; nothing crosses."""
    seen: dict[str, list[int]] = {"one": [], "two": []}

    def make(name: str) -> Kernel:
        app = Kernel(name, broker="memory://", backend="memory://")

        @app.task(name="same.name")
        def note(number: int) -> str:
            seen[name].append(number)
            return name

        return app

    def run(app: Kernel, answers: list[str]) -> None:
        with Worker(app, concurrency=2):
            task = app.tasks["same.name"]
            answers += [task.delay(number).get(timeout=10) for number in range(100)]

    apps = {name: make(name) for name in seen}
    answers: dict[str, list[str]] = {name: [] for name in seen}
    threads = [threading.Thread(target=run, args=(apps[name], answers[name])) for name in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for name, app in apps.items():
        assert answers[name] == [name] * 100
        assert sorted(seen[name]) == list(range(100))
        app.close()


def test_an_embedded_worker_leaves_nothing_behind() -> None:
    app = Kernel("embedded", broker="memory://", backend="memory://")

    @app.task
    def double(x: int) -> int:
        return 2 * x

    before = set(threading.enumerate())
    worker = Worker(app, concurrency=3).start()
    assert [double.delay(n).get(timeout=5) for n in range(20)] == [2 * n for n in range(20)]
    assert worker.drain(timeout=10)
    app.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()
