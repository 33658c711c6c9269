"""approve, reject: what a human says of work that is in review."""

import shlex
from typing import Annotated

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Id, Ids


def approve(cli: Cli, ids: Ids) -> None:
    """Say that the work of tasks in review is good: they are done, and what waits for them may start."""
    from dispatchctl import review

    approved = review.approve(cli.runtime, list(dict.fromkeys(ids)))
    shapes = [cli.shape(task) for task in approved.tasks]
    name, answer = ("task", shapes[0]) if len(shapes) == 1 else ("tasks", shapes)
    cli.output.answer(name, answer, [f"task {task.id} is {task.status}" for task in approved.tasks])
    for task, (run, files) in approved.uncommitted.items():
        what = "1 file is" if files == 1 else f"{files} files are"
        cli.output.story(
            f"task {task}: {what} in its worktree, but not on its branch {run.branch}",
            hint=f"git -C {shlex.quote(run.worktree)} status",
        )


def reject(
    cli: Cli,
    id: Id,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="What is to be better; it has to be said.")
    ] = "",
) -> None:
    """Send a task in review back: its next run goes on in the same worktree, and gets the message."""
    from dispatchctl import review

    task = review.reject(cli.runtime, id, message)
    if task.agent == "shell":
        cli.output.story(f"the message is kept, but task {id} does not get it: its prompt is a program")
    cli.show_task(task, f"task {id} is {task.status}")
