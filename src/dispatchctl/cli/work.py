"""dispatch, reconcile, attach, send, cancel, retry, unblock, prune: what makes agents run and stop."""

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dispatchctl.cli.context import Cli, undo_when_terminated
from dispatchctl.cli.values import Id, Message, TaskNumber, Whole, split
from dispatchctl.durations import parse_duration
from dispatchctl.errors import ExitCode, Unavailable, UsageError
from dispatchctl.task import Status

if TYPE_CHECKING:
    from dispatchctl.prune import Pruned

SHOWN = 20
"""Tasks that are named of what there may be thousands of."""


def dispatch(
    cli: Cli,
    ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="[ID…]", click_type=TaskNumber(), help="These tasks only.", show_default=False),
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max", metavar="N", click_type=Whole(1), help="Start at most so many.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME", help="Only tasks with all of these.")
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option("--max-running", metavar="N", click_type=Whole(1), help="The limit on open runs, this once."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be started.")] = False,
) -> int:
    """Start ready tasks, each in its own worktree and tmux window.

    Exit code 0 also when there was nothing to do; with one ID that ID's own code, with several 1 if one failed.
    """
    from dispatchctl.cli import starting

    choice = starting.Choice(list(dict.fromkeys(ids or ()))[:most], most, split(label), max_running)
    if choice.tasks and choice.labels:
        raise UsageError(
            "--label chooses among all tasks, and here they are named",
            f"dispatchctl dispatch --label {shlex.quote(','.join(choice.labels))}",
        )
    undo_when_terminated()
    done = starting.foresee(cli.runtime, choice) if dry_run else starting.start(cli.runtime, choice)
    if cli.as_json:
        failed = [{"task": each.task, "error": each.error.message, "status": each.status} for each in done.failed]
        cli.output.json({"dispatched": [cli.shape(task) for task in done.started], "failed": failed})
    elif dry_run:
        cli.list_tasks(done.started)
    else:
        for task in done.started:
            where = f" on {task.run.branch} in {task.run.session}" if task.run else ""
            cli.output.line(f"task {task.id} started: {task.agent}{where}")
    for failure in done.failed:
        now = "" if str(failure.status) in failure.error.message else f"; it is {failure.status} now"
        cli.output.failure(f"{failure.error.message}{now}", failure.error.hint)
    if done.full is not None:
        cli.output.story(done.full.message, hint=done.full.hint)
    elif not done.started and not done.failed:
        cli.output.story("nothing is ready", hint="dispatchctl ready --explain")
    if not done.failed:
        return ExitCode.OK
    return done.failed[0].error.exit_code if len(choice.tasks) == 1 else ExitCode.FAILED


def reconcile(
    cli: Cli, dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False
) -> int:
    """Make every status true after something died; quiet when there is nothing to do. For cron.

    Whatever cannot be told is reported and left alone. Exit code 69 if a tmux server could not be asked at all.
    """
    from dispatchctl import reconcile as reconciling
    from dispatchctl.plan import Kind
    from dispatchctl.render import shapes

    result = reconciling.reconcile(cli.runtime, dry_run=dry_run)
    if cli.as_json:
        cli.output.json({"actions": [shapes.action(done.action, done.ok) for done in result.done]})
    for done in result.done:
        action, failed = done.action, f", but {done.error}" if done.error else ""
        whose = f"task {action.task}: " if action.task is not None else ""
        line = f"{whose}{action.reason}: {action.kind} run {action.run}{failed}"
        if action.kind is Kind.REPORT or done.error:
            cli.output.failure(line, f"dispatchctl show {action.task}" if whose else "dispatchctl doctor")
        elif not cli.as_json:
            cli.output.line(line)
    for socket, said in result.silent.items():
        cli.output.failure(f"tmux on {socket} cannot be asked: {said}", f"tmux -S {socket} ls")
    if result.silent:
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED if any(done.error for done in result.done) else ExitCode.OK


def attach(cli: Cli, id: Id) -> None:
    """Go to the task's window; inside its tmux server, switch to it. C-b d comes back."""
    from dispatchctl import sessions

    command = sessions.attach_command(cli.runtime, id)
    if not os.isatty(0):
        raise UsageError(f"there is no terminal on which task {id} could be shown", shlex.join(command))
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


def cancel(
    cli: Cli,
    id: Id,
    force: Annotated[
        bool, typer.Option("--force", help="Even if work is in its worktree: a rescue ref keeps it.")
    ] = False,
) -> int:
    """Cancel a task; its agent is ended first. Its worktree and branch go if nothing would be lost.

    Otherwise they stay, and the story says why. With --force a ref keeps the work, and the way to get it back is shown; exit
    code 4 if they stay nevertheless.
    """
    from dispatchctl import sessions

    done = sessions.cancel(cli.runtime, id, force=force, tell=cli.output.notice)
    cli.show_task(done.task, f"task {id} is {done.task.status}")
    for why in done.kept:
        cli.output.failure(why.message, why.hint)
    return ExitCode.REFUSED if done.kept and force else ExitCode.OK


