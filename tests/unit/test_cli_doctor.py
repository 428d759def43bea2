"""`kernel doctor`."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import kernel
from kernel.cli import checks, exits, main
from kernel.hooks import Finding

PLUGIN = """
    from kernel.hooks import Finding, Setting, hookimpl
    from kernel.interfaces.setting import Setting

    class Plugin:
        @hookimpl
        def kernel_settings(self):
            return [Setting("acme_level", "int", 3, "A level.")]
        @hookimpl
        def kernel_doctor(self, app):
            return [Finding("acme", "warn", f"level {app.conf.acme_level}", "raise it"), "not a finding"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("KERNEL_RUN_DIR", str(tmp_path / "run"))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and findings by subject."""
    code = main(["doctor", "--json", *arguments])
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "doctor/1"
    assert sum(data["counts"].values()) == len(data["findings"])
    return code, {finding["subject"]: finding for finding in data["findings"]}


def app_file(folder: Path, **settings: object) -> str:
    name = f"app_{time.monotonic_ns()}"
    given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    (folder / f"{name}.py").write_text(f"from kernel import Kernel\napp = Kernel('doctored', {given})\n")
    return name


# --- a sound installation -------------------------------------------------------------------------------------


def test_an_app_that_is_sound(capsys, folder):
    code, found = run(capsys, "-A", app_file(folder, broker="memory://", backend="memory://"))
    assert code == exits.OK
    assert [subject for subject, finding in found.items() if finding["level"] != "ok"] == []
    assert "memory://" in found["broker"]["text"]
    assert "0 dead letters" in found["broker"]["text"]
    assert found["worker_pool prefork"]["level"] == "ok"
    assert found["versions"]["text"].startswith(f"kernel {kernel.__version__}, Python 3.")


def test_without_an_app_the_rest_is_looked_at(capsys):
    code, found = run(capsys)
    assert code == exits.OK
    assert found["app"]["level"] == "warn"
    assert "-A" in found["app"]["remedy"]
    assert {"versions", "import kernel", "settings", "plugins", "drivers"} <= set(found)
    assert "broker" not in found


def test_for_people(capsys, folder):
    assert main(["doctor", "-A", app_file(folder, broker="nonesuch://")]) == exits.FAILED
    out = capsys.readouterr().out
    assert "ok    versions: kernel " in out
    assert "fail  broker: there is no broker driver 'nonesuch'" in out


# --- what is wrong --------------------------------------------------------------------------------------------


def test_an_app_that_cannot_be_imported(capsys, folder):
    (folder / "bad_app.py").write_text("import gone_library\n")
    code, found = run(capsys, "-A", "bad_app")
    assert code == exits.FAILED
    assert "gone_library" in found["app"]["text"]
    assert found["settings"]["level"] == "ok"


def test_settings_that_are_wrong(capsys, folder, monkeypatch):
    monkeypatch.setenv("KERNEL_WORKER_LEASE", "soon")
    code, found = run(capsys, "-A", app_file(folder, broker="memory://"))
    assert code == exits.FAILED
    assert "worker_lease cannot be 'soon'" in found["settings"]["text"]
    assert found["plugins"]["level"] == "warn"
    assert "broker" not in found, "nothing can be opened with settings that are refused"


def test_drivers_that_the_settings_name_and_that_are_not_there(capsys, folder):
    name = app_file(
        folder,
        broker="memory://",
        task_serializer="jsonn",
        accept_content=["json", "marshal"],
        task_compression="rar",
        worker_pool="gevent",
    )
    code, found = run(capsys, "-A", name)
    assert code == exits.FAILED
    assert "Did you mean 'json'" in found["task_serializer jsonn"]["text"]
    assert found["accept_content marshal"]["level"] == "fail"
    assert found["task_compression rar"]["level"] == "fail"
    assert "pip install 'kernel[gevent]'" in found["worker_pool gevent"]["text"]
    assert found["broker"]["level"] == "ok"


BROKER = """
    from kernel.errors import OperationalError

    class Broker:
        interface = (1, 0)
        settings = ()
        def __init__(self, config): ...
        def open(self): {open}
        def close(self): ...
        def anything(self, *args, **kwargs): ...
        declare = publish = consume = stats = purge = peek = pause = resume = anything
        dead_letters = retry_dead = drop_dead = broadcast = subscribe = anything
"""


@pytest.mark.parametrize(
    ("fault", "text", "remedy"),
    [
        ("raise OperationalError('refused')", "it does not open: refused", "broker_url is right"),
        ("raise OSError('no route')", "it does not open: no route", "broker_url is right"),
        ("1 / 0", "ZeroDivisionError", "a fault of the driver"),
    ],
)
def test_a_broker_that_does_not_open(capsys, folder, installer, fault, text, remedy):
    source = BROKER.replace("{open}", fault)
    installer.add("acme-mq", points={"kernel.brokers": {"acmemq": "acme_mq:Broker"}}, modules={"acme_mq": source})
    code, found = run(capsys, "-A", app_file(folder, broker="acmemq://user:secret@host"))
    assert code == exits.FAILED
    assert text in found["broker"]["text"]
    assert remedy in found["broker"]["remedy"]
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("findings", "level", "text"),
    [
        ("[Finding('mq disk', 'warn', 'nearly full', 'empty it')]", "warn", "nearly full"),
        ("1 / 0", "warn", "its findings failed: ZeroDivisionError"),
    ],
)
def test_what_a_driver_says_of_its_server(capsys, folder, installer, findings, level, text):
    source = "from kernel.hooks import Finding\n" + textwrap.dedent(BROKER.replace("{open}", "..."))
    source += f"""
    def stats(self, names=()): return ()
    def findings(self): return {findings}
"""
    installer.add("acme-mq", points={"kernel.brokers": {"saidmq": "said_mq:Broker"}}, modules={"said_mq": source})
    monitored = list(checks._opens(_app_on("saidmq://"), "broker"))
    assert monitored[0].level == "ok"
    assert (monitored[1].level, text in monitored[1].text) == (level, True)


def _app_on(broker: str) -> Any:
    return kernel.Kernel("direct", broker=broker)


def test_a_driver_that_is_broken_is_a_warning_until_it_is_asked_for(capsys, folder, installer):
    installer.add("acme-pool", points={"kernel.pools": {"acmep": "acme_p:Pool"}}, modules={"acme_p": "import gone_lib"})
    code, found = run(capsys, "-A", app_file(folder, broker="memory://"))
    assert code == exits.OK
    assert found["pools acmep"]["level"] == "warn"
    assert "gone_lib" in found["pools acmep"]["text"]
    code, found = run(capsys, "-A", app_file(folder, broker="memory://", worker_pool="acmep"))
    assert code == exits.FAILED


def test_two_distributions_of_one_driver(capsys, installer):
    for name in ("one", "two"):
        installer.add(f"acme-{name}", points={"kernel.pools": {"acmep": f"acme_{name}:Pool"}})
    _, found = run(capsys)
    assert "acme-one 1.0" in found["pools acmep"]["text"]
    assert "the setting `drivers`" in found["pools acmep"]["remedy"]


def test_a_list_of_entry_points_that_is_older_than_an_installation(capsys, installer):
    from stevedore import ExtensionManager

    _, found = run(capsys)
    assert "entry points" not in found
    installer.add("acme-late", points={"kernel.plugins": {"late": "acme_late:Plugin"}})
    ExtensionManager.ENTRY_POINT_CACHE["kernel.plugins"] = []
    code, found = run(capsys)
    assert code == exits.OK
    assert "kernel.plugins that stevedore keeps differs from what is installed in: " in found["entry points"]["text"]
    assert "late" in found["entry points"]["text"]
    assert found["entry points"]["remedy"].endswith("python-entrypoints")


def test_plugins_that_cannot_be_loaded(capsys, folder):
    code, found = run(capsys, "-A", app_file(folder, broker="memory://", plugins=["gone_module:x"]))
    assert code == exits.FAILED
    assert "gone_module" in found["plugins"]["text"]
    assert "disable_plugins" in found["plugins"]["remedy"]


def test_what_plugins_say(capsys, folder, installer):
    installer.add(
        "acme-plugin",
        points={"kernel.plugins": {"acme": "acme_plugin:Plugin"}},
        modules={"acme_plugin": PLUGIN.replace("Finding, Setting, hookimpl", "Finding, hookimpl")},
    )
    code, found = run(capsys, "-A", app_file(folder, broker="memory://"))
    assert code == exits.OK
    assert found["acme"]["text"].startswith("its kernel_doctor answered 'not a finding'")
    rows = list(checks.hook_findings(_app(acme_level=7)))
    assert rows[0] == Finding("acme", "warn", "level 7", "raise it")


def test_a_plugin_whose_examination_fails(capsys, folder, installer):
    source = PLUGIN.replace("Finding, Setting, hookimpl", "Finding, hookimpl").replace("app.conf.acme_level", "1 / 0")
    installer.add("acme-plugin", points={"kernel.plugins": {"acme": "acme_bad:Plugin"}}, modules={"acme_bad": source})
    code, found = run(capsys, "-A", app_file(folder, broker="memory://"))
    assert code == exits.FAILED
    assert "plugin 'acme' failed in kernel_doctor: ZeroDivisionError" in found["kernel_doctor"]["text"]


def _app(**settings: object) -> Any:
    app = kernel.Kernel("direct", broker="memory://", **settings)
    for _, declared in app.extensions.collect_from("kernel_settings"):
        app.conf.declare(declared, "test")
    return app


# --- workers --------------------------------------------------------------------------------------------------


def status(folder: Path, **values: object) -> None:
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    document = {"pid": os.getpid(), "written": time.time(), "blocked": None, "held": 3, **values}
    (folder / "run" / f"w-{os.getpid()}.json").write_text(json.dumps(document))


def test_a_worker_that_is_well(capsys, folder):
    status(folder)
    code, found = run(capsys)
    assert code == exits.OK
    assert found[f"worker {os.getpid()}"]["text"].endswith("3 messages in hand")


def test_a_plugin_that_blocks_a_worker_is_named(capsys, folder):
    status(folder, blocked={"plugin": "sleepy", "hook": "kernel_task_admit", "seconds": 12.5})
    code, found = run(capsys)
    assert code == exits.FAILED
    worker = found[f"worker {os.getpid()}"]
    assert "the plugin 'sleepy' has been blocking it in kernel_task_admit for 12.5 seconds" in worker["text"]
    assert "KERNEL_DISABLE_PLUGINS=sleepy" in worker["remedy"]


def test_a_worker_that_has_gone_silent(capsys, folder):
    status(folder, written=time.time() - 300)
    code, found = run(capsys)
    assert code == exits.OK
    assert found[f"worker {os.getpid()}"]["level"] == "warn"


# --- who owns `import kernel` ---------------------------------------------------------------------------------


def owner() -> Finding:
    (finding,) = checks.import_owner()
    return finding


def stranger(installer, name="somebody-elses-kernel", version="0.131.0") -> None:
    installer.add(name, version, points={})
    info = installer.folder / f"{name.replace('-', '_')}-{version}.dist-info"
    (info / "RECORD").write_text("kernel/__init__.py,,\nkernel/other.py,,\n")


def only(monkeypatch, *names: str) -> None:
    everything = checks.metadata.distributions
    monkeypatch.setattr(
        checks.metadata, "distributions", lambda: [dist for dist in everything() if dist.metadata["Name"] in names]
    )


def test_it_is_ours():
    finding = owner()
    assert (finding.level, finding.remedy) == ("ok", "")
    assert finding.text.startswith(f"kernel {kernel.__version__} in ")


def test_two_distributions_bring_it(installer):
    stranger(installer)
    finding = owner()
    assert finding.level == "fail"
    assert f"kernel {kernel.__version__} and somebody-elses-kernel 0.131.0 both bring" in finding.text


def test_it_is_somebody_elses(installer, monkeypatch):
    stranger(installer)
    only(monkeypatch, "somebody-elses-kernel")
    assert owner().level == "fail"
    assert "belongs to somebody-elses-kernel 0.131.0, which is not this project" in owner().text


def test_the_unrelated_package_of_the_same_name(installer, monkeypatch):
    stranger(installer, "kernel")
    monkeypatch.setattr(checks.metadata, "distributions", lambda: _in(installer.folder))
    assert "belongs to kernel 0.131.0, which is not this project" in owner().text


def _in(folder: Path) -> list[Any]:
    from importlib.metadata import MetadataPathFinder

    return list(MetadataPathFinder.find_distributions(checks.metadata.DistributionFinder.Context(path=[str(folder)])))


def test_nobody_brings_it(monkeypatch):
    only(monkeypatch)
    assert owner().level == "warn"
    assert "no installed distribution brings" in owner().text


def test_another_folder_hides_it(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel" / "__init__.py"))
    finding = owner()
    assert finding.level == "fail"
    assert str(tmp_path) in finding.text
    assert "comes first on Python's path" in finding.remedy


def test_files_of_another_version(monkeypatch):
    monkeypatch.setattr(kernel, "__version__", "2026.99.0")
    assert owner().level == "warn"
    assert "its files are of 2026.99.0" in owner().text
