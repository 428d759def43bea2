"""`kernel queues`: what waits where, and taking a queue out of service."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from kernel.cli import exits, output
from kernel.cli.confirm import confirm
from kernel.cli.state import State
from kernel.errors import InvalidTaskError

if TYPE_CHECKING:
    from kernel.message import Message

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("queues", short_help="List, purge, pause, resume and peek into queues.")
def command() -> None:
    """What waits in the queues of the broker.

    \b
    Examples:
      kernel -A proj queues list
      kernel -A proj queues peek celery --limit 5
      kernel -A proj queues purge celery --dry-run
    """


@command.command("list")
@click.argument("names", nargs=-1)
@_as_json
@click.pass_obj
def list_queues(state: State, names: tuple[str, ...], *, as_json: bool) -> int:
    """The numbers of these queues, or of all."""
    with state.opened() as app:
        stats = list(app.broker.stats(names))
    if as_json:
        output.emit_json("queues.list/1", {"queues": [dataclasses.asdict(item) for item in stats]})
        return exits.OK
    headings = ("queue", "ready", "delayed", "claimed", "dead", "oldest", "consumers", "state")
    rows = [
        (
            item.name,
            item.ready,
            item.delayed,
            item.claimed,
            item.dead,
            output.age(item.oldest),
            item.consumers,
            "paused" if item.paused else "open",
        )
        for item in stats
    ]
    output.emit_table(headings, rows)
    if not rows:
        output.talk("There are no queues yet.")
    return exits.OK


@command.command("purge")
@click.argument("names", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say how many messages there are.")
@_as_json
@click.pass_obj
def purge(state: State, names: tuple[str, ...], *, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Delete the messages that wait in these queues. Claimed ones are left to their workers."""
    with state.opened() as app:
        waiting = {item.name: item.ready + item.delayed for item in app.broker.stats(names)}
        counts = {name: waiting.get(name, 0) for name in names}
        if not dry_run:
            for name in names:
                what = f"{counts[name]} messages of the queue {name!r} will be deleted"
                confirm(what, word=name, yes=yes or not counts[name])
            counts = {name: app.broker.purge(name) for name in names}
    if as_json:
        output.emit_json("queues.purge/1", {"purged": counts, "dry_run": dry_run})
    else:
        verb = "would be deleted" if dry_run else "deleted"
        for name, count in counts.items():
            click.echo(f"{name}: {count} {verb}")
    return exits.OK


@command.command("pause")
@click.argument("names", nargs=-1, required=True)
@_as_json
@click.pass_obj
def pause(state: State, names: tuple[str, ...], *, as_json: bool) -> int:
    """Hand out no more messages of these queues, to any worker, until they are resumed."""
    with state.opened() as app:
        for name in names:
            app.broker.pause(name)
    return _changed("queues.pause/1", "paused", names, as_json=as_json)


@command.command("resume")
@click.argument("names", nargs=-1, required=True)
@_as_json
@click.pass_obj
def resume(state: State, names: tuple[str, ...], *, as_json: bool) -> int:
    """Hand out messages of these queues again."""
    with state.opened() as app:
        for name in names:
            app.broker.resume(name)
    return _changed("queues.resume/1", "resumed", names, as_json=as_json)


@command.command("peek")
@click.argument("name")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Most messages.")
@_as_json
@click.pass_obj
def peek(state: State, name: str, *, limit: int, as_json: bool) -> int:
    """The messages of a queue that would be run next; they stay where they are."""
    with state.opened() as app:
        messages = list(app.broker.peek(name, limit))
    if as_json:
        output.emit_json("queues.peek/1", {"queue": name, "messages": [describe(message) for message in messages]})
        return exits.OK
    rows = [
        (data["id"], data["task"], data["args"], data["kwargs"], data["priority"], data["eta"])
        for data in map(describe, messages)
    ]
    output.emit_table(("id", "task", "args", "kwargs", "priority", "eta"), rows)
    if not rows:
        output.talk(f"Nothing waits in {name!r}.")
    return exits.OK


def describe(message: Message) -> dict[str, Any]:
    """What the headers of a message say; the body is not decoded. Damaged headers are shown as such."""
    try:
        headers = message.headers
    except InvalidTaskError as exc:
        return {"id": None, "task": f"({exc})", "args": None, "kwargs": None, "priority": None, "eta": None, "bytes": 0}
    return {
        "id": headers.get("id"),
        "task": headers.get("task"),
        "args": headers.get("argsrepr"),
        "kwargs": headers.get("kwargsrepr"),
        "retries": headers.get("retries"),
        "eta": headers.get("eta"),
        "expires": headers.get("expires"),
        "origin": headers.get("origin"),
        "priority": message.priority,
        "content_type": message.content_type,
        "bytes": len(message.body),
    }


def _changed(schema: str, verb: str, names: tuple[str, ...], *, as_json: bool) -> int:
    if as_json:
        output.emit_json(schema, {verb: list(names)})
    else:
        for name in names:
            click.echo(f"{name}: {verb}")
    return exits.OK
