"""`kernel call`: send a task by name."""

from __future__ import annotations

from typing import Any

import click

from kernel.cli import exits, output
from kernel.cli.kinds import Duration, Expiry, JsonText, Moment
from kernel.cli.state import State
from kernel.errors import TimeoutError as ResultTimeoutError


@click.command("call", short_help="Call a task by name.")
@click.argument("name")
@click.option("-a", "--args", "args", type=JsonText(list, "a list such as '[2, 3]'"), help="Positional arguments.")
@click.option("-k", "--kwargs", type=JsonText(dict, """an object such as '{"x": 2}'"""), help="Keyword arguments.")
@click.option("--eta", type=Moment(), help="Run it no sooner than this.")
@click.option("--countdown", type=Duration(), help="Run it no sooner than so long from now.")
@click.option("--expires", type=Expiry(), help="Do not run it later than this.")
@click.option("-Q", "--queue", help="Its queue.")
@click.option("--exchange", help="Its exchange, where the broker routes.")
@click.option("--routing-key", help="Its routing key, where the broker routes.")
@click.option("--priority", type=int, help="Its priority.")
@click.option("--serializer", help="Serializer of the message.")
@click.option("--task-id", help="Its id (by default a new one).")
@click.option("-w", "--wait", type=Duration(), help="Wait so long for the result, and print it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(state: State, /, name: str, *, wait: float | None, as_json: bool, **options: Any) -> int:
    """Send the task NAME and print its id. The task need not be importable here.

    \b
    Examples:
      kernel -A proj call proj.tasks.add -a '[2, 3]'
      kernel -A proj call proj.tasks.fetch -k '{"path": "x"}' --countdown 5m --wait 10m
    """
    given = {key: value for key, value in options.items() if value is not None}
    if "eta" in given and "countdown" in given:
        raise click.UsageError("--eta and --countdown say the same in two ways: give one of them.")
    args, kwargs = given.pop("args", []), given.pop("kwargs", {})
    with state.opened() as app:
        if name not in app.tasks:
            _remark(name, list(app.tasks))
        result = app.send_task(name, args, kwargs, **given)
        if wait is None:
            if as_json:
                output.emit_json("call/1", {"id": result.id, "task": name})
            else:
                click.echo(result.id)
            return exits.OK
        output.talk(result.id)
        from kernel.cli.result import show

        late = False
        try:
            result.get(timeout=wait, propagate=False)
        except ResultTimeoutError:
            late = True
            output.talk(f"No result after {wait:g} s.")
        code = show(result, as_json=as_json, with_traceback=False)
        return exits.FAILED if late else code


def _remark(name: str, known: list[str]) -> None:
    """A name that is not registered here may be on a worker; a slip of the pen is worth a word."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.8)
    if near:
        output.talk(f"{name!r} is not registered in this app (did you mean {near[0]!r}?); it is sent all the same.")
