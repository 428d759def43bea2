"""``kernel worker``: the worker as a command. The app is not imported in this process but in its fork server."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kernel import errors
from kernel.cli import exits
from kernel.cli.frame import state_of

if TYPE_CHECKING:
    from kernel.worker.engine.engine import Engine
    from kernel.worker.manifest import Manifest
    from kernel.worker.options import WorkerOptions

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")
_PICKLE = ("pickle", "application/x-python-serialize", "application/group-python-serialize")


@click.command()
@click.option("-n", "--hostname", metavar="NODE", help="Name of this node; %h host, %n name, %d domain.")
@click.option("-l", "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), default="WARNING", show_default=True)
@click.option("-f", "--logfile", metavar="FILE", help="Log to this file instead of standard error.")
@click.option("--log-format", type=click.Choice(["human", "json"]), default="human", show_default=True)
@click.option("-c", "--concurrency", type=click.IntRange(1), help="Tasks at once; default: as the pool says.")
@click.option("-P", "--pool", metavar="POOL", help="prefork, threads, solo, asyncio, or any that is installed.")
@click.option("--processes", type=click.IntRange(0), help="Child processes that host the pool; 0: this process.")
@click.option("-Q", "--queues", metavar="A,B", help="Queues to consume, separated by commas.")
@click.option("-X", "--exclude-queues", metavar="A,B", help="Queues not to consume, of those that are defined.")
@click.option("--max-tasks-per-child", type=click.IntRange(1), help="Replace a child after so many tasks.")
@click.option("--max-memory-per-child", type=click.IntRange(1), metavar="KIB", help="Replace a child over this size.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Hard limit of every task.")
@click.option("--soft-time-limit", type=float, metavar="SECONDS", help="Soft limit of every task.")
@click.option("--prefetch-multiplier", type=click.IntRange(0), help="Claim so many messages a slot; default: adaptive.")
@click.pass_context
def command(context: click.Context, /, **given: Any) -> int:
    """Run tasks.

    \b
    Examples:
      kernel -A proj worker -l INFO -c 4
      kernel -A proj worker -P threads -c 32
      kernel -A proj worker -Q mails,default
    """
    from kernel.worker.worker import serve

    state = state_of(context)
    options = _options(given, state.flags, state.app_path() or "")
    _log_early(options)
    restart = Restart()
    status = serve(
        options,
        load_app=state.app,
        before_run=lambda engine, manifest: _before_run(engine, manifest, restart),
        log=lambda settings: _log_fully(options, settings),
    )
    if not status:
        restart.carry_out()
    return status or exits.OK


def _options(given: Mapping[str, Any], flags: Mapping[str, Any], path: str) -> WorkerOptions:
    from kernel.worker.options import LogOptions, WorkerOptions

    names = {
        "max_tasks_per_child": "worker_max_tasks_per_child",
        "max_memory_per_child": "worker_max_memory_per_child",
        "time_limit": "task_time_limit",
        "soft_time_limit": "task_soft_time_limit",
        "prefetch_multiplier": "worker_prefetch_multiplier",
    }
    settings = dict(flags)
    settings.update({name: given[flag] for flag, name in names.items() if given[flag] is not None})
    log = LogOptions(level=given["loglevel"].upper(), file=given["logfile"], json=given["log_format"] == "json")
    return WorkerOptions(
        app=path,
        hostname=given["hostname"] or "",
        queues=_names(given["queues"]),
        exclude_queues=_names(given["exclude_queues"]),
        pool=given["pool"],
        concurrency=given["concurrency"],
        processes=given["processes"],
        settings=settings,
        log=log,
    )


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _log_early(options: WorkerOptions) -> None:
    from kernel.worker import logs

    logs.set_up(options.log, {}, process="worker")


def _log_fully(options: WorkerOptions, settings: Mapping[str, Any]) -> None:
    from kernel.worker import logs

    logs.set_up(options.log, settings, process="worker")


def _before_run(engine: Engine, manifest: Manifest, restart: Restart) -> None:
    _refuse_root_with_pickle(manifest)
    for warning in manifest.warnings:
        logging.getLogger("kernel.worker").warning("%s", warning)
    _banner(manifest)
    engine.on_ready(lambda: print(f"{manifest.hostname} ready.", file=sys.stderr, flush=True))
    _handle_signals(engine, restart)


def _refuse_root_with_pickle(manifest: Manifest) -> None:
    accepted = manifest.settings.get("accept_content") or ()
    if os.getuid() != 0 or os.environ.get("C_FORCE_ROOT") or not any(name in _PICKLE for name in accepted):
        return
    raise errors.SecurityError(
        "this worker runs as root and accepts pickle: whoever can write to the broker can run anything as root. "
        "Run it as another user, take pickle out of accept_content, or set C_FORCE_ROOT=1 if you mean it."
    )


def _banner(manifest: Manifest) -> None:
    from kernel.config.values import mask_url

    where = f"{manifest.processes} processes of {manifest.slots}" if manifest.processes else f"{manifest.slots} here"
    rows = {
        "app": manifest.app_name,
        "broker": mask_url(str(manifest.broker["url"])),
        "results": mask_url(manifest.backend_url) or "disabled",
        "pool": f"{manifest.pool}, {where}",
        "queues": ", ".join(manifest.queues),
        "tasks": str(len(manifest.tasks)),
    }
    lines = [f"  {name:<8} {value}" for name, value in rows.items()]
    print("\n".join([f"kernel worker {manifest.hostname}", *lines]), file=sys.stderr, flush=True)


class Restart:
    """Whether the worker is to begin anew, as SIGHUP asks for, once it has ended warm.

    Where it hangs on a terminal, the terminal is gone, and so is the wish for a worker.
    """

    wanted = False

    def carry_out(self) -> None:
        """Execute the command line of this process again, in this process; returns if it is not wanted."""
        if self.wanted:
            from kernel.worker import logs

            logs.flush()
            arguments = [sys.executable, *sys.orig_argv[1:]]
            os.execv(sys.executable, arguments)  # noqa: S606 - no shell is wanted


def _show_stacks(_signum: int, _frame: object) -> None:
    """Not by `faulthandler.register`, which reads the frames of other threads while they run, and so now and then ends
    the process in place of showing it: here they wait."""
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)


def _handle_signals(engine: Engine, restart: Restart) -> None:
    from kernel.worker.engine.shutdown import Stage

    seen = {"interrupts": 0}

    def terminate(_signum: int, _frame: object) -> None:
        engine.stop(Stage.COLD if os.environ.get("REMAP_SIGTERM") == "SIGQUIT" else Stage.WARM, reason="SIGTERM")

    def interrupt(_signum: int, _frame: object) -> None:
        seen["interrupts"] += 1
        if seen["interrupts"] > 1:
            engine.stop(Stage.COLD, reason="SIGINT twice", status=1)
            return
        print("\nkernel: stopping; once more ends what runs", file=sys.stderr, flush=True)
        engine.stop(Stage.WARM, reason="SIGINT", status=1)

    def hang_up(_signum: int, _frame: object) -> None:
        restart.wanted = sys.stdin is None or not sys.stdin.isatty()
        engine.stop(Stage.WARM, reason="SIGHUP")

    def quit_now(_signum: int, _frame: object) -> None:
        engine.stop(Stage.COLD, reason="SIGQUIT", status=1)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGQUIT, quit_now)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, hang_up)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, _show_stacks)
