"""`kernel dead`: messages that could not be run, with their reasons."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from kernel.cli import exits, output
from kernel.cli.confirm import confirm
from kernel.cli.queues import describe
from kernel.cli.state import State

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.broker import DeadLetter

MOST = 100_000
"""Dead letters that one command looks at."""

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_queue = click.option("-Q", "--queue", help="Only of this queue.")
_task = click.option("-t", "--task", help="Only of this task.")
_all = click.option("--all", "everything", is_flag=True, help="All that --queue and --task leave.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say which.")


@click.group("dead", short_help="List, show, retry and drop dead letters.")
def command() -> None:
    """Messages that could not be run are kept as dead letters, with the reason.

    \b
    Examples:
      kernel -A proj dead list
      kernel -A proj dead show ID
      kernel -A proj dead retry --all --task proj.tasks.add
      kernel -A proj dead drop ID ID
    """


@command.command("list")
@_queue
@_task
@click.option("-n", "--limit", type=click.IntRange(1, MOST), default=100, show_default=True, help="Most letters.")
@_as_json
@click.pass_obj
def list_dead(state: State, *, queue: str | None, task: str | None, limit: int, as_json: bool) -> int:
    """Dead letters, newest first."""
    with state.opened() as app:
        # A task is looked for among all of them, or a limit would hide the older ones of its name.
        letters = [letter for letter in app.broker.dead_letters(queue, MOST if task else limit) if _is(letter, task)]
    letters = letters[:limit]
    if as_json:
        output.emit_json("dead.list/1", {"dead": [_summary(letter) for letter in letters]})
        return exits.OK
    now = time.time()
    rows = [
        (letter.id, letter.task, letter.queue, letter.starts, output.age(max(0.0, now - letter.died_at)), letter.reason)
        for letter in letters
    ]
    output.emit_table(("id", "task", "queue", "starts", "age", "reason"), rows)
    if not rows:
        output.talk("There are no dead letters.")
    elif len(rows) == limit:
        output.talk(f"The newest {limit} are shown (--limit).")
    return exits.OK


@command.command("show")
@click.argument("task_id", metavar="ID")
@_as_json
@click.pass_obj
def show(state: State, task_id: str, *, as_json: bool) -> int:
    """All that is known of one dead letter. Its body is not decoded."""
    with state.opened() as app:
        letters = [letter for letter in app.broker.dead_letters(None, MOST) if letter.id == task_id]
    if not letters:
        click.echo(f"There is no dead letter {task_id!r}; `kernel dead list` shows which there are.", err=True)
        return exits.FAILED
    if as_json:
        output.emit_json("dead.show/1", {"dead": [_details(letter) for letter in letters]})
        return exits.OK
    for letter in letters:
        for name, value in _details(letter).items():
            if name != "headers":
                click.echo(f"{name + ':':14}{'-' if value is None else value}")
        click.echo("headers:")
        for name, value in sorted(_headers(letter).items()):
            click.echo(f"  {name}: {value!r}")
    return exits.OK


@command.command("retry")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_all
@_queue
@_task
@_dry_run
@_as_json
@click.pass_obj
def retry(
    state: State,
    ids: tuple[str, ...],
    *,
    everything: bool,
    queue: str | None,
    task: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Put dead letters back into their queues, as new messages."""
    with state.opened() as app:
        chosen = _choose(app, ids, everything=everything, queue=queue, task=task)
        count = len(chosen) if dry_run else app.broker.retry_dead(chosen)
    return _report("dead.retry/1", "retried", (count, chosen), dry_run=dry_run, as_json=as_json)


@command.command("drop")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_all
@_queue
@_task
@_dry_run
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_as_json
@click.pass_obj
def drop(
    state: State,
    ids: tuple[str, ...],
    *,
    everything: bool,
    queue: str | None,
    task: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Delete dead letters for good."""
    with state.opened() as app:
        chosen = _choose(app, ids, everything=everything, queue=queue, task=task)
        if chosen and not dry_run:
            confirm(f"{_letters(len(chosen))} will be deleted for good", word="drop", yes=yes)
        count = len(chosen) if dry_run else app.broker.drop_dead(chosen)
    return _report("dead.drop/1", "dropped", (count, chosen), dry_run=dry_run, as_json=as_json)


def _choose(app: Kernel, ids: Sequence[str], *, everything: bool, queue: str | None, task: str | None) -> list[str]:
    """The ids that are meant; with ``--all``, those that exist and fit."""
    if bool(ids) == everything:
        raise click.UsageError("Give either ids, or --all (with --queue or --task to narrow it).")
    if ids and (queue or task):
        raise click.UsageError("--queue and --task narrow --all; ids need neither.")
    if ids:
        return list(dict.fromkeys(ids))
    return [letter.id for letter in app.broker.dead_letters(queue, MOST) if _is(letter, task)]


def _is(letter: DeadLetter, task: str | None) -> bool:
    return task is None or letter.task == task


def _report(schema: str, verb: str, done: tuple[int, list[str]], *, dry_run: bool, as_json: bool) -> int:
    """Say how many were changed. Fewer than were named is a failure: some of them did not exist."""
    count, chosen = done
    missing = len(chosen) - count
    if as_json:
        output.emit_json(schema, {verb: count, "asked": len(chosen), "dry_run": dry_run, "ids": chosen})
    else:
        click.echo(f"{_letters(count)} {'would be ' if dry_run else ''}{verb}")
        if missing > 0:
            output.talk(f"{missing} of the {len(chosen)} named: not among the dead letters.")
    return exits.FAILED if missing > 0 else exits.OK


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"


def _summary(letter: DeadLetter) -> dict[str, Any]:
    died_at = datetime.fromtimestamp(letter.died_at, UTC).isoformat()
    return {
        "id": letter.id,
        "task": letter.task,
        "queue": letter.queue,
        "reason": letter.reason,
        "died_at": died_at,
        "starts": letter.starts,
    }


def _details(letter: DeadLetter) -> dict[str, Any]:
    message = describe(letter.message)
    return {**_summary(letter), **{key: message[key] for key in message if key not in ("id", "task")}} | {
        "headers": _headers(letter)
    }


def _headers(letter: DeadLetter) -> dict[str, Any]:
    from kernel.errors import InvalidTaskError

    try:
        return letter.message.headers
    except InvalidTaskError as exc:
        return {"unreadable": str(exc)}
