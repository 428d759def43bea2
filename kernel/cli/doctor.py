"""`kernel doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from kernel import errors
from kernel.cli import checks, exits, output
from kernel.cli.state import State
from kernel.extensions import Extensions
from kernel.finding import NO_APP
from kernel.hooks import Finding

if TYPE_CHECKING:
    from kernel.app import Kernel

SCHEMA: Final = "doctor/1"
_COLORS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor", short_help="Find what is wrong, and say how to mend it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(state: State, *, as_json: bool) -> int:
    """Look at the installation, the plugins, the settings, the configured drivers and the workers on this machine.

    One line for each thing looked at, with the remedy under what is wrong. The exit code is 1 when anything fails.
    Broker and result backend are opened; nothing is sent.

    \b
    Examples:
      kernel -A proj doctor
      kernel doctor --json
    """
    findings = list(examine(state))
    if as_json:
        output.emit_json(SCHEMA, {"findings": [asdict(finding) for finding in findings], "counts": _counts(findings)})
    else:
        for finding in findings:
            _print(finding)
    failed = any(finding.level == "fail" for finding in findings)
    return exits.FAILED if failed else exits.OK


def examine(state: State) -> Iterator[Finding]:
    """All findings, one check after the other."""
    yield from checks.versions()
    yield from checks.import_owner()
    yield from checks.entry_points()
    app, trouble = _app_of(state)
    if trouble is not None:
        yield trouble
    if app is not None:
        yield from _app_findings(app)
    else:
        yield from _bare_findings()
    yield from checks.workers()


def _app_of(state: State) -> tuple[Kernel | None, Finding | None]:
    try:
        return state.app(), None
    except errors.ImproperlyConfigured as exc:
        if exc.args == (NO_APP,):
            text = "none is named, so no broker and no result backend is looked at"
            return None, Finding("app", "warn", text, "name it with -A, as in `kernel -A proj doctor`")
        return None, Finding("app", "fail", str(exc), "mend it, then run `kernel doctor` again")


def _app_findings(app: Kernel) -> Iterator[Finding]:
    sound = True
    for finding in (*checks.plugins(app.extensions), *checks.settings(app.conf, app.extensions)):
        sound = sound and finding.level == "ok"
        yield finding
    yield from checks.installed_drivers(dict(app.conf.drivers) if sound else {})
    if not sound:
        # Nothing can be opened with settings that are refused, and each attempt would say so once more.
        return
    try:
        yield from checks.configured(app)
        yield from checks.hook_findings(app)
    finally:
        yield from _close(app)


def _close(app: Kernel) -> Iterator[Finding]:
    try:
        app.close()
    except Exception as exc:
        yield Finding("app", "warn", f"closing it failed: {type(exc).__name__}: {exc}")


def _bare_findings() -> Iterator[Finding]:
    from kernel.config import Settings

    conf = Settings()
    extensions = Extensions(conf)
    sound = True
    for finding in (*checks.plugins(extensions), *checks.settings(conf, extensions)):
        sound = sound and finding.level == "ok"
        yield finding
    yield from checks.installed_drivers(dict(conf.drivers) if sound else {})


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    counted = Counter(finding.level for finding in findings)
    return {level: counted.get(level, 0) for level in ("ok", "warn", "fail")}


def _print(finding: Finding) -> None:
    level = click.style(f"{finding.level:<4}", fg=_COLORS[finding.level])
    click.echo(f"{level}  {finding.subject}: {finding.text}")
    if finding.remedy and finding.level != "ok":
        click.echo(f"      → {finding.remedy}")
