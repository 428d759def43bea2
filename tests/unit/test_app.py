from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import kernel
from kernel import errors
from kernel.app import Kernel
from kernel.disabled import DisabledBackend
from kernel.drivers import table
from kernel.hooks import TaskOption, hookimpl
from kernel.interfaces.setting import Setting
from kernel.task import Task


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = Kernel("tests", broker="memory://", backend="memory://")
    yield app
    app.close()


def python(code: str, *arguments: str, cwd: Path | None = None, **env: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the package --------------------------------------------------------------------------------------------


def test_importing_the_package_loads_next_to_nothing() -> None:
    out = python(
        """
        import sys, time
        before = set(sys.modules)
        started = time.perf_counter()
        import kernel
        spent = time.perf_counter() - started
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        heavy = {"stevedore", "importlib.metadata", "asyncio", "click", "json", "pluggy", "logging", "inspect"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        print(spent)
        """
    )
    # The promise is 60 ms on a quiet machine; this bound only tells a lazy import from an eager one.
    assert float(out) < 1


def test_making_an_app_with_tasks_reads_no_entry_point_and_opens_nothing(tmp_path: Path) -> None:
    out = python(
        """
        import sys
        from kernel import Kernel
        app = Kernel("quiet")
        @app.task
        def add(x, y): ...
        add.s(1, 2)
        heavy = {"stevedore", "asyncio", "click", "sqlite3", "importlib.metadata"}
        print(sorted(heavy & set(sys.modules)), app.state)
        """,
        cwd=tmp_path,
    )
    assert out.strip() == "[] new"
    assert list(tmp_path.iterdir()) == []


def test_public_names_are_a_list() -> None:
    assert sorted(kernel.__all__) == list(kernel.__all__)
    for name in kernel.__all__:
        assert getattr(kernel, name) is not None
    assert set(kernel.__all__) <= set(dir(kernel))
    assert set(kernel._HOMES) == set(kernel.__all__)
    with pytest.raises(AttributeError, match="Kernle"):
        _ = kernel.Kernle


# --- registering tasks --------------------------------------------------------------------------------------


def test_the_decorator_with_and_without_parentheses(app: Kernel) -> None:
    @app.task
    def one() -> None: ...

    @app.task()
    def two() -> None: ...

    @app.task(name="named", bind=True)
    def three(self: Any) -> None: ...

    assert sorted(app.tasks) == sorted([f"{__name__}.one", f"{__name__}.two", "named"])
    with pytest.raises(TypeError, match="function"):
        app.task("name")  # type: ignore[call-overload]


def test_names_in_a_script_are_those_that_a_worker_imports(tmp_path: Path) -> None:
    script = tmp_path / "jobs.py"
    script.write_text(
        "from kernel import Kernel\n"
        "import sys\n"
        "app = Kernel(*sys.argv[1:])\n"
        "@app.task\n"
        "def add(): ...\n"
        "print(add.name)\n"
    )
    for arguments, name in (([], "jobs.add"), (["shop"], "shop.add")):
        done = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.stdout.strip() == name, done.stderr
    done = subprocess.run([sys.executable, "-m", "jobs"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.strip() == "jobs.add", done.stderr


def test_naming_can_be_overridden() -> None:
    class Mine(Kernel):
        def gen_task_name(self, name: str, module: str) -> str:
            return f"mine.{name}"

    app = Mine("tests", broker="memory://")

    @app.task
    def add() -> None: ...

    assert add.name == "mine.add"


def test_the_first_of_two_with_one_name_stays(app: Kernel) -> None:
    @app.task(name="same")
    def first() -> None: ...

    with pytest.warns(errors.DuplicateTaskNameWarning, match="second"):

        @app.task(name="same")
        def second() -> None: ...

    assert second is first is app.tasks["same"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert app.task(name="same")(first.__wrapped__) is first  # type: ignore[attr-defined]


def test_an_unknown_option_is_refused_with_the_nearest(app: Kernel) -> None:
    with pytest.raises(TypeError, match=r"'max_retires'; did you mean 'max_retries'"):

        @app.task(max_retires=3)  # type: ignore[call-overload,untyped-decorator]
        def work() -> None: ...

    assert len(app.tasks) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"autoretry_for": OSError}, TypeError),
        ({"autoretry_for": ("OSError",)}, TypeError),
        ({"throws": (5,)}, TypeError),
        ({"max_retries": "3"}, TypeError),
        ({"max_retries": -1}, TypeError),
        ({"time_limit": True}, TypeError),
        ({"time_limit": 1, "soft_time_limit": 2}, ValueError),
        ({"shared": True}, TypeError),
    ],
)
def test_options_that_cannot_be_are_refused(app: Kernel, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        app.task(**options)(lambda: None)


def test_a_callable_without_a_name_needs_one(app: Kernel) -> None:
    from functools import partial

    with pytest.raises(TypeError, match="name="):
        app.task(partial(int, base=2))
    assert app.task(name="binary")(partial(int, base=2))("101") == 5


def test_an_option_that_has_no_effect_yet_is_told(app: Kernel) -> None:
    with pytest.warns(errors.OptionNotServed, match="rate_limit"):
        app.task(name="x", rate_limit="10/s")(lambda: None)
    assert app.tasks["x"].rate_limit == "10/s"


def test_plugins_own_options_settings_and_hear_of_tasks() -> None:
    class Plugin:
        def __init__(self) -> None:
            self.heard: list[str] = []

        @hookimpl
        def kernel_task_options(self, app: Kernel) -> dict[str, TaskOption]:
            return {"tenant": TaskOption(default=None, type=str, doc="the name of a tenant")}

        @hookimpl
        def kernel_settings(self) -> list[Setting]:
            return [Setting("tenant_default", "str", "nobody", "Tenant of tasks that name none.")]

        @hookimpl
        def kernel_configure(self, app: Kernel) -> None:
            self.heard.append(f"configure {app.conf.tenant_default}")

        @hookimpl
        def kernel_unconfigure(self, app: Kernel) -> None:
            self.heard.append("unconfigure")

        @hookimpl
        def kernel_task_registered(self, app: Kernel, task: Task[..., Any]) -> None:
            self.heard.append(task.name)

    plugin = Plugin()
    app = Kernel("tests", broker="memory://", plugins=[plugin], tenant_default="me")
    app.task(name="early", tenant="a")(lambda: None)  # type: ignore[call-overload]
    app.task(name="typed", plugin_options={"tenant": "b"})(lambda: None)
    assert (app.tasks["early"].tenant, app.tasks["typed"].tenant) == ("a", "b")  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="the name of a tenant"):
        app.task(plugin_options={"tenant": 5})(lambda: None)
    assert plugin.heard == []
    app.send_task("early")
    app.task(name="late")(lambda: None)
    assert plugin.heard == ["configure me", "early", "typed", "late"]
    app.close()
    app.close()
    assert plugin.heard[-1] == "unconfigure"
    assert plugin.heard.count("unconfigure") == 1


