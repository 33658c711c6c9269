"""dispatch, attach, send, cancel, retry, unblock: what makes agents run and stop."""

import os
import signal
from types import FrameType
from typing import Annotated

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Id, Message, split
from dispatchctl.errors import ExitCode, Terminated, Unavailable


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def dispatch(
    cli: Cli,
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID…]", min=1, help="These tasks only.", show_default=False)
    ] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Start at most so many.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME", help="Only tasks with all of these.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option("--max-running", min=1, help="The limit on open runs, this once.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be started.")] = False,
) -> int:
    """Start ready tasks, each in its own worktree and tmux window.

    Exit code 0 also when there was nothing to do; with one ID that ID's own code, with several 1 if one failed.
    """
    from dispatchctl import dispatch as dispatching
    from dispatchctl.runtime import now

    runtime = cli.runtime
    if dry_run:
        room = (max_running or runtime.settings.dispatch.max_running) - len(runtime.store.open_runs())
        tasks = runtime.store.claimable(at=now(), limit=max(0, min(room, most or room)) or 0, labels=split(label))
        tasks = [runtime.store.task(id) for id in ids] if ids else tasks if room > 0 else []
        cli.list_tasks(tasks)
        return ExitCode.OK
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    done = dispatching.dispatch(runtime, ids or (), most=most, labels=split(label), max_running=max_running)
    if cli.as_json:
        failed = [{"task": each.task, "error": each.error.message, "status": each.status} for each in done.failed]
        cli.output.json({"dispatched": [cli.shape(task) for task in done.started], "failed": failed})
    for task in done.started:
        where = f"{task.run.branch} in {task.run.session}" if task.run else ""
        if not cli.as_json:
            cli.output.line(f"task {task.id} started: {task.agent} on {where}")
    for failure in done.failed:
        cli.output.story(f"{failure.error.message}; it is {failure.status}", hint=failure.error.hint)
    if done.full is not None:
        cli.output.story(done.full.message)
    elif not done.started and not done.failed:
        cli.output.story("nothing is ready: dispatchctl ready --explain")
    if not done.failed:
        return ExitCode.OK
    return done.failed[0].error.exit_code if ids and len(ids) == 1 else ExitCode.FAILED


def attach(cli: Cli, id: Id) -> None:
    """Go to the task's window; inside tmux, switch to it."""
    from dispatchctl import sessions

    command = sessions.attach_command(cli.runtime, id)
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise Unavailable(f"tmux cannot be run: {error}", "dispatchctl config tools.tmux") from error


def send(
    cli: Cli,
    id: Id,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to type.", show_default=False)],
    enter: Annotated[bool, typer.Option("--enter/--no-enter", help="Press Enter after it.")] = True,
) -> None:
    """Type text into the task's session."""
    from dispatchctl import sessions

    sessions.send(cli.runtime, id, text, enter=enter)
    cli.show_task(cli.runtime.store.task(id), f"sent to task {id}")


def cancel(cli: Cli, id: Id) -> None:
    """Cancel a task; its agent is ended first. Its worktree and branch stay."""
    from dispatchctl import sessions

    task = sessions.cancel(cli.runtime, id)
    cli.show_task(task, f"task {id} is {task.status}")


def retry(
    cli: Cli,
    id: Id,
    message: Message = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over in a new worktree; the old one stays.")] = False,
) -> None:
    """Make a finished, reviewed or blocked task ready again, to go on in its worktree."""
    from dispatchctl import sessions

    task = sessions.retry(cli.runtime, id, message=message, fresh=fresh)
    cli.show_task(task, f"task {id} is {task.status}")


def unblock(cli: Cli, id: Id, message: Message = None) -> None:
    """Answer a blocked task: its session gets the message and goes on, or the task is ready again."""
    from dispatchctl import sessions

    task = sessions.unblock(cli.runtime, id, message)
    cli.show_task(task, f"task {id} is {task.status}")
