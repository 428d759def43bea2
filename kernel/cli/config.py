"""`kernel config`: every setting, its value, and where it came from."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from kernel.cli import exits, output
from kernel.cli.state import State
from kernel.config import DEFAULT, Settings
from kernel.config.values import as_text, expected, jsonable
from kernel.errors import DriverError

SCHEMA = "config/1"


@click.command("config", short_help="Show every setting and where its value came from.")
@click.argument("names", nargs=-1, metavar="[show|validate] [NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--changed", is_flag=True, help="Only what is not the default.")
@click.option("--all", "everything", is_flag=True, help="Also settings that are not served yet.")
@click.option("--validate", is_flag=True, help="Only check: exit code 2, and the reason, when something is wrong.")
@click.option("--markdown", is_flag=True, help="Print the tables of docs/configuration.md.")
@click.pass_obj
def command(
    state: State,
    names: tuple[str, ...],
    *,
    as_json: bool,
    changed: bool,
    everything: bool,
    validate: bool,
    markdown: bool,
) -> int:
    """Show every setting, its value, and where that came from; or of one setting all that there is to know.

    Passwords are hidden. Without an app, the settings are those of the environment and of pyproject.toml.

    \b
    Examples:
      kernel -A proj config
      kernel -A proj config worker_lease
      kernel -A proj config validate
      kernel config --changed --json
    """
    if markdown:
        from kernel.config.markdown import markdown as tables

        click.echo(tables())
        return exits.OK
    verb = names[0] if names and names[0] in ("show", "validate") else None
    strict = validate or verb == "validate"
    conf = _settings(state, strict=strict)
    conf.validate()
    if strict:
        output.talk("The settings are valid.")
        return exits.OK
    wanted = names[1:] if verb else names
    if wanted:
        chosen = [conf.setting(name).name for name in wanted]
    else:
        chosen = _visible(conf, changed=changed, everything=everything)
    if as_json:
        output.emit_json(SCHEMA, {"settings": {name: _as_data(conf, name) for name in chosen}})
    elif wanted:
        click.echo("\n\n".join(_explain(conf, name) for name in chosen))
    else:
        _list(conf, chosen, remark=not changed)
    return exits.OK


def _settings(state: State, *, strict: bool) -> Settings:
    """The settings, with those that plugins and drivers declare; with `strict`, every driver must be there."""
    app = state.named_app()
    conf: Settings = Settings() if app is None else app.conf
    if state.flags:
        conf.override(state.flags)
    if app is not None:
        for plugin, declared in app.extensions.collect_from("kernel_settings"):
            conf.declare(declared, f"the plugin {plugin}" if plugin else "a plugin")
        # Making a driver's configuration declares the settings that it reads; nothing is opened.
        for declare in (app.broker_config, app.addresses.backend_config):
            with contextlib.nullcontext() if strict else contextlib.suppress(DriverError):
                declare()
    return conf


def _visible(conf: Settings, *, changed: bool, everything: bool) -> list[str]:
    names = [setting.name for setting in conf.settings()]
    if changed:
        return [name for name in names if conf.value_set_for(name)]
    return [name for name in names if everything or conf.setting(name).served or conf.value_set_for(name)]


def _list(conf: Settings, names: list[str], *, remark: bool) -> None:
    rows = [(name, as_text(conf.shown(name)), conf.origin(name)) for name in names]
    output.emit_table(("setting", "value", "from"), rows)
    hidden = sum(1 for setting in conf.settings() if not setting.served and setting.name not in names)
    if hidden and remark:
        output.talk(f"{hidden} more settings of Celery's are known and not served yet (--all).")


def _as_data(conf: Settings, name: str) -> dict[str, Any]:
    setting = conf.setting(name)
    value = conf.shown(name)
    return {
        "value": value if jsonable(value) else repr(value),
        "origin": conf.origin(name),
        "is_default": conf.origin(name).startswith(DEFAULT),
        "default": setting.default if jsonable(setting.default) else repr(setting.default),
        "kind": setting.kind,
        "declared_by": conf.declared_by(name),
        "served": setting.served,
        "doc": setting.doc,
    }


def _explain(conf: Settings, name: str) -> str:
    setting = conf.setting(name)
    lines = [
        f"{name} = {as_text(conf.shown(name))}",
        f"  from:     {conf.origin(name)}",
        f"  takes:    {expected(setting)}",
        f"  default:  {as_text(setting.default)}",
        f"  variable: KERNEL_{name.upper()}",
        f"  {setting.doc}",
    ]
    if not setting.served:
        lines.append("  It is kept, but has no effect in this version.")
    return "\n".join(lines)
