"""What the pages show to their reader runs as it stands there: each block of Python, and the command of the README."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import inspect
import re
import shlex
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from kernel import Kernel, drivers
from kernel.testing.workers import Project, WorkerProcess, project_in
from kernel.worker.worker import Worker

ROOT: Final = Path(__file__).resolve().parent.parent.parent

TASKS: Final = """
import re
from types import SimpleNamespace
from uuid import uuid4

urls, url, rows, order = ["a", "b"], "a", [1, 2], SimpleNamespace(key=7)

def save(row): ...
def links_of(url): return ["b", "c"] if url == "a" else []
def tell_somebody(self, exc, task_id, args, kwargs, einfo): ...
def by_customer(name, args, kwargs, options, task=None, **more): ...

@app.task
def add(x, y): return x + y

@app.task
def double(n): return 2 * n

@app.task
def merge(values): return values

def one(name):
    return app.task(name="shop." + name)(lambda *args: args[-1] if args else name)

fetch, index, resize, a, b, send, crop, scan, x, y, confirm, ship, letter = map(
    one, "fetch index resize a b send crop scan x y confirm ship letter".split()
)
header, body = [add.s(1, 1), add.s(2, 2)], merge.s()
"""
"""What the reader of a page is taken to have."""
STAND_INS: Final = {
    "{...}": "{}",
    'task_routes["x"]': 'task_routes[-1]["x"]',
    "redis://other/0": "memory://other",
    "get(timeout=5)": "get(timeout=30)",
    "10_000)": "100)",
}
"""For what a page leaves out, for servers that are not here, and for machines that are busy."""


@dataclass(frozen=True)
class Page:
    """A page of code. `left` are the numbers of blocks that do not run here, and why."""

    path: str
    before: str = TASKS
    left: tuple[tuple[int, str], ...] = ()
    after: str = ""
    """Code that looks at what the page did."""
    works: bool = True
    """Whether a worker runs its tasks; settings of drivers are made before there is one."""

    @property
    def blocks(self) -> list[str]:
        return blocks_of(self.path)

    def code(self) -> Iterator[str]:
        yield self.before
        left = {number for number, _ in self.left}
        for number, block in enumerate(self.blocks):
            if number not in left:
                yield block
        yield self.after


def blocks_of(path: str, language: str = "python") -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    for shown, meant in STAND_INS.items():
        text = text.replace(shown, meant)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    return [code for of, code in blocks if of == language]


PAGES: Final = (
    Page("docs/canvas.md", after="assert (add.s(2, 2) | double.s()).delay().get(timeout=30) == 8"),
    Page("docs/configuration.md", after="assert app.conf.result_expires == 2 * 86400"),
    Page("docs/publishing.md", left=((2, "needs a database: the tests of kernel-contrib-sqlalchemy"),)),
    Page(
        "docs/results.md",
        left=((1, "shows a value"),),
        after="assert load.apply((rows,)).successful() and result.get(timeout=30) == 4",
    ),
    Page(
        "docs/routing.md",
        after="""
queues = {stats.name: stats.ready for stats in app.broker.stats()}
assert [queues[name] for name in ("eu", "all-mail", "two", "urgent")] == [1, 2, 1, 1], queues
""",
    ),
    Page("docs/stamping.md"),
    Page(
        "docs/rabbitmq.md", works=False, after='assert app.conf.broker_use_ssl["ca_certs"] == "/etc/ssl/rabbit-ca.pem"'
    ),
    Page(
        "docs/redis.md",
        works=False,
        after='assert app.conf.broker_transport_options == {"global_keyprefix": "{shop}:"}',
    ),
    Page("docs/rpc.md", works=False),
)
OTHERS: Final = {
    "docs/plugins.md": "tests/integration/test_third_party_plugins.py runs it in an environment of its own",
    "docs/testing.md": "below",
    "README.md": "below",
}


def run(code: str, names: dict[str, Any], what: str) -> None:
    """As a reader's shell does, which lets ``await`` stand anywhere."""
    compiled = compile(code, what, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    coroutine = eval(compiled, names)
    if inspect.iscoroutine(coroutine):
        asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """The reader's module, where a page names one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROJ_SETTINGS", "proj.settings")
    values = types.SimpleNamespace(CELERY_TASK_ACKS_LATE=True)
    for name in ("proj", "proj.settings", "shop", "shop.routers", "django", "django.conf"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["django.conf"].settings = values  # type: ignore[attr-defined]
    sys.modules["shop.routers"].Router = type("Router", (), {"route_for_task": lambda *_args, **_more: None})  # type: ignore[attr-defined]
    module = types.ModuleType("shop.tasks")
    monkeypatch.setitem(sys.modules, "shop.tasks", module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_the_code_of_a_page_runs(page: Page, shop: types.ModuleType) -> None:
    app = Kernel("shop", broker="memory://", backend="memory://")
    names = shop.__dict__
    names.update(app=app, Kernel=Kernel)
    assert len(page.blocks) > len(page.left)
    try:
        with Worker(app, concurrency=4) if page.works else contextlib.nullcontext():
            for number, code in enumerate(page.code()):
                run(code, names, f"{page.path}, block {number}")
    finally:
        app.close()


def test_every_page_with_code_is_among_them() -> None:
    pages = [*ROOT.glob("docs/*.md"), ROOT / "README.md"]
    with_code = {str(path.relative_to(ROOT)) for path in pages if blocks_of(str(path.relative_to(ROOT)))}
    assert with_code == {page.path for page in PAGES} | set(OTHERS)


PLUGINS: Final = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*_*/README.md"))


@pytest.mark.parametrize("path", [path for path in PLUGINS if blocks_of(path)])
def test_the_addresses_of_a_plugins_page_lead_to_drivers(path: str) -> None:
    made: list[Kernel] = []

    def kernel(*args: Any, **settings: Any) -> Kernel:
        made.append(Kernel(*args, **settings))
        return made[-1]

    for number, block in enumerate(blocks_of(path)):
        run(block, {"Kernel": kernel}, f"{path}, block {number}")
    addresses = [("brokers", app.conf.broker_url) for app in made] + [
        ("backends", app.conf.result_backend) for app in made
    ]
    found = [drivers.load(kind, url, choices=made[0].conf.drivers) for kind, url in addresses if url]
    assert len(found) >= 1


def test_the_test_of_the_page_on_tests_passes(kernel_app: Kernel, kernel_worker: Worker) -> None:
    names: dict[str, Any] = {}
    run(blocks_of("docs/testing.md")[0], names, "docs/testing.md")
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    test(kernel_app, kernel_worker)
    assert len(kernel_app.tasks) > 0


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Project, Any]]:
    """The program of the README, and its module in this process."""
    with project_in(tmp_path / "p") as project:
        file = project.folder / "tasks.py"
        file.write_text(blocks_of("README.md")[0])
        monkeypatch.setenv("KERNEL_DATA", str(project.data))
        monkeypatch.chdir(project.folder)
        specification = importlib.util.spec_from_file_location("tasks", file)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        try:
            yield project, module
        finally:
            module.app.close()


def test_the_readme_is_followed_to_the_letter(tasks: tuple[Project, Any]) -> None:
    project, module = tasks
    (command,) = [block for block in blocks_of("README.md", language="") if block.startswith("kernel ")]
    words = shlex.split(command, comments=True)
    assert words[:4] == ["kernel", "-A", "tasks", "worker"]
    with WorkerProcess(project, *words[4:], app="tasks"):
        run(blocks_of("README.md")[1], module.__dict__, "README.md")
        assert module.add.delay(2, 3).get(timeout=30) == 5
