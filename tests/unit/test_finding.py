"""From `-A` to the app."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.cli import exits, main
from kernel.errors import ImproperlyConfigured
from kernel.finding import AppNotFound, app_path, find_app

MAKE = "from kernel import Kernel\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)) or name.startswith("app_"):
            del sys.modules[name]


def write(name: str, text: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("attribute", ["app", "celery", "kernel"])
def test_attributes_that_are_looked_for(attribute: str) -> None:
    write(f"app_{attribute}.py", f"{MAKE}other = Kernel('other')\n{attribute} = Kernel('it')\n")
    assert find_app(f"app_{attribute}").main == "it"
    assert find_app(f"app_{attribute}:other").main == "other"
    assert find_app(f"app_{attribute}.other").main == "other"


def test_the_only_app_is_it() -> None:
    write("app_only.py", f"{MAKE}import kernel\napp = object()\nqueue = also = Kernel('it')\n")
    assert find_app("app_only").main == "it"


def test_several_apps_are_listed() -> None:
    write("app_two.py", f"{MAKE}one = Kernel('one')\ntwo = Kernel('two')\n")
    with pytest.raises(AppNotFound, match="-A app_two:one or -A app_two:two"):
        find_app("app_two")


def test_the_submodule_celery() -> None:
    write("app_package/__init__.py", "")
    write("app_package/celery.py", f"{MAKE}app = Kernel('inner')\n")
    assert find_app("app_package").main == "inner"
    assert find_app("app_package.celery").main == "inner"
    assert find_app("app_package:celery").main == "inner"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("app_absent", r"no module 'app_absent'. It was looked for in .*--workdir"),
        ("app_absent.more", r"no module 'app_absent.more'"),
        ("app_absent:app", r"no module 'app_absent'"),
        ("app_empty", r"'app_empty' \(.*app_empty.py\) holds no Kernel app"),
        ("app_empty:wrong", r"no attribute 'wrong'"),
        ("app_empty:number", r"'number' is a int, and no Kernel app"),
        ("app_empty.wrong", r"neither a submodule nor an attribute 'wrong'"),
        ("app_bare", r"app_bare.celery does not exist"),
        ("app_empty.py", r"such as `-A app_empty`"),
        ("./app_bare/celery.py", r"such as `-A app_bare.celery`"),
        ("not a name", r"no module's name"),
        (":app", r"no module's name"),
        ("app_broken", r"importing 'app_broken' failed: ZeroDivisionError: .*app_broken.py:1"),
        ("app_needs", r"importing 'app_needs' failed: ModuleNotFoundError: No module named 'not_there'"),
        ("app_syntax", r"failed: SyntaxError: .*app_syntax.py:1"),
        ("app_exits", r"importing 'app_exits' failed: SystemExit"),
    ],
)
def test_what_cannot_be_found_is_explained(path: str, words: str) -> None:
    write("app_empty.py", "number = 3\n")
    write("app_bare/__init__.py", "")
    write("app_broken.py", "1 / 0\n")
    write("app_needs.py", "import not_there\n")
    write("app_syntax.py", "def (\n")
    write("app_exits.py", "import sys; sys.exit(3)\n")
    with pytest.raises(AppNotFound, match=words):
        find_app(path)


def test_where_the_name_of_the_app_comes_from(folder: Path) -> None:
    assert app_path(environ={}) is None
    (folder / "pyproject.toml").write_text("[tool.kernel]\napp = 'project'\n")
    inner = folder / "inner"
    inner.mkdir()
    assert app_path(environ={}) == "project"
    assert app_path(environ={"KERNEL_APP": "variable"}) == "variable"
    assert app_path("given", environ={"KERNEL_APP": "variable"}) == "given"
    (folder / "pyproject.toml").write_text("[tool.kernel]\napp = 3\n")
    with pytest.raises(ImproperlyConfigured, match="it names a module"):
        app_path(environ={})


@pytest.mark.parametrize(
    "arguments",
    [
        ["-A", "app_cli", "config", "worker_lease"],
        ["config", "-A", "app_cli", "worker_lease"],
        ["config", "worker_lease", "--app=app_cli"],
    ],
)
def test_the_option_stands_before_or_after_the_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write("app_cli.py", f"{MAKE}app = Kernel('it', worker_lease=44)\n")
    assert main(arguments) == exits.OK
    assert capsys.readouterr().out.startswith("worker_lease = 44")


def test_an_app_that_starts_the_command_line_is_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kernel import Kernel

    monkeypatch.setenv("KERNEL_APP", "app_absent")
    app = Kernel("it", worker_lease=44)
    assert app.start(["config", "worker_lease"]) == exits.OK
    assert capsys.readouterr().out.startswith("worker_lease = 44")
    write("app_other.py", f"{MAKE}app = Kernel('other', worker_lease=55)\n")
    assert app.start(["-A", "app_other", "config", "worker_lease"]) == exits.OK
    assert capsys.readouterr().out.startswith("worker_lease = 55")


def test_an_app_that_cannot_be_found_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    write("app_broken.py", "1 / 0\n")
    assert main(["-A", "app_broken", "queues", "list"]) == exits.APP
    seen = capsys.readouterr()
    assert "ZeroDivisionError" in seen.err
    assert "Traceback" not in seen.err
    assert main(["-A", "app_broken", "queues", "list", "-v"]) == exits.APP
    assert "Traceback" in capsys.readouterr().err


def test_a_command_that_needs_an_app_says_how_to_name_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queues", "list"]) == exits.USAGE
    assert "KERNEL_APP" in capsys.readouterr().err
