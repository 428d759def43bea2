"""`kernel migrate`: from Celery and back, on the same broker."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from kernel.cli import exits, output
from kernel.cli.dead import MOST
from kernel.cli.state import State
from kernel.interfaces.broker import Released, Releases

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.broker import QueueStats


@click.group("migrate", short_help="Move between Celery and this.")
def command() -> None:
    """Moving between Celery and this, on the same broker.

    \b
    Examples:
      kernel -A proj migrate release
      kernel -A proj migrate release celery --dead --dry-run
    """


@command.command("release")
@click.argument("names", nargs=-1)
@click.option("--dead", is_flag=True, help="Dead letters, too.")
@click.option("--dry-run", is_flag=True, help="Only say how many messages there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def release(state: State, names: tuple[str, ...], *, dead: bool, dry_run: bool, as_json: bool) -> int:
    """Put back what only our workers find, so that Celery's find it: messages that are delayed, or were held by workers
    that died; of these queues, or of all.

    Stop our workers first: a queue that one of them takes from is left as it is. A worker that was killed counts until
    its lease (worker_lease) has run out.
    """
    with state.opened() as app:
        stats = list(app.broker.stats(names))
        done = [_planned(item, dead=dead) if dry_run else _released(app, item, dead=dead) for item in stats]
    if as_json:
        output.emit_json("migrate.release/1", {"queues": done, "dry_run": dry_run})
    else:
        for item in done:
            click.echo(_line(item, dry_run=dry_run))
        if not done:
            output.talk("There are no queues yet.")
    return exits.FAILED if any(item["owners"] for item in done) else exits.OK


def _planned(stats: QueueStats, *, dead: bool) -> dict[str, Any]:
    found = Released(stats.name, stats.delayed, stats.claimed, stats.consumers)
    return {**dataclasses.asdict(found), "dead": stats.dead if dead else 0}


def _released(app: Kernel, stats: QueueStats, *, dead: bool) -> dict[str, Any]:
    broker = app.broker
    # What has no such layout of its own is found by everybody already.
    found = broker.release(stats.name) if isinstance(broker, Releases) else Released(stats.name)
    letters = [letter.id for letter in broker.dead_letters(stats.name, MOST)] if dead and not found.owners else []
    return {**dataclasses.asdict(found), "dead": broker.retry_dead(letters) if letters else 0}


def _line(item: dict[str, Any], *, dry_run: bool) -> str:
    if item["owners"]:
        workers = "1 worker takes" if item["owners"] == 1 else f"{item['owners']} workers take"
        return f"{item['queue']}: left as it is, since {workers} from it (or was killed, and its lease runs on)"
    counts = f"{item['delayed']} delayed, {item['claimed']} claimed, {item['dead']} dead"
    return f"{item['queue']}: {counts} {'would be put back' if dry_run else 'put back'}"
