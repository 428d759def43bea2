"""The frame of the command line: the list of commands, the options of all, and how errors are told.

Commands are imported when they are used: ``--help`` knows their names and first sentences from here.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import click

from kernel.cli import exits
from kernel.cli.state import State
from kernel.errors import KernelError
from kernel.finding import AppNotFound

if TYPE_CHECKING:
    from kernel.app import Kernel

COMMANDS: Final[Mapping[str, str]] = {
    "worker": "Run tasks.",
    "queues": "List, purge, pause, resume and peek into queues.",
    "dead": "List, show, retry and drop dead letters.",
    "migrate": "Move between Celery and this.",
    "call": "Call a task by name.",
    "result": "Show the result of a task.",
    "config": "Show every setting and where its value came from.",
    "plugins": "List drivers and hook plugins.",
    "doctor": "Find what is wrong, and say how to mend it.",
}
"""The module `kernel.cli.<name>` has the command as `command`."""

EPILOG: Final = """\b
Examples:
  kernel -A proj worker -l INFO -c 4
  kernel queues list -A proj --json
  kernel -b sqlite:///tasks.db dead list
  kernel call proj.tasks.add -a '[2, 3]'
"""


class KernelGroup(click.Group):
    """Commands by name, imported at use; unknown ones are looked for among plugins, then answered with near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(set(self.commands) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        command = self.commands.get(name)
        if command is None and name in COMMANDS:
            command = importlib.import_module(f"kernel.cli.{name}").command
            command.name = name
        if command is None:
            _load_plugin_commands(self, ctx)
            command = self.commands.get(name)
        if command is not None:
            self.commands[name] = command
            _add_shared_options(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and (path := _app_option(args[1:])):
            # The command may be a plugin's, and the plugin the app's: the app is needed before its option is parsed.
            state_of(ctx).path = path
        if name[:1].isalpha() and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, text in COMMANDS.items()]
        rows += [(name, self.commands[name].get_short_help_str()) for name in self.list_commands(ctx)[len(rows) :]]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        plugins = plugin_names()
        if plugins:
            with formatter.section("Plugins that may add commands"):
                formatter.write_text(", ".join(plugins))


def _app_option(arguments: Sequence[str]) -> str | None:
    """What `-A` says among arguments that are not parsed yet."""
    for at, argument in enumerate(arguments):
        if argument in ("-A", "--app"):
            return arguments[at + 1] if at + 1 < len(arguments) else None
        if argument.startswith("--app="):
            return argument.removeprefix("--app=")
        if argument.startswith("-A"):
            return argument.removeprefix("-A")
    return None


def plugin_names() -> list[str]:
    """Names of the installed hook plugins, none of which is imported.

    The files are read here because `importlib.metadata` alone takes half the time that ``--help`` may take.
    """
    names: set[str] = set()
    for folder in {entry or "." for entry in sys.path}:
        for file in Path(folder).glob("*.dist-info/entry_points.txt"):
            section = ""
            for line in file.read_text(errors="replace").splitlines():
                if line.startswith("["):
                    section = line.strip()
                elif section == "[kernel.plugins]" and "=" in line:
                    names.add(line.partition("=")[0].strip())
    return sorted(names)


def _load_plugin_commands(group: click.Group, ctx: click.Context) -> None:
    """Let hook plugins (of the app, if one is named) add their commands; one that is broken must not hide the rest."""
    try:
        from kernel.app import Kernel

        app = state_of(ctx).named_app() or Kernel("kernel")
        app.extensions.collect("kernel_cli", group=group)
    except Exception as exc:
        click.echo(f"Commands of plugins are not available: {exc}", err=True)


# --- options that stand before or after any command -----------------------------------------------------------


def state_of(ctx: click.Context) -> State:
    """The state of this run."""
    return ctx.ensure_object(State)


def _set_app(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        state_of(ctx).path = value


def _set_flag(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value:
        name = "broker_url" if parameter.name == "broker" else "result_backend"
        state_of(ctx).flags[name] = value


def _set_config(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        state_of(ctx).use_config(value)


def _set_workdir(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        os.chdir(value)


def _set_color(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        state_of(ctx).color = ctx.color = False


def _set_quiet(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    state_of(ctx).quiet |= value


def _set_traceback(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    state_of(ctx).traceback |= value


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"kernel {version('kernel')}")
        ctx.exit()


def shared_options() -> list[click.Option]:
    """The options that every command takes, too; new objects each time."""
    common: dict[str, Any] = {"expose_value": False, "is_eager": True}
    # The variables of these are read where the value is needed, below what the option says.
    valued: dict[str, Any] = {**common, "allow_from_autoenv": False}
    folder = click.Path(exists=True, file_okay=False)
    return [
        click.Option(["--workdir"], type=folder, callback=_set_workdir, help="Change to this folder first.", **common),
        click.Option(
            ["-A", "--app"],
            metavar="APP",
            callback=_set_app,
            help="`module` or `module:attribute`.  [env var: KERNEL_APP]",
            **valued,
        ),
        click.Option(
            ["-b", "--broker"],
            metavar="URL",
            callback=_set_flag,
            help="Broker.  [env var: KERNEL_BROKER_URL]",
            **valued,
        ),
        click.Option(
            ["--result-backend"],
            metavar="URL",
            callback=_set_flag,
            help="Result backend.  [env var: KERNEL_RESULT_BACKEND]",
            **valued,
        ),
        click.Option(
            ["--config"],
            metavar="MODULE",
            callback=_set_config,
            help="Module of settings.  [env var: KERNEL_CONFIG_MODULE]",
            **valued,
        ),
        click.Option(
            ["-C", "--no-color"],
            is_flag=True,
            envvar=["KERNEL_NO_COLOR", "NO_COLOR"],
            callback=_set_color,
            help="No colours.",
            **common,
        ),
        click.Option(["-q", "--quiet"], is_flag=True, callback=_set_quiet, help="Print data only.", **common),
        click.Option(
            ["-v", "--traceback"], is_flag=True, callback=_set_traceback, help="Show where an error arose.", **common
        ),
    ]


def _add_shared_options(command: click.Command) -> None:
    """Give `command` (and its subcommands) the shared options, save for those whose names it uses itself."""
    if any(parameter.callback is _set_app for parameter in command.params):
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            _show_variable(command, parameter)
    taken = {text for parameter in command.params for text in parameter.opts}
    for option in shared_options():
        free = [text for text in option.opts if text not in taken]
        if len(free) == len(option.opts):
            # Their environment variables count before the command; here they would be called KERNEL_<COMMAND>_APP.
            option.allow_from_autoenv = False
            option.hidden = option.name not in {"app", "broker"}
            command.params.append(option)
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _add_shared_options(child)


def _show_variable(command: click.Command, option: click.Option) -> None:
    """Let the help name the option's variable.

    Where that is the variable of a setting (``--concurrency`` of ``worker``), the settings read it, in their own
    way (``KERNEL_WORKER_CONCURRENCY=auto``) and below the flag. A choice is no text: ``--log-format json`` and the
    setting `worker_log_format` share a name and no meaning, so that flag has no variable.
    """
    from kernel.config.catalogue import SERVED

    name = f"{command.name}_{option.name}"
    setting = next((known for known in SERVED if known.name == name), None)
    if setting is None:
        option.show_envvar = True
        return
    option.allow_from_autoenv = False
    if bool(setting.choices) == isinstance(option.type, click.Choice):
        option.help = f"{option.help or ''}  [env var: KERNEL_{name.upper()}]".lstrip()


def build() -> KernelGroup:
    """The group of all commands."""
    group = KernelGroup(
        "kernel",
        help="A distributed task queue. Run `kernel COMMAND --help` for a command's options.",
        params=cast("list[click.Parameter]", shared_options()),
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "KERNEL"},
    )
    for parameter in group.params:
        if isinstance(parameter, click.Option) and parameter.allow_from_autoenv:
            parameter.show_envvar = True
    group.params.append(
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="The version."
        )
    )
    return group


# --- running --------------------------------------------------------------------------------------------------


def run(argv: Sequence[str] | None = None, *, app: Kernel | None = None) -> int:
    """Run a command; its exit code. Errors of ours are told in one message, others with their traceback."""
    state = State(preset=app)
    arguments = list(sys.argv[1:] if argv is None else argv)
    show = warnings.showwarning
    warnings.showwarning = partial(_show_warning, show)
    try:
        return _run(arguments, state)
    finally:
        warnings.showwarning = show


def _run(arguments: list[str], state: State) -> int:
    try:
        result = build().main(arguments, prog_name="kernel", standalone_mode=False, obj=state)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except (KernelError, NotImplementedError) as exc:
        # NotImplementedError is what an app without a result backend answers, as Celery's does.
        _tell(exc, with_traceback=state.traceback)
        return exits.code_of(exc)
    return result if isinstance(result, int) else exits.OK


def _show_warning(
    show: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings about settings say where the setting is; the line of Python that met it helps nobody here."""
    if category.__name__ == "SettingsWarning":
        click.echo(f"{click.style('Warning:', fg='yellow', bold=True)} {message}", err=True)
    else:
        show(message, category, filename, lineno, file, line)


def _tell(error: Exception, *, with_traceback: bool) -> None:
    if with_traceback:
        traceback.print_exception(error)
    text = str(error) or type(error).__name__
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {text}", err=True)
    if isinstance(error, AppNotFound) and error.__cause__ is not None and not with_traceback:
        click.echo("Run it again with --traceback to see where.", err=True)
