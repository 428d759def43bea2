"""`kernel result`: what became of a task."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from kernel import states
from kernel.cli import exits, output
from kernel.cli.kinds import Duration
from kernel.cli.state import State
from kernel.config.values import jsonable
from kernel.errors import TimeoutError as ResultTimeoutError

if TYPE_CHECKING:
    from kernel.result import AsyncResult


@click.command("result", short_help="Show the result of a task.")
@click.argument("task_id", metavar="ID")
@click.option("-w", "--wait", type=Duration(), help="Wait so long for it to end.")
@click.option("-t", "--task", "_task", help="Accepted for Celery's sake; the result is found by its id.")
@click.option("--traceback", "with_traceback", is_flag=True, help="Print the traceback of a task that failed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(
    state: State, task_id: str, *, wait: float | None, _task: str | None, with_traceback: bool, as_json: bool
) -> int:
    """Print the result of the task ID, or its state while there is none.

    The exit code is 1 when the task failed or was revoked, and when --wait ended without a result.

    \b
    Examples:
      kernel -A proj result ID
      kernel -A proj result ID --wait 30s --json
    """
    with state.opened() as app:
        result = app.AsyncResult(task_id)
        late = False
        if wait is not None:
            try:
                result.get(timeout=wait, propagate=False)
            except ResultTimeoutError:
                late = True
        code = show(result, as_json=as_json, with_traceback=with_traceback)
    return exits.FAILED if late else code


def show(result: AsyncResult[Any], *, as_json: bool, with_traceback: bool) -> int:
    """Print a result as it is now; the exit code that follows from it."""
    state = result.state
    value = result.result
    if as_json:
        output.emit_json("result/1", _as_data(result, state, value))
    elif state == states.SUCCESS:
        click.echo(value if isinstance(value, str) else repr(value))
    elif with_traceback and result.traceback:
        click.echo(result.traceback)
    elif isinstance(value, BaseException):
        click.echo(f"{state}: {type(value).__name__}: {value}")
    else:
        click.echo(state if value is None else f"{state}: {value!r}")
    return exits.FAILED if state in states.EXCEPTION_STATES and state != states.RETRY else exits.OK


def _as_data(result: AsyncResult[Any], state: str, value: Any) -> dict[str, Any]:
    done = result.date_done
    error = {"type": type(value).__name__, "message": str(value)} if isinstance(value, BaseException) else None
    return {
        "id": result.id,
        "state": state,
        "ready": state in states.READY_STATES,
        "result": None if error else value if jsonable(value) else repr(value),
        "error": error,
        "traceback": result.traceback,
        "date_done": done.isoformat() if isinstance(done, datetime) else done,
    }
