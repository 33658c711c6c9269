"""What every command gets: the runtime and the output, from options that may stand before or after the command."""

import inspect
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Annotated, Any

import typer

from dispatchctl.config import Environment
from dispatchctl.errors import Terminated, UsageError
from dispatchctl.render.output import Output
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Task

Database = Annotated[str | None, typer.Option("--db", metavar="PATH", help="The database.", rich_help_panel="Global")]
Config = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="Your settings.", rich_help_panel="Global")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No story on stderr.", rich_help_panel="Global")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More story.", rich_help_panel="Global")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.", rich_help_panel="Global")]
PAUSES_SHOWN = 3
"""Paused repositories that are named of what may be many."""


def _version(asked: bool) -> None:
    if asked:
        from dispatchctl import __version__

        sys.stdout.write(f"dispatchctl {__version__}\n")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_version, is_eager=True, help="Show the version.", rich_help_panel="Global"),
]


@dataclass(frozen=True)
class Globals:
    """The global options as they stand so far."""

    db: str | None = None
    config: str | None = None
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


@dataclass
class Cli:
    """What a command works with."""

    given: Globals

    @property
    def as_json(self) -> bool:
        """Whether the answer is to be JSON."""
        return self.given.as_json

    @cached_property
    def environment(self) -> Environment:
        """The environment of this process."""
        return Environment.read()

    @cached_property
    def runtime(self) -> Runtime:
        """The parts, put together."""
        environment = self.environment
        return Runtime(environment, self.given.db, self.given.config, lenient=environment.token is not None)

    @cached_property
    def output(self) -> Output:
        """Where the answer and the story go."""
        return Output(self.as_json, self.given.quiet, self.environment.no_color)

    def is_watched(self) -> bool:
        """Whether a daemon starts what is ready."""
        from dispatchctl.processes import is_locked
        from dispatchctl.runtime import watch_lock

        return is_locked(watch_lock(self.runtime)) is True

    def say_unattended(self, what: str) -> None:
        """Say that `what` is ready and that nothing will start it by itself, if no daemon does."""
        if self.is_watched():
            return
        self.output.story(f"no dispatcher is running, so nothing starts {what} by itself: dispatchctl dispatch")

    def show_task(self, task: Task, line: str) -> None:
        """The answer of a command that changed one task."""
        self.output.answer("task", self.shape(task), [line])

    def shape(self, task: Task) -> dict[str, Any]:
        """The JSON of a task, with why it is held."""
        from dispatchctl import lookout
        from dispatchctl.render import shapes

        return shapes.task(task, lookout.held(self.runtime, [task]).get(task.id))

    def list_tasks(self, tasks: list[Task]) -> None:
        """The answer of a command that lists tasks."""
        from dispatchctl import lookout
        from dispatchctl.render import shapes, views

        if self.as_json:
            held = lookout.held(self.runtime, tasks)
            self.output.json({"tasks": [shapes.task(task, held.get(task.id)) for task in tasks]})
        elif tasks:
            held, at = lookout.held_back(self.runtime, tasks), now()
            self.output.table(views.TASK_HEADS, (views.task_row(task, held.get(task.id), at) for task in tasks))

    def say_paused(self, repo: str | None = None) -> None:
        """Say what is paused, in all or of what concerns one repository: it explains why nothing is started."""
        from dispatchctl.store.room import paused

        pauses = [each for each in self.runtime.store.pauses() if repo is None or each.repo in ("", repo)]
        for pause in pauses[:PAUSES_SHOWN]:
            self.output.story(paused(pause).why, hint=paused(pause).hint)
        if len(pauses) > PAUSES_SHOWN:
            rest = len(pauses) - PAUSES_SHOWN
            what = "1 more repository is" if rest == 1 else f"{rest} more repositories are"
            self.output.story(f"{what} paused", hint="dispatchctl ready --explain")


def undo_when_terminated() -> None:
    """Have SIGTERM and SIGHUP raise `Terminated`, so that what was begun is undone as after Ctrl-C."""

    def terminate(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)


def _unwrapped(text: str) -> str:
    """Each paragraph on one line, for the terminal to wrap."""
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in text.split("\n\n"))


def with_globals(function: Callable[..., int | None], *, json: bool = True) -> Callable[..., int | None]:
    """The command with the global options added, which are taken from before or after its name."""

    def command(
        ctx: typer.Context,
        db: str | None = None,
        config: str | None = None,
        quiet: bool = False,
        verbose: bool = False,
        as_json: bool = False,
        version: bool = False,  # noqa: ARG001 - its callback has answered
        **arguments: Any,
    ) -> int | None:
        before = ctx.obj if isinstance(ctx.obj, Globals) else Globals()
        for option, path in (("--db", db), ("--config", config), ("--db", before.db), ("--config", before.config)):
            if path == "":
                raise UsageError(f"{option} names no file: it is empty", "dispatchctl --help")
        given = Globals(
            before.db if db is None else db,
            before.config if config is None else config,
            quiet or before.quiet,
            verbose or before.verbose,
            as_json or before.as_json,
        )
        return function(Cli(given), **arguments)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    added = [("db", Database, None), ("config", Config, None), ("quiet", Quiet, False), ("verbose", Verbose, False)]
    added += [("as_json", Json, False)] if json else []
    added.append(("version", Version, False))
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    parameters += [each.replace(kind=keyword) for each in own]
    parameters += [inspect.Parameter(name, keyword, default=default, annotation=kind) for name, kind, default in added]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = _unwrapped(inspect.cleandoc(function.__doc__ or ""))
    return command