def retry(
    cli: Cli,
    id: Id,
    message: Message = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; a rescue ref keeps what would be lost of the old worktree.")
    ] = False,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Give up its open run, as lost: it is on another machine, which is gone.")
    ] = False,
) -> None:
    """Make a finished, reviewed or blocked task ready again, to go on in its worktree."""
    from dispatchctl import sessions

    if takeover:
        if message is not None or fresh:
            raise UsageError("--takeover goes with neither -m nor --fresh", f"dispatchctl retry {id} --takeover")
        task = sessions.take_over(cli.runtime, id)
    else:
        task = sessions.retry(cli.runtime, id, message=message, fresh=fresh, tell=cli.output.notice)
    if message is not None and task.agent == "shell":
        cli.output.story(f"the message is kept, but task {id} does not get it: its prompt is a program")
    cli.show_task(task, f"task {id} is {task.status}")


def prune(
    cli: Cli,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Only what ended so long ago; 0 is all.")
    ] = "7d",
    force: Annotated[
        bool, typer.Option("--force", help="Even where work would be lost: a rescue ref keeps it.")
    ] = False,
    events_older_than: Annotated[
        str | None,
        typer.Option(
            "--events-older-than",
            metavar="TIME",
            help="Drop the history of finished tasks to which nothing has happened for so long. Default: history.keep.",
        ),
    ] = None,
    keep_tasks: Annotated[
        int | None,
        typer.Option(
            "--keep-tasks",
            metavar="N",
            click_type=Whole(0),
            help="Drop that of all finished tasks but the last so many.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> int:
    """Clear away worktrees, branches, windows and run directories of finished tasks; quiet when there are none.

    Finished is done, failed or cancelled, for a week if --older-than does not say otherwise. The tasks stay. What would be
    lost is kept and named, with exit code 0, and so is what a done task has committed and its base does not have; with --force
    a ref keeps what would be lost, and the way to get it back is shown. Exit code 1 if something could not be told or done.

    The history stays for ever, unless an option or the setting history.keep says otherwise. Then all events of a task go
    or none, and one stays that says how the task and its runs are now; of a task that was removed all go.
    """
    from dispatchctl import prune as pruning
    from dispatchctl.render import shapes
    from dispatchctl.runtime import now

    before = now() - 1000 * parse_duration(older_than)
    wish = pruning.Wish(before, force=force, dry_run=dry_run)
    done = []
    for each in pruning.prune(cli.runtime, wish, tell=cli.output.notice):
        done.append(each)
        if not cli.as_json:
            _say_pruned(cli, each, dry_run=dry_run)
    kept = [each for each in done if not each.ok and not each.failed]
    if kept and not cli.as_json:
        _sum_up(cli, kept, f"dispatchctl prune --older-than {shlex.quote(older_than)} --force")
    keep = cli.runtime.settings.history.keep if events_older_than is None else parse_duration(events_older_than)
    last_before = now() - 1000 * keep if keep or events_older_than is not None else None
    dropped = pruning.forget(cli.runtime, pruning.Retention(last_before, keep_tasks, dry_run))
    forgotten = sorted(dropped, key=lambda each: each.task)
    if forgotten and not cli.as_json:
        which = ", ".join(str(each.task) for each in forgotten[:SHOWN])
        more = len(forgotten) - SHOWN
        which += f" and {more} more" if more > 0 else ""
        cli.output.line(f"the history of task {which} {'would be' if dry_run else 'is'} dropped")
    done += forgotten
    if cli.as_json:
        cli.output.json({"actions": [shapes.action(each, each.ok) for each in done]})
    return ExitCode.FAILED if any(each.failed for each in done) else ExitCode.OK


def _say_pruned(cli: Cli, each: "Pruned", *, dry_run: bool) -> None:
    """A line of the answer; what could not be told or done is a failure."""
    line = f"task {each.task}, run {each.run}"
    if each.failed:
        cli.output.failure(f"{line} is kept: {each.why}", each.hint)
    elif each.ok:
        cli.output.line(f"{line} {'would be' if dry_run else 'is'} cleared: {each.why}")
    else:
        cli.output.line(f"{line} is kept: {each.why}{f': {each.hint}' if each.hint else ''}")


def _sum_up(cli: Cli, kept: "Sequence[Pruned]", by_force: str) -> None:
    """How many runs are kept, and what clears them too."""
    forcible = sum(each.forcible for each in kept)
    how = f"; {'it goes' if forcible == 1 else f'{forcible} go'} nevertheless by: {by_force}" if forcible else ""
    cli.output.story(f"{len(kept)} {'run is' if len(kept) == 1 else 'runs are'} kept{how}")


def unblock(cli: Cli, id: Id, message: Message = None) -> None:
    """Answer a blocked task: its session gets the message and goes on, or the task is ready again.

    Without -m nothing is typed into its session: for when you have answered there, as after `attach`.
    """
    from dispatchctl import sessions

    question = cli.runtime.store.task(id).error
    task = sessions.unblock(cli.runtime, id, message)
    if message is None and task.status is Status.IN_PROGRESS:
        asked = f"; it had asked: {question}" if question else ""
        cli.output.story(
            f"nothing was typed into its session, which may still wait for an answer{asked}",
            hint=f"dispatchctl send {id} 'ANSWER'",
        )
    cli.show_task(task, f"task {id} is {task.status}")
