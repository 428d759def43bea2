"""One name follows from another: folder, distribution, import, entry point; and what every plugin must have."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from workspace import ROOT, Distribution, distributions

GROUPS = {
    "broker": "kernel.brokers",
    "backend": "kernel.backends",
    "serializer": "kernel.serializers",
    "compressor": "kernel.compressors",
    "pool": "kernel.pools",
    "scheduler": "kernel.schedulers",
    "contrib": "kernel.plugins",
}
FAMILIES = {"serializers": "serializer", "compressors": "compressor", "pools": "pool", "schedulers": "scheduler"}
# `lib_` distributions have no entry point. Groups that a plugin may have beside the one of its kind.
BESIDE = {"kernel.plugins"}
VERSION_RANGE = ">=2026.11,<2027"
KERNEL, *PLUGINS = distributions()

each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)


def expected_name(folder: Path) -> str:
    """The distribution's name, from the folder alone."""
    family, _, leaf = folder.relative_to(ROOT).as_posix().partition("/")
    if family == "contrib":
        return f"kernel-contrib-{leaf}"
    head, _, tail = leaf.partition("/")
    return f"kernel-{FAMILIES[head]}-{tail}" if tail else "kernel-" + leaf.replace("_", "-")


def test_every_folder_with_a_project_is_a_member() -> None:
    listed = {member.folder for member in PLUGINS}
    for family in ("plugins", "contrib"):
        for path in (ROOT / family).rglob("pyproject.toml"):
            assert path.parent in listed, f"{path.parent} is no member of the workspace"
    assert len(PLUGINS) > 15


@each_plugin
def test_names_follow_from_the_folder(plugin: Distribution) -> None:
    assert plugin.name == expected_name(plugin.folder)
    assert (plugin.package / "__init__.py").exists(), f"{plugin.name} must import as {plugin.package.name}"
    assert plugin.data["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [plugin.package.name]


@each_plugin
def test_entry_points_follow_from_the_name(plugin: Distribution) -> None:
    _, kind, name = plugin.name.split("-", 2)
    if kind == "lib":
        assert plugin.entry_points == {}
        return
    group = GROUPS[kind]
    assert name in plugin.entry_points[group]
    assert set(plugin.entry_points) <= {group} | BESIDE
    for target in plugin.entry_points[group].values():
        assert target.partition(":")[0].split(".")[0] == plugin.package.name


@each_plugin
def test_a_plugin_has_a_readme_types_and_one_version(plugin: Distribution) -> None:
    readme = plugin.folder / "README.md"
    assert readme.read_text(encoding="utf-8").startswith(f"# {plugin.name}\n")
    assert (plugin.package / "py.typed").exists()
    assert plugin.version == KERNEL.version
    project = plugin.data["project"]
    assert f"kernel{VERSION_RANGE}" in project["dependencies"]
    assert project["requires-python"] == KERNEL.data["project"]["requires-python"]
    assert project["description"]
    assert project["license"] == KERNEL.data["project"]["license"]


def names(lines: list[str]) -> set[str]:
    return {line.partition(">")[0].partition("[")[0] for line in lines}


def test_an_extra_that_gives_a_broker_is_complete() -> None:
    needed = {"kernel-serializer-json", "kernel-pool-threads", "kernel-pool-prefork"}
    brokers = {name for name, lines in KERNEL.extras.items() if any("-broker-" in line for line in lines)}
    assert {"sql", "memory"} <= brokers
    for extra in brokers:
        assert needed <= names(KERNEL.extras[extra]), f"kernel[{extra}] gives a broker but not {needed}"


def test_every_plugin_is_in_an_extra_of_its_own_and_in_all() -> None:
    every = names(KERNEL.extras["all"])
    for plugin in PLUGINS:
        _, kind, name = plugin.name.split("-", 2)
        assert plugin.name in every, f"kernel[all] lacks {plugin.name}"
        if kind != "lib":
            assert plugin.name in names(KERNEL.extras[name]), f"kernel[{name}] lacks {plugin.name}"


def test_extras_ask_for_what_exists_in_this_series() -> None:
    known = {plugin.name: plugin for plugin in PLUGINS}
    for extra, lines in KERNEL.extras.items():
        for line in lines:
            name, bracket, rest = line.partition(">")[0].partition("[")
            assert name in known, f"kernel[{extra}] asks for {name}, which is not in the workspace"
            assert line.endswith(VERSION_RANGE), line
            if bracket:
                assert rest.rstrip("]") in known[name].extras


def test_the_core_depends_on_three_libraries() -> None:
    wanted = {line.partition(">")[0] for line in KERNEL.data["project"]["dependencies"]}
    assert wanted == {"pluggy", "stevedore", "click"}


def test_the_import_rules_know_every_plugin() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    roots = set(parser["importlinter"]["root_packages"].split())
    assert roots == {member.package.name for member in [KERNEL, *PLUGINS]}


def test_the_type_checker_knows_every_plugin() -> None:
    folders = KERNEL.data["tool"]["mypy"]["mypy_path"]
    for plugin in PLUGINS:
        assert f"$MYPY_CONFIG_FILE_DIR/{plugin.folder.relative_to(ROOT).as_posix()}" in folders


def test_constraints_pin_plain_versions() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, line
            assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), line
            assert version.replace(".", "").isalnum(), line


def test_the_changelog_has_the_version() -> None:
    assert f"\n## {KERNEL.version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
