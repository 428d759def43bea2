"""`kernel plugins`: the drivers and hook plugins that are installed, and what state they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from kernel import drivers
from kernel.cli import exits, output
from kernel.cli.state import State
from kernel.extensions import Extensions, PluginInfo

SCHEMA = "plugins/1"
HOOKS = "hooks"
_FAULTY = frozenset({"broken", "incompatible", "conflict", "fault"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the listing. `hooks` and `seconds` are filled by ``--check``."""

    kind: str
    name: str
    distribution: str
    version: str
    state: str
    target: str
    detail: str = ""
    hooks: tuple[str, ...] = ()
    seconds: float | None = None


@click.command("plugins", short_help="List drivers and hook plugins.")
@click.option("--check", is_flag=True, help="Import each, and check its interface version and hooks.")
@click.option("--all", "everything", is_flag=True, help="Also drivers of this project that are not installed.")
@click.option("--kind", type=click.Choice([*drivers.KINDS, HOOKS]), help="Only one kind.")
@click.option("--hook", metavar="NAME", help="Only plugins that implement this hook (with --check).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(state: State, *, check: bool, everything: bool, kind: str | None, hook: str | None, as_json: bool) -> int:
    """List what is installed: brokers, result backends, serializers, compressors, pools, schedulers, hook plugins.

    Nothing is imported unless --check says so; then the exit code is 1 when anything is at fault. With -A, the
    plugins of that app, as its settings have them.

    \b
    Examples:
      kernel plugins
      kernel plugins --check --kind pools
      kernel -A proj plugins --kind hooks --json
    """
    choices, extensions = _sources(state)
    wanted = [kind] if kind else [*drivers.KINDS, HOOKS]
    rows = [
        row for each in wanted if each != HOOKS for row in _driver_rows(each, choices, check=check, missing=everything)
    ]
    faults: Sequence[str] = ()
    if HOOKS in wanted:
        plugins, faults = _plugin_rows(extensions, check=check or hook is not None)
        rows += plugins
    if hook is not None:
        rows = [row for row in rows if hook in row.hooks]
    if as_json:
        output.emit_json(SCHEMA, {"plugins": [asdict(row) for row in rows], "faults": list(faults)})
    else:
        _print(rows, faults)
    return exits.FAILED if check and (faults or any(row.state in _FAULTY for row in rows)) else exits.OK


def _sources(state: State) -> tuple[Mapping[str, str], Extensions]:
    """The setting `drivers`, and the plugins: of the app, or of the environment when none is named."""
    app = state.named_app()
    if app is not None:
        return dict(app.conf.drivers), app.extensions
    from kernel.config import Settings

    conf = Settings()
    return dict(conf.drivers), Extensions(conf)


def _driver_rows(kind: Any, choices: Mapping[str, str], *, check: bool, missing: bool) -> list[Row]:
    found = list(drivers.available(kind, choices=choices))
    if check:
        found = [drivers.check(info) for info in found]
    if missing:
        found += drivers.missing(kind)
    return [
        Row(kind, info.name, info.distribution, info.version, info.state, info.target, info.detail, (), info.seconds)
        for info in found
    ]


def _plugin_rows(extensions: Extensions, *, check: bool) -> tuple[list[Row], list[str]]:
    faults = [str(fault) for fault in extensions.faults()] if check else []
    rows = [_plugin_row(info, checked=check) for info in extensions.plugins()]
    told = {row.detail for row in rows}
    return rows, [fault for fault in faults if fault not in told]


def _plugin_row(info: PluginInfo, *, checked: bool) -> Row:
    state = "ok" if checked and info.state == "enabled" else info.state
    return Row(HOOKS, info.name, info.distribution, info.version, state, info.target, info.detail, info.hooks)


def _print(rows: Sequence[Row], faults: Sequence[str]) -> None:
    output.emit_table(
        ("kind", "name", "distribution", "version", "state", "target"),
        [
            (row.kind, row.name, row.distribution or None, row.version or None, row.state, row.target or None)
            for row in rows
        ],
    )
    for row in rows:
        if (row.detail and row.state in _FAULTY) or row.state == "not installed":
            output.talk(f"{row.kind} {row.name}: {row.detail}")
    for fault in faults:
        output.talk(fault)
    if not rows:
        output.talk("There is nothing of that kind.")
