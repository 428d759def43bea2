"""What an outsider wrote is installed like anything else, is found, passes the kits, and carries a worker."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from workspace import ROOT, distributions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SOURCE = ROOT / "examples" / "third_party_plugins"
DISTRIBUTION = "acme-kernel-plugins"
PYTEST = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--strict-markers")
ALLOWED = ("kernel.interfaces", "kernel.hooks", "kernel.message", "kernel.errors", "kernel.states")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment of its own, and a folder to work in."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "venv" / "bin" / "python")

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERNEL_"))}
        return {**kept, "KERNEL_RUN_DIR": str(self.folder / "run"), "C_FORCE_ROOT": "1", "NO_COLOR": "1"}

    def run(self, *arguments: str, timeout: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.home,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def make_environment(folder: Path, *wheels: Path, without: frozenset[str] = frozenset()) -> Environment:
    """An environment that shares the libraries of this one, has the workspace save for `without`, and the wheels.

    Libraries are links, so that nothing is fetched and nothing is built but what is examined here.
    """
    made = Environment(folder)
    made.home.mkdir(parents=True)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    outsiders = {DISTRIBUTION.replace("-", "_"), "acme_kernel"}
    absent = {name.replace("-", "_") for name in without} | outsiders
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if not item.name.endswith(".pth") and item.name.partition("-")[0] not in absent and item.name != "__pycache__":
            (site / item.name).symlink_to(item)
    members = [member for member in distributions() if member.name not in without]
    (site / "workspace.pth").write_text("".join(f"{member.folder}\n" for member in members))
    command = [sys.executable, "-m", "pip", "--python", made.python, "install", "-q", "--no-deps", "--no-index"]
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def build(source: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(target)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


def documented(folder: Path) -> Path:
    """The project that docs/plugins.md tells one to write: its code, saved under the names that stand above it."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for language, code in re.findall(r"^```(python|toml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        name = "pyproject.toml" if language == "toml" else code.partition("\n")[0].removeprefix("# ")
        if name.endswith((".py", ".toml")):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
    (folder / "pear" / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outsider")
    copy = shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    return build(copy, folder)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return documented(tmp_path_factory.mktemp("page") / "kernel-pear")


@pytest.fixture(scope="module")
def whole(wheel: Path, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("whole")
    return make_environment(folder, wheel, build(page, folder))


@pytest.fixture(scope="module")
def lean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Without json and prefork, and with everything else."""
    folder = tmp_path_factory.mktemp("lean")
    return make_environment(folder, wheel, without=frozenset({"kernel-serializer-json", "kernel-pool-prefork"}))


# --- installed like anything else -----------------------------------------------------------------------------


def test_the_command_finds_all_four(whole: Environment) -> None:
    done = whole.run("-m", "kernel", "plugins", "--check", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for row in json.loads(done.stdout)["plugins"] if row["distribution"] == DISTRIBUTION]
    assert {(row["kind"], row["name"], row["version"], row["state"]) for row in rows} == {
        ("brokers", "acme", "1.3.0", "ok"),
        ("backends", "acme", "1.3.0", "ok"),
        ("pools", "acme", "1.3.0", "ok"),
        ("hooks", "acme-audit", "1.3.0", "ok"),
    }
    (hooks,) = [row["hooks"] for row in rows if row["kind"] == "hooks"]
    assert {"kernel_task_admit", "kernel_task_end", "kernel_settings"} <= set(hooks)


def test_the_doctor_has_nothing_against_them(whole: Environment) -> None:
    (whole.home / "sound.py").write_text(
        "from kernel import Kernel\n"
        f"app = Kernel('sound', broker='acme://', backend='acme://{whole.home}/r.log', worker_pool='acme')\n"
    )
    done = whole.run("-m", "kernel", "-A", "sound", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    acme-audit: off" in done.stdout


def test_they_pass_the_kits_where_they_are_installed(whole: Environment) -> None:
    tests = shutil.copytree(SOURCE / "tests", whole.home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    done = whole.run("-m", "pytest", *PYTEST, str(tests), timeout=240)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    where = whole.run("-c", "import acme_kernel; print(acme_kernel.__file__)").stdout
    assert str(whole.folder) in where, "the installed copy was meant to be examined"


def test_the_code_of_the_page_is_a_distribution_that_works(whole: Environment) -> None:
    done = whole.run("-m", "kernel", "plugins", "--check", "--json")
    rows = [row for row in json.loads(done.stdout)["plugins"] if row["distribution"] == "kernel-pear"]
    assert {(row["kind"], row["name"], row["version"], row["state"]) for row in rows} == {
        ("serializers", "netstring", "1.0.0", "ok"),
        ("compressors", "deflate", "1.0.0", "ok"),
        ("pools", "pear", "1.0.0", "ok"),
        ("schedulers", "pear", "1.0.0", "ok"),
        ("hooks", "pear-slow", "1.0.0", "ok"),
    }, done.stdout + done.stderr


def test_the_code_of_the_page_passes_the_kits(whole: Environment, page: Path) -> None:
    assert len(list((page / "tests").glob("test_*.py"))) == 5
    tests = shutil.copytree(page / "tests", whole.home / "page")
    (tests / "test_rest.py").write_text(REST)
    # The broker and the backend of the page are those of the example, which has just passed whole.
    done = whole.run("-m", "pytest", *PYTEST, str(tests), "-k", "not Acme or declares", timeout=240)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


# Of these there is no kit.
REST = """
import time

from kernel import Kernel
from kernel.interfaces import schedule
from kernel.interfaces.broker import Delivery
from kernel.interfaces.outcome import Outcome, Skip
from kernel.message import Message
from pear.schedule import PearSchedule


def test_the_schedule_store_sends_once():
    store = PearSchedule(schedule.SchedulerConfig())
    assert isinstance(store, schedule.ScheduleStore)
    store.upsert([schedule.ScheduleRow(name="a", document="{}", next_run=5.0)])
    assert store.lead("one", 30) and not store.lead("two", 30) and store.lead("one", 30)
    assert [row.name for row in store.due(4.0, 10)] == []
    assert [row.name for row in store.due(5.0, 10)] == ["a"]
    assert not store.mark_sent("a", "two", 5.0, 9.0)
    assert store.mark_sent("a", "one", 5.0, 9.0)
    assert not store.mark_sent("a", "one", 5.0, 9.0)
    store.upsert([schedule.ScheduleRow(name="a", document="{}", next_run=9.0)])
    assert [(row.total_runs, row.last_run) for row in store.list()] == [(1, 5.0)]
    store.remove(["a", "b"])
    assert store.list() == []


def test_the_hook_plugin(caplog):
    app = Kernel("pear", broker="memory://", pear_refuse=["gone"], pear_slow_after="1s")

    @app.task(name="quick", may_be_slow=True)
    def quick(): ...

    @app.task(name="late")
    def late(): ...

    class Worker:
        settings = {"pear_refuse": ["gone"]}

    class Child:
        pass

    child = Child()
    child.app = app
    with app:
        assert app.broker
        found = dict(app.extensions.collect_from("kernel_doctor", app=app))["pear-slow"]
        assert [finding.level for finding in found] == ["warn"]
        app.extensions.setup("kernel_worker_start", worker=Worker())
        app.extensions.setup("kernel_child_start", child=child)
        for name, answer in (("gone", Skip("refused by pear")), ("quick", None)):
            message = Message({"id": "1", "task": name}, b"", content_type="application/json")
            delivery = Delivery(message, "celery", "token")
            assert app.extensions.first("kernel_task_admit", app.extensions.hot.kernel_task_admit, delivery) == answer
        from kernel import Request
        for name in ("quick", "late"):
            request = Request()
            request.app, request.task = app, name
            app.extensions.observe(app.extensions.hot.kernel_task_end, request, Outcome("SUCCESS", runtime=1.5))
    assert [record.getMessage() for record in caplog.records if record.name == "pear.slow"] == ["late took 1.5 s"]
    assert app.extensions.error_counts == {}
"""


def test_they_see_the_stable_surface_alone() -> None:
    seen: set[str] = set()
    for path in sorted((SOURCE / "acme_kernel").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # What is imported for annotations alone does not exist when the plugin runs.
        hidden = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if node in hidden:
                continue
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                seen |= {f"{module}.{alias.name}" for alias in node.names} if module == "kernel" else {module}
    ours = {name for name in seen if name.partition(".")[0] == "kernel"}
    assert len(ours) > 4
    assert {name for name in ours if not name.startswith(ALLOWED)} == set()


# --- without json and prefork ---------------------------------------------------------------------------------

APP = """
import os
from kernel import Kernel

app = Kernel(
    "lean",
    broker="sqlite:///{home}/jobs.db",
    backend="acme://{home}/results.log",
    task_serializer="msgpack",
    result_serializer="msgpack",
    accept_content=["msgpack"],
    worker_pool="acme",
    acme_audit_file="{home}/audit.log",
)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def fail() -> None:
    raise ValueError("on purpose")


@app.task(audit=False)
def where() -> int:
    return os.getpid()
"""
CALLS = """
import json
from lean import add, fail, where

sums = [add.delay(n, n) for n in range(50)]
failed = fail.delay()
print(json.dumps({
    "sums": [result.get(timeout=30) for result in sums],
    "state": failed.get(timeout=30, propagate=False) and failed.state,
    "pid": where.delay().get(timeout=30),
}))
"""


def test_the_kernel_imports_and_says_what_is_missing(lean: Environment) -> None:
    plain = "from kernel import Kernel\napp = Kernel('plain')\n@app.task\ndef add(x, y):\n    return x + y\n"
    (lean.home / "plain.py").write_text(plain)
    done = lean.run("-c", "import kernel; from plain import add; print(add(2, 3)); add.delay(2, 3)")
    assert done.stdout == "5\n"
    assert "the serializer 'json' is provided by kernel-serializer-json, which is not installed" in done.stderr
    assert "pip install 'kernel[json]'" in done.stderr
    worker = lean.run("-m", "kernel", "-A", "plain", "worker")
    assert worker.returncode != 0
    assert "pip install 'kernel[prefork]'" in worker.stdout + worker.stderr
    doctor = lean.run("-m", "kernel", "-A", "plain", "doctor", "--json")
    assert doctor.returncode == 1
    failed = {row["subject"]: row["text"] for row in json.loads(doctor.stdout)["findings"] if row["level"] == "fail"}
    assert "pip install 'kernel[json]'" in failed["task_serializer json"]
    assert "pip install 'kernel[prefork]'" in failed["worker_pool prefork"]


@pytest.fixture
def worker(lean: Environment) -> Iterator[subprocess.Popen[str]]:
    """A worker with one child, in which the outsider's pool runs tasks."""
    (lean.home / "lean.py").write_text(APP.format(home=lean.home))
    log = lean.folder / "worker.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [lean.python, "-m", "kernel", "-A", "lean", "worker", "-l", "INFO", "-c", "3"],
            cwd=lean.home,
            env=lean.variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "ready." not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def test_it_runs_on_msgpack_and_the_outsiders_pool(lean: Environment, worker: subprocess.Popen[str]) -> None:
    done = lean.run("-c", CALLS, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr + (lean.folder / "worker.log").read_text()
    answers = json.loads(done.stdout)
    assert answers["sums"] == [2 * n for n in range(50)]
    assert answers["state"] == "FAILURE"
    assert answers["pid"] != worker.pid, "a child runs the tasks"
    noted = [json.loads(line) for line in (lean.home / "audit.log").read_text().splitlines()]
    assert sorted({line["task"] for line in noted}) == ["lean.add", "lean.fail"], "where() has audit=False"
    assert sum(line["state"] == "SUCCESS" for line in noted) == 50
