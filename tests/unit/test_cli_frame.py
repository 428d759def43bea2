"""The frame: help, unknown commands, shared options, exit codes, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kernel import errors
from kernel.cli import exits, main
from kernel.cli.frame import COMMANDS, build, plugin_names
from kernel.finding import AppNotFound


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("KERNEL_")} | environ
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == exits.OK
    text = capsys.readouterr().out
    for name, sentence in COMMANDS.items():
        assert name in text
        assert sentence in text
    assert "KERNEL_APP" in text
    assert "Examples:" in text


def test_help_imports_neither_commands_nor_plugins_nor_the_app() -> None:
    code = (
        "import sys, json; from kernel.cli import main; main(['--help']); "
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    modules = set(json.loads(python("-c", code).stdout.splitlines()[-1]))
    assert "kernel.cli.frame" in modules
    forbidden = {"kernel.app", "kernel.config", "kernel.hooks", "importlib.metadata", "kernel_contrib_kombu"}
    assert modules & (forbidden | {f"kernel.cli.{name}" for name in COMMANDS}) == set()


def test_finding_an_app_needs_no_command_line_library() -> None:
    code = "import sys, kernel.finding; print('click' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"


def test_as_a_module(project_root: Path) -> None:
    assert python("-m", "kernel", "--version").stdout.startswith("kernel 20")
    finished = python("-m", "kernel", "quues")
    assert finished.returncode == exits.USAGE
    assert "Did you mean queues?" in finished.stderr
    assert finished.stdout == ""


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == exits.USAGE
    assert "Commands:" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--chnaged"]) == exits.USAGE
    assert "--changed" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_and_shared_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(f"kernel.cli.{name}")
    assert main([name, "--help"]) == exits.OK
    text = capsys.readouterr().out
    assert "-A, --app" in text
    assert "KERNEL_" + name.upper() in text or name in ("dead", "migrate", "queues")


def test_names_of_plugins_come_from_their_metadata() -> None:
    from importlib.metadata import entry_points

    assert plugin_names() == sorted({entry.name for entry in entry_points(group="kernel.plugins")})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AppNotFound("x"), exits.APP),
        (errors.UnknownSetting("x"), exits.USAGE),
        (errors.DriverNotInstalled("x"), exits.USAGE),
        (errors.OperationalError("x"), exits.UNREACHABLE),
        (errors.BackendGetMetaError("x"), exits.UNREACHABLE),
        (errors.SecurityError("x"), exits.REFUSED),
        (errors.NotRegistered("x"), exits.FAILED),
        (NotImplementedError("x"), exits.USAGE),
    ],
)
def test_errors_lead_to_exit_codes(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def broken() -> None:
        raise error

    def build_with_broken() -> click.Group:
        group = build()
        group.commands["broken"] = broken
        return group

    monkeypatch.setattr("kernel.cli.frame.build", build_with_broken)
    assert main(["broken"]) == code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err == "Error: x\n"
    assert main(["broken", "-v"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def slow() -> None:
        raise KeyboardInterrupt

    group = build()
    group.commands["slow"] = slow
    monkeypatch.setattr("kernel.cli.frame.build", lambda: group)
    assert main(["slow"]) == exits.INTERRUPTED


def test_every_exit_code_has_a_meaning_in_the_documentation(project_root: Path) -> None:
    text = (project_root / "docs" / "cli.md").read_text()
    for code, meaning in exits.MEANINGS.items():
        assert f"| {code} | {meaning} |" in text


def test_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kernel]\nworker_lease = 77\n")
    monkeypatch.chdir(tmp_path.parent)
    seen: list[str] = []
    monkeypatch.setattr("click.echo", lambda text="", **_: seen.append(str(text)))
    assert main(["config", "worker_lease", "--workdir", str(tmp_path)]) == exits.OK
    assert seen[0].startswith("worker_lease = 77")
    assert main(["config", "--workdir", str(tmp_path / "absent")]) == exits.USAGE


def test_commands_of_plugins(tmp_path: Path) -> None:
    (tmp_path / "plugin_for_a_test.py").write_text(
        "import click\nfrom kernel import hookimpl\n"
        "@hookimpl\ndef kernel_cli(group):\n    group.add_command(moon)\n"
        "@click.command()\n@click.option('--phase')\ndef moon(phase):\n    click.echo(f'moon {phase}')\n"
    )
    (tmp_path / "app_for_a_test.py").write_text(
        "from kernel import Kernel\napp = Kernel('it', plugins=['plugin_for_a_test'])\n"
    )
    code = f"import os; os.chdir({str(tmp_path)!r}); from kernel.cli import main; raise SystemExit(main())"
    finished = python("-c", code, "moon", "-A", "app_for_a_test", "--phase", "full")
    assert finished.stderr == ""
    assert (finished.returncode, finished.stdout) == (exits.OK, "moon full\n")


def test_warnings_about_settings_are_one_line(tmp_path: Path) -> None:
    program = "from kernel import Kernel\napp = Kernel('it', worker_disable_prefetch=True)\n"
    (tmp_path / "app_for_a_test.py").write_text(program)
    code = f"import os; os.chdir({str(tmp_path)!r}); from kernel.cli import main; raise SystemExit(main())"
    finished = python("-c", code, "config", "validate", "-A", "app_for_a_test")
    assert finished.stderr.startswith("Warning: the setting worker_disable_prefetch is kept but has no effect")
    assert finished.stderr.count("\n") == 2
