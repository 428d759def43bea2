"""`kernel plugins`."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from kernel.cli import exits, main

POOL = """
    class Pool:
        interface = (1, 0)
        capabilities = None
        settings = ()
        def __init__(self, config): ...
        def serve(self, inbox): ...
"""
PLUGIN = """
    from kernel.hooks import hookimpl

    class Plugin:
        @hookimpl
        def kernel_task_start(self, request): ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, rows by kind and name, and what was said."""
    code = main(["plugins", "--json", *arguments])
    seen = capsys.readouterr()
    data = json.loads(seen.out) if seen.out else {"plugins": [], "faults": []}
    rows = {f"{row['kind']}:{row['name']}": row for row in data["plugins"]}
    return code, rows, "\n".join(data["faults"]) + seen.err


def install(installer, name="acme", source=POOL, group="kernel.pools", target="Pool"):
    module = f"{name}_made_up"
    installer.add(
        f"{name}-dist",
        "1.5",
        points={group: {name: f"{module}:{target}"}},
        modules={module: source},
    )


def test_everything_is_listed_and_nothing_imported(capsys, installer):
    install(installer, source="raise SystemExit('imported')")
    install(installer, "spy", "raise SystemExit('imported')", "kernel.plugins", "Plugin")
    code, rows, said = run(capsys)
    assert (code, said) == (exits.OK, "")
    acme = rows["pools:acme"]
    assert (acme["distribution"], acme["version"], acme["state"]) == ("acme-dist", "1.5", "installed")
    assert rows["hooks:spy"]["state"] == "enabled"
    assert rows["hooks:expiry"]["distribution"] == "kernel"
    assert {"brokers:memory", "backends:sql", "serializers:json", "compressors:zlib", "pools:prefork"} <= set(rows)
    assert not {"acme_made_up", "spy_made_up"} & set(sys.modules)


def test_as_a_table_on_a_pipe(capsys):
    assert main(["plugins", "--kind", "pools"]) == exits.OK
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in lines if line[1] == "solo")[:3] == ["pools", "solo", "kernel-pool-solo"]
    assert {line[0] for line in lines} == {"pools"}


def test_check_imports_each_and_says_what_is_wrong(capsys, installer):
    install(installer)
    install(installer, "broken", "import gone_library")
    install(installer, "newer", POOL.replace("(1, 0)", "(9, 0)"))
    code, rows, _ = run(capsys, "--check", "--kind", "pools")
    assert code == exits.FAILED
    assert rows["pools:acme"]["state"] == "ok"
    assert rows["pools:acme"]["seconds"] >= 0
    assert rows["pools:broken"]["state"] == "broken"
    assert "gone_library" in rows["pools:broken"]["detail"]
    assert rows["pools:newer"]["state"] == "incompatible"
    assert "Upgrade kernel" in rows["pools:newer"]["detail"]
    assert rows["pools:prefork"]["state"] == "ok"


def test_the_table_says_what_is_wrong_underneath(capsys, installer):
    install(installer, "broken", "import gone_library")
    assert main(["plugins", "--check", "--kind", "pools"]) == exits.FAILED
    seen = capsys.readouterr()
    assert "broken\tbroken-dist\t1.5\tbroken\t" in seen.out
    assert "pools broken: the pool 'broken' of broken-dist 1.5 is installed, but" in seen.err


def test_check_of_what_is_sound_is_a_success(capsys):
    code, rows, _ = run(capsys, "--check", "--kind", "compressors")
    assert code == exits.OK
    assert {row["state"] for row in rows.values()} == {"ok"}


def test_check_of_hook_plugins(capsys, installer):
    install(installer, "spy", PLUGIN, "kernel.plugins", "Plugin")
    install(installer, "wrong", PLUGIN.replace("(self, request)", "(self, nothing)"), "kernel.plugins", "Plugin")
    code, rows, _ = run(capsys, "--check", "--kind", "hooks")
    assert code == exits.FAILED
    assert (rows["hooks:spy"]["state"], rows["hooks:spy"]["hooks"]) == ("ok", ["kernel_task_start"])
    assert rows["hooks:wrong"]["state"] == "fault"
    assert "the hook has no argument 'nothing'" in rows["hooks:wrong"]["detail"]


def test_by_hook(capsys, installer):
    install(installer, "spy", PLUGIN, "kernel.plugins", "Plugin")
    _, rows, _ = run(capsys, "--hook", "kernel_task_start")
    assert list(rows) == ["hooks:spy"]


def test_a_conflict_shows_both_sides(capsys, installer):
    install(installer)
    installer.add("rival", points={"kernel.pools": {"acme": "rival_made_up:Pool"}})
    assert main(["plugins", "--json", "--kind", "pools"]) == exits.OK
    rows = [row for row in json.loads(capsys.readouterr().out)["plugins"] if row["name"] == "acme"]
    assert sorted(row["distribution"] for row in rows) == ["acme-dist", "rival"]
    assert {row["state"] for row in rows} == {"conflict"}
    code, _, _ = run(capsys, "--check", "--kind", "pools")
    assert code == exits.FAILED


def test_all_tells_what_could_be_installed(capsys, monkeypatch):
    monkeypatch.setattr("kernel.drivers.lookup.DRIVERS", {"pools": {"later": ("kernel-pool-later", "later")}})
    _, rows, _ = run(capsys, "--all", "--kind", "pools")
    assert rows["pools:later"]["state"] == "not installed"
    assert rows["pools:later"]["detail"] == "pip install 'kernel[later]'"
    assert "pools:later" not in run(capsys, "--kind", "pools")[1]


def test_the_settings_of_the_app_count(capsys, installer, tmp_path, monkeypatch):
    install(installer, "spy", PLUGIN, "kernel.plugins", "Plugin")
    (tmp_path / "listed_app.py").write_text(
        "from kernel import Kernel\napp = Kernel('listed', broker='memory://', disable_plugins=['spy', 'logs'])\n"
    )
    code, rows, _ = run(capsys, "--kind", "hooks", "-A", "listed_app")
    assert code == exits.OK
    assert rows["hooks:spy"]["state"] == rows["hooks:logs"]["state"] == "disabled"
    assert rows["hooks:spy"]["detail"] == "disable_plugins has 'spy'"
    assert rows["hooks:expiry"]["state"] == "enabled"
    # The same from the environment, without an app.
    monkeypatch.setenv("KERNEL_DISABLE_PLUGINS", "spy-dist")
    assert run(capsys, "--kind", "hooks")[1]["hooks:spy"]["state"] == "disabled"


def test_what_is_required_and_missing_is_a_fault_without_a_row(capsys, monkeypatch):
    monkeypatch.setenv("KERNEL_REQUIRED_PLUGINS", "absent>=2")
    code, _, said = run(capsys, "--check", "--kind", "hooks")
    assert code == exits.FAILED
    assert "required_plugins asks for 'absent>=2', which is not installed" in said


def test_a_kind_that_does_not_exist(capsys):
    assert main(["plugins", "--kind", "engines"]) == exits.USAGE
    assert "pools" in capsys.readouterr().err
