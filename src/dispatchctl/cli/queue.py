"""add, edit, rm, release: what goes into the queue."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from dispatchctl import intake
from dispatchctl.agents import find_program
from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Id, Ids, Whole, moment, numbers, prompt_text, seconds, split
from dispatchctl.errors import UsageError
from dispatchctl.intake import Wish

Prompt = Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What the agent is to do.")]
PromptFile = Annotated[
    str | None, typer.Option("--prompt-file", "-P", metavar="FILE", help="A file that says it; - is stdin.")
]
Editor = Annotated[bool, typer.Option("--edit", "-e", help="Write it in $EDITOR.")]
Base = Annotated[str | None, typer.Option("--base", metavar="REF", help="Where the work is to be merged.")]
Agent = Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Who does it: dispatchctl agents.")]
Priority = Annotated[
    int | None, typer.Option("--priority", metavar="0..4", click_type=Whole(0, 4), help="0 comes first, 4 last.")
]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="NAME", help="Repeat it, or use commas.")]
After = Annotated[list[str] | None, typer.Option("--after", metavar="ID", help="Only when these tasks are done.")]
Retries = Annotated[
    int | None,
    typer.Option("--retries", metavar="N", click_type=Whole(0, 100), help="So many more tries if the agent fails."),
]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Longest run: 90, 20m, 2h; 0 is none.")]
NotBefore = Annotated[
    str | None, typer.Option("--not-before", metavar="TIME", help="Not earlier: +2h, 2026-12-24T18:00.")
]
SPOKEN = {"labels": "label", "retries_left": "retries", "timeout_s": "timeout", "not_before": "not-before"}
"""Columns whose option has another name."""

Review = Annotated[
    bool | None, typer.Option("--review/--no-review", help="A human looks before it is done.", show_default=False)
]


def add(
    cli: Cli,
    title: Annotated[
        str, typer.Argument(metavar="TITLE", help="One line; - reads everything from stdin.", show_default=False)
    ],
    source: Annotated[
        str | None, typer.Argument(metavar="[-]", help="- reads the prompt from stdin.", show_default=False)
    ] = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    editor: Editor = False,
    repo: Annotated[str, typer.Option("--repo", metavar="PATH", help="Which repository.")] = ".",
    base: Base = None,
    agent: Agent = None,
    priority: Priority = None,
    after: After = None,
    label: Labels = None,
    retries: Retries = None,
    timeout: Timeout = None,
    review: Review = None,
    backlog: Annotated[bool, typer.Option("--backlog", help="Only a draft, until it is released.")] = False,
    not_before: NotBefore = None,
) -> None:
    """Put a task into the queue; prints its number.

    The title is the prompt if no other is given.

    dispatchctl add 'Fix the login page' -p 'The password field …' --priority 1
    """
    if source not in (None, "-"):
        raise UsageError(f"there is a word too many: {source!r}", "dispatchctl add 'THE WHOLE TITLE' -p 'THE PROMPT'")
    wish = Wish(
        title=title,
        repo=repo,
        base=base,
        agent=agent,
        priority=priority,
        labels=split(label),
        after=numbers(after, "--after"),
        retries=retries,
        timeout_s=seconds(timeout),
        review=review,
        backlog=backlog,
        not_before=moment(not_before),
    )
    if editor:
        intake.checked(cli.runtime, wish)  # before somebody writes a prompt that would be lost
    stdin = source == "-" or title == "-"
    text = prompt_text(cli.environment, text=prompt, file=prompt_file, stdin=stdin, editor=editor, draft=f"{title}\n")
    if title == "-":
        title = next((line.strip("# \t") for line in (text or "").splitlines() if line.strip("# \t")), "")
    [task] = intake.add(cli.runtime, [replace(wish, title=title, prompt=text)])
    cli.show_task(task, str(task.id))
    if not backlog:
        cli.say_unattended(f"task {task.id}")
    if find_program(cli.runtime.profile(task.agent), cli.environment.path) is None:
        cli.output.story(f"the program of agent {task.agent} is not on PATH: dispatchctl agents")


def edit(
    cli: Cli,
    id: Id,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="One line.")] = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    editor: Editor = False,
    base: Base = None,
    agent: Agent = None,
    priority: Priority = None,
    after: After = None,
    label: Labels = None,
    retries: Retries = None,
    timeout: Timeout = None,
    review: Review = None,
    not_before: NotBefore = None,
) -> None:
    """Change a task that has no open run.

    --after and --label replace what was there; --after '' removes it.
    """
    draft = cli.runtime.store.task(id).prompt if editor else ""
    text = prompt_text(cli.environment, text=prompt, file=prompt_file, stdin=False, editor=editor, draft=draft)
    given: dict[str, Any] = {
        "title": title,
        "prompt": text,
        "base": base,
        "agent": agent,
        "priority": priority,
        "labels": None if label is None else split(label),
        "retries_left": retries,
        "timeout_s": seconds(timeout),
        "review": None if review is None else int(review),
        "not_before": moment(not_before),
    }
    changes = {column: value for column, value in given.items() if value is not None}
    parents = None if after is None else numbers(after, "--after")
    task = intake.edit(cli.runtime, id, changes, parents)
    words = [SPOKEN.get(column, column) for column in (*changes, *(() if parents is None else ("after",)))]
    cli.show_task(task, f"task {task.id} changed: {', '.join(words)}")


def rm(
    cli: Cli,
    ids: Ids,
    force: Annotated[
        bool, typer.Option("--force", help="Even if work is in its worktree: a rescue ref keeps it.")
    ] = False,
) -> None:
    """Delete tasks that have no open run, with their worktrees, branches and run directories.

    Refused if work would be lost, unless --force is given: then a ref keeps it, and the way to get it back is shown.
    """
    from dispatchctl import clearing

    ids = list(dict.fromkeys(ids))
    clearing.remove(cli.runtime, ids, force=force, tell=cli.output.notice)
    cli.output.answer("removed", ids, [f"task {task} removed" for task in ids])


def release(cli: Cli, ids: Ids) -> None:
    """Make drafts of the backlog ready."""
    from dispatchctl.runtime import now

    tasks = cli.runtime.store.release(list(dict.fromkeys(ids)), at=now())
    shapes = [cli.shape(task) for task in tasks]
    name, answer = ("task", shapes[0]) if len(shapes) == 1 else ("tasks", shapes)
    cli.output.answer(name, answer, [f"task {task.id} is ready" for task in tasks])