def test_a_missing_task_is_told_with_the_nearest(app: Kernel) -> None:
    with pytest.raises(errors.NotRegistered, match="has no tasks at all"):
        app.tasks["x"]
    app.task(name="shop.orders.send")(lambda: None)
    with pytest.raises(errors.NotRegistered, match=r"did you mean 'shop.orders.send'"):
        app.tasks["shop.order.send"]
    with pytest.raises(KeyError):
        app.tasks["zzz"]
    assert app.tasks.get("zzz") is None


def test_a_base_class_for_all_tasks() -> None:
    class Base(Task[..., Any]):
        max_retries = 7

    app = Kernel("tests", broker="memory://", task_cls=Base)
    assert app.task(name="x")(lambda: None).max_retries == 7

    class Shop(Kernel):
        task_cls = Base

    assert isinstance(Shop("shop", broker="memory://").task(name="x")(lambda: None), Base)


# --- settings and addresses ---------------------------------------------------------------------------------


def test_settings_come_from_the_constructor_and_objects() -> None:
    class Config:
        task_default_queue = "from-object"

    app = Kernel("tests", broker="memory://", include=["json"], task_track_started=True, config_source=Config)
    assert (app.conf.task_track_started, app.conf.include) == (True, ("json",))
    assert app.conf.task_default_queue == "from-object"

    class Celery:
        CELERY_TASK_DEFAULT_QUEUE = "namespaced"

    app = Kernel("tests", broker="memory://", namespace="CELERY", config_source=Celery)
    assert app.conf.task_default_queue == "namespaced"


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(errors.UnknownSetting, match="task_track_started"):
        Kernel("tests", broker="memory://", task_trak_started=True)
    app = Kernel("tests", broker="memory://", something_of_a_plugin=1)
    with pytest.raises(errors.UnknownSetting, match="something_of_a_plugin"):
        app.send_task("x")


