"""The table of commands, and the one boundary that tells expected errors, interruptions and bugs apart."""

import os
import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import typer
from typer._click import exceptions as click

from dispatchctl.cli.context import Config, Database, Globals, Json, Quiet, Verbose, Version, with_globals
from dispatchctl.cli.usage import explained, unknown_command
from dispatchctl.errors import DispatchctlError, ExitCode, Terminated, UsageError
from dispatchctl.render.output import Output, ReaderGone, drop_unwritten, prepare_streams, write
from dispatchctl.render.text import visible

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
    "diff": ("merging", LOOK),
    "wait": ("look", LOOK),
    "stats": ("figures", LOOK),
    "metrics": ("figures", LOOK),
    "dispatch": ("work", WORK),
    "pause": ("pausing", WORK),
    "unpause": ("pausing", WORK),
    "watch": ("watch", WORK),
    "reconcile": ("work", WORK),
    "doctor": ("doctor", WORK),
    "attach": ("work", WORK),
    "send": ("work", WORK),
    "cancel": ("work", WORK),
    "approve": ("review", WORK),
    "reject": ("review", WORK),
    "retry": ("work", WORK),
    "unblock": ("work", WORK),
    "merge": ("merging", WORK),
    "prune": ("work", WORK),
    "done": ("report", AGENT),
    "fail": ("report", AGENT),
    "block": ("report", AGENT),
    "heartbeat": ("report", AGENT),
    "agents": ("setup", SETUP),
    "config": ("setup", SETUP),
    "service": ("service", SETUP),
    "notify": ("notify", SETUP),
}
"""Each command: the module of `dispatchctl.cli` that has it, and where `--help` lists it."""

ALIASES = {"ls": "list"}
WITHOUT_JSON = frozenset({"attach", "logs", "metrics", "watch"})
TAKE_A_VALUE = frozenset({"--db", "--config"})
FLAGS = frozenset({"-q", "--quiet", "-v", "--verbose", "--json"})


def _globals(
    ctx: typer.Context,
    db: Database = None,
    config: Config = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
    version: Version = False,  # noqa: ARG001 - its callback has answered
) -> None:
    """Take a task from a queue to a running agent, in its own git worktree and tmux window, or leave no trace."""
    ctx.obj = Globals(db, config, quiet, verbose, as_json)


def build(names: list[str]) -> typer.Typer:
    """The application with only the named commands: the others' modules are not imported."""
    app = typer.Typer(
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


def command_in(arguments: list[str]) -> str | None:
    """The command that the arguments name; None if that is not plain, as for help.

    Raises `UsageError` for a word that is no command where only a command can stand.
    """
    words = iter(arguments)
    for word in words:
        if word in TAKE_A_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            if word not in COMMANDS and word not in ALIASES:
                raise unknown_command(word, [*COMMANDS, *ALIASES])
            return word
        elif word not in FLAGS and not word.startswith(("--db=", "--config=")):
            break
    return None


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    prepare_streams()
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    output = Output(as_json="--json" in options)
    try:
        if not arguments:
            with redirect_stdout(sys.stderr):
                _run(["--help"])
            return ExitCode.USAGE
        code = _run(arguments)
    except click.ClickException as error:
        return _say(output, explained(error, command_in(arguments) or ""))
    except DispatchctlError as error:
        code = _say(output, error)
        if {"-v", "--verbose"} & set(options):
            _say_why(error)
        return code
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except Terminated as end:
        return _say(output, DispatchctlError(str(end)), 128 + end.signal)
    except ReaderGone:
        return ExitCode.OK
    except OSError as error:
        drop_unwritten()  # help is not written by `write`
        code = _say(output, _of_system(error))
        if {"-v", "--verbose"} & set(options):
            import traceback  # only for whoever asks

            traceback.print_exception(error)
        return code
    return _say(output, DispatchctlError("interrupted"), code) if code == ExitCode.INTERRUPTED else code


def _run(arguments: list[str]) -> int:
    command = command_in(arguments)
    app = build([command] if command else [*COMMANDS, *ALIASES])
    answer: Any = app(arguments, prog_name="dispatchctl", standalone_mode=False)
    write("")
    return int(answer or 0)


def _say(output: Output, error: DispatchctlError, code: int | None = None) -> int:
    number = int(error.exit_code) if code is None else code
    output.error(error, number)
    return number


def _of_system(error: OSError) -> DispatchctlError:
    """What the system refused at a place where nobody expected it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return UsageError("the current directory does not exist any more", "cd")
    where = f": {error.filename}" if error.filename else ""
    return DispatchctlError(f"{error.strerror or error}{where}", "the same with -v, to see where that was")


def _say_why(error: BaseException) -> None:
    """What an error came from, for whoever asks with --verbose."""
    while error.__cause__ is not None:
        error = error.__cause__
        sys.stderr.write(f"  from: {visible(f'{type(error).__name__}: {error}')}\n")
