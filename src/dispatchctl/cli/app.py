"""The table of commands, and the one boundary that tells expected errors, interruptions and bugs apart."""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer._click import exceptions as click

from dispatchctl.cli.context import Config, Database, Globals, Quiet, Verbose, with_globals
from dispatchctl.errors import DispatchctlError, ExitCode, Terminated, UsageError
from dispatchctl.render.output import Output

WORK, LOOK, QUEUE, AGENT, SETUP = "Work", "Look", "Queue", "Called by agents, or by you", "Set up"

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("setup", SETUP),
    "init": ("setup", SETUP),
    "add": ("queue", QUEUE),
    "edit": ("queue", QUEUE),
    "rm": ("queue", QUEUE),
    "release": ("queue", QUEUE),
    "list": ("look", LOOK),
    "show": ("look", LOOK),
    "history": ("look", LOOK),
    "runs": ("look", LOOK),
    "ready": ("look", LOOK),
    "logs": ("look", LOOK),
    "wait": ("look", LOOK),
    "dispatch": ("work", WORK),
    "attach": ("work", WORK),
    "send": ("work", WORK),
    "cancel": ("work", WORK),
    "retry": ("work", WORK),
    "unblock": ("work", WORK),
    "done": ("report", AGENT),
    "fail": ("report", AGENT),
    "block": ("report", AGENT),
    "heartbeat": ("report", AGENT),
    "agents": ("setup", SETUP),
    "config": ("setup", SETUP),
}
"""Each command: the module of `dispatchctl.cli` that has it, and where `--help` lists it."""

ALIASES = {"ls": "list"}
WITHOUT_JSON = frozenset({"attach", "logs", "demo", "heartbeat"})
TAKE_A_VALUE = frozenset({"--db", "--config"})


def _version(asked: bool) -> None:
    if asked:
        from dispatchctl import __version__

        sys.stdout.write(f"dispatchctl {__version__}\n")
        raise typer.Exit


def _globals(
    ctx: typer.Context,
    db: Database = None,
    config: Config = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    version: Annotated[  # noqa: ARG001 - its callback has answered
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version.", rich_help_panel="Global"),
    ] = False,
) -> None:
    """Take a task from a queue to a running agent, in its own git worktree and tmux window, or leave no trace."""
    ctx.obj = Globals(db, config, quiet, verbose)


def build(names: list[str]) -> typer.Typer:
    """The application with only the named commands: the others' modules are not imported."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    app.callback()(_globals)
    for name in names:
        real = ALIASES.get(name, name)
        module, panel = COMMANDS[real]
        function = getattr(import_module(f"dispatchctl.cli.{module}"), real.replace("list", "list_tasks"))
        app.command(name, rich_help_panel=panel, hidden=name in ALIASES)(
            with_globals(function, json=real not in WITHOUT_JSON)
        )
    return app


def named_in(arguments: list[str]) -> list[str]:
    """The command that the arguments name; every command if that is not plain, as for help or a misspelt name."""
    words = iter(arguments)
    for word in words:
        if word in TAKE_A_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return [word] if word in COMMANDS or word in ALIASES else [*COMMANDS, *ALIASES]
        elif word in ("-h", "--help"):
            break
    return [*COMMANDS, *ALIASES]


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    output = Output(as_json="--json" in arguments)
    try:
        return _run(arguments)
    except click.NoArgsIsHelpError as help_page:
        sys.stderr.write(help_page.format_message() + "\n")
        return ExitCode.USAGE
    except click.ClickException as error:
        output.error(UsageError(error.format_message(), _help_hint(error)))
        return ExitCode.USAGE
    except DispatchctlError as error:
        output.error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("dispatchctl: interrupted\n")
        return ExitCode.INTERRUPTED
    except Terminated as end:
        sys.stderr.write(f"dispatchctl: {end}\n")
        return 128 + end.signal
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.OK


def _run(arguments: list[str]) -> int:
    answer: Any = build(named_in(arguments))(arguments, prog_name="dispatchctl", standalone_mode=False)
    sys.stdout.flush()
    return int(answer or 0)


def _help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "dispatchctl --help"