def test_what_drivers_were_built_from_cannot_change_while_open(app: Kernel) -> None:
    app.send_task("x")
    with pytest.raises(errors.ImproperlyConfigured, match="broker_url"):
        app.conf.broker_url = "memory://other"
    app.conf.task_always_eager = True
    app.close()
    app.conf.broker_url = "memory://other"


def test_the_embedded_default_is_a_file_beside_the_module(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from kernel import Kernel\napp = Kernel('sh/op')\nnameless = Kernel()\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = """
        import sys; sys.path.insert(0, sys.argv[1])
        import json, shop
        found = [shop.app, shop.nameless]
        shop.app.send_task("x")
        print(json.dumps([[app.addresses.broker_url(), app.backend_url] for app in found]))
        shop.app.close()
    """
    urls = json.loads(python(code, str(tmp_path), cwd=elsewhere))
    assert urls == [[f"sqlite:///{tmp_path}/.kernel/{name}.db"] * 2 for name in ("sh_op", "shop")]
    assert (tmp_path / ".kernel" / "sh_op.db").exists()
    assert (tmp_path / ".kernel" / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE((tmp_path / ".kernel").stat().st_mode) == 0o700
    assert list(elsewhere.iterdir()) == []


def test_the_file_of_the_embedded_default_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a b%c?" / "data.db"
    monkeypatch.setenv("KERNEL_DATA", str(file))
    app = Kernel("tests")
    assert app.addresses.embedded == file
    app.send_task("x")
    assert file.exists()
    assert app.addresses.broker_shown == str(file)
    app.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = Kernel("tests", data=str(tmp_path / "file" / "x" / "data.db"))
    with pytest.raises(errors.ImproperlyConfigured, match="KERNEL_DATA"):
        app.send_task("x")
    app.close()


def test_a_broker_alone_keeps_no_results() -> None:
    app = Kernel("tests", broker="memory://")
    assert app.backend_url is None
    result = app.send_task("x")
    assert isinstance(app.backend, DisabledBackend)
    for read in (lambda: result.state, lambda: result.get(timeout=1), result.forget):
        with pytest.raises(NotImplementedError, match="No result backend is configured"):
            read()
    app.close()


def test_a_backend_alone_leaves_the_embedded_broker(tmp_path: Path) -> None:
    app = Kernel("tests", backend="memory://", data=str(tmp_path / "x.db"))
    assert app.backend_url == "memory://"
    assert app.addresses.broker_url() == f"sqlite:///{tmp_path}/x.db"


def test_several_urls_and_urls_for_reading() -> None:
    app = Kernel("tests", broker=["memory://a", "memory://b"], broker_read_url="memory://read")
    assert app.addresses.broker_url() == "memory://a;memory://b"
    assert app.broker_config(read=True).url == "memory://read"
    assert app.broker_for_worker() is not app.broker
    app.close()


def test_a_missing_driver_is_told_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.DRIVERS["brokers"], "later", ("kernel-broker-later", "later"))
    app = Kernel("tests", broker="later://localhost")
    with pytest.raises(errors.DriverNotInstalled, match="pip install"):
        app.send_task("x")


# --- life ---------------------------------------------------------------------------------------------------


def test_states_of_an_app(app: Kernel) -> None:
    states = [app.state]
    app.send_task("x")
    assert [*states, app.state] == ["new", "open"]
    app.close()
    app.close()
    assert app.state == "closed"
    for use in (lambda: app.send_task("x"), lambda: app.broker, lambda: app.AsyncResult("i").state):
        with pytest.raises(errors.AppClosed, match=r"open\(\)"):
            use()
    with app:
        app.send_task("x")
        states.append(app.state)
    assert [*states, app.state] == ["new", "open", "closed"]


def test_closing_tells_what_went_wrong_after_closing_everything(app: Kernel) -> None:
    closed: list[str] = []

    class Bad:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            raise OSError(self.name)

    app.opened._broker = Bad("broker")  # type: ignore[assignment]
    app.opened._backend = Bad("backend")  # type: ignore[assignment]
    with pytest.raises(OSError, match="broker"):
        app.close()
    assert closed == ["backend", "broker"]
    assert app.state == "closed"


def test_many_threads_open_one_broker(app: Kernel) -> None:
    found: list[Any] = []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait(10)
        found.append((app.broker, app.backend, app.publisher, app.oid))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_two_apps_do_not_meet() -> None:
    apps = [Kernel(name, broker="memory://", backend="memory://") for name in ("a", "b")]
    barrier = threading.Barrier(2)

    def use(app: Kernel) -> None:
        task = app.task(name="same")(lambda: None)
        barrier.wait(10)
        for _ in range(50):
            task.delay()

    threads = [threading.Thread(target=use, args=(app,)) for app in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [app.broker.stats()[0].ready for app in apps] == [50, 50]
    assert apps[0].tasks["same"] is not apps[1].tasks["same"]
    assert apps[0].broker is not apps[1].broker
    for app in apps:
        app.close()


def test_a_forked_child_opens_its_own(tmp_path: Path) -> None:
    code = """
        import json, os, sys
        from kernel import Kernel
        app = Kernel("forked", data=sys.argv[1])
        app.send_task("parent")
        mine = app.broker, app.oid
        pid = os.fork()
        if pid == 0:
            own = app.broker is not mine[0] and app.oid != mine[1]
            app.send_task("child")
            app.close()
            os._exit(0 if own else 1)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        assert app.broker is mine[0]
        app.send_task("after")
        print(json.dumps(sorted(message.task for message in app.broker.peek("celery", 10))))
        app.close()
    """
    assert json.loads(python(code, str(tmp_path / "x.db"))) == ["after", "child", "parent"]


# --- the rest -----------------------------------------------------------------------------------------------


def test_time() -> None:
    app = Kernel("tests", broker="memory://")
    assert app.timezone is UTC
    assert app.uses_utc_timezone()
    assert abs(app.now() - datetime.now(UTC)) < timedelta(seconds=10)
    app.conf.timezone = "Europe/Berlin"
    assert str(app.timezone) == "Europe/Berlin"
    assert not app.uses_utc_timezone()
    app.conf.timezone = None
    app.conf.enable_utc = False
    summer, winter = datetime(2030, 7, 1, 12), datetime(2030, 1, 1, 12)
    for naive in (summer, winter):
        assert naive.replace(tzinfo=app.timezone).timestamp() == naive.timestamp()
        assert datetime.fromtimestamp(naive.timestamp(), app.timezone).replace(tzinfo=None) == naive


def test_modules_of_tasks_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for package in ("auto_one", "auto_two"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "auto_one" / "tasks.py").write_text("found = True\n")
    (tmp_path / "auto_bad.py").write_text("import missing_thing\n")
    app = Kernel("tests", broker="memory://", include=["auto_one"])
    app.autodiscover_tasks(["auto_one", "auto_two", "auto_two.Config"])
    app.autodiscover_tasks(lambda: ["auto_one"])
    assert "auto_one.tasks" not in sys.modules
    app.import_default_modules()
    assert "auto_one.tasks" in sys.modules
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        app.autodiscover_tasks(["nowhere_at_all"], force=True)
    with pytest.raises(errors.ImproperlyConfigured, match="include"):
        Kernel("t", broker="memory://", include=["nowhere_at_all"]).import_default_modules()
    with pytest.raises(ModuleNotFoundError, match="missing_thing"):
        Kernel("t", broker="memory://", include=["auto_bad"]).import_default_modules()


def test_packages_of_django_are_those_that_are_installed(
    app: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.autodiscover_tasks()
    with pytest.raises(errors.ImproperlyConfigured, match="name the packages"):
        app.import_default_modules()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "auto_shop").mkdir()
    for file in ("__init__.py", "tasks.py"):
        (tmp_path / "auto_shop" / file).write_text("")
    installed = SimpleNamespace(get_app_configs=lambda: [SimpleNamespace(name="auto_shop")])
    monkeypatch.setitem(sys.modules, "django.apps", cast("Any", SimpleNamespace(apps=installed)))
    app.import_default_modules()
    assert "auto_shop.tasks" in sys.modules


def test_send_task_warns_that_it_publishes_in_eager_mode(app: Kernel) -> None:
    app.conf.task_always_eager = True
    with pytest.warns(errors.AlwaysEagerIgnored, match="publishes"):
        app.send_task("x")
    assert app.broker.stats()[0].ready == 1
    app.conf.task_always_eager = False
    with pytest.raises(TypeError, match="list or tuple"):
        app.send_task("x", "12")


def test_worker_main_needs_the_command(app: Kernel) -> None:
    with pytest.raises(ValueError, match="worker"):
        app.worker_main(["-l", "INFO"])


def test_display() -> None:
    assert repr(Kernel("shop", broker="memory://")).startswith("<Kernel shop at 0x")
