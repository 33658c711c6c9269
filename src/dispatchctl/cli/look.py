"""list, show, history, runs, ready, logs, wait: what is there, and why."""

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Id, Ids, OptionalId, Whole, seconds, since_when, split
from dispatchctl.errors import DispatchctlError, ExitCode, UsageError
from dispatchctl.render.output import write
from dispatchctl.runtime import now
from dispatchctl.task import Event, Status, Task

OK_STATUSES = frozenset({Status.DONE, Status.IN_REVIEW})
Limit = Annotated[
    int, typer.Option("--limit", metavar="N", click_type=Whole(0), help="At most so many, the last ones; 0 is all.")
]
ON_A_SCREEN = 100
"""Tasks that a listing shows on a terminal if nobody says how many."""


def _statuses(words: list[str] | None) -> list[Status]:
    found = []
    for word in split(words):
        if word not in list(Status):
            raise UsageError(f"there is no status {word!r}: there are {', '.join(Status)}", "dispatchctl list")
        found.append(Status(word))
    return found


def list_tasks(
    cli: Cli,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="NAME", help="Repeat it, or use commas.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME", help="With all of these.")] = None,
    repo: Annotated[str | None, typer.Option("--repo", metavar="PATH", help="Of this repository.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            click_type=Whole(0),
            help=f"At most so many; 0 is all. On a terminal: {ON_A_SCREEN}.",
        ),
    ] = None,
    unmerged: Annotated[
        bool, typer.Option("--unmerged", help="Done or in review, with commits that are not in their base; asks git.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw it again whenever something changes.")] = False,
) -> None:
    """List tasks: what needs you first, then what runs, what waits, and what is finished, newest first.

    dispatchctl list --status failed,blocked --json | jq '.tasks[].id'
    """
    statuses, labels = _statuses(status), split(label)
    if repo is not None:
        from dispatchctl import intake

        repo = intake.repository(cli.runtime, repo)
    screen = sys.stdout.isatty()
    most = limit if limit is not None else ON_A_SCREEN if screen and not cli.as_json else 0

    def found() -> list[Task]:
        """The tasks, and one more than asked for if there are more."""
        if unmerged:
            from dispatchctl.unmerged import MERGEABLE, all_unmerged  # git's half, which other lists do without

            chosen = [each for each in MERGEABLE if each in (statuses or MERGEABLE)]
            asked = cli.runtime.store.tasks(status=chosen, labels=labels, repo=repo) if chosen else []
            return all_unmerged(cli.runtime, asked)[: most + 1 if most else None]
        return cli.runtime.store.tasks(status=statuses, labels=labels, repo=repo, limit=most + 1 if most else 0)

    if watch:
        _keep_drawing(cli, lambda: found()[: most or None])
    tasks = found()
    cli.list_tasks(tasks[: most or None])
    if most and len(tasks) > most and limit is None:
        cli.output.story(f"only {most} are shown; all of them: dispatchctl list --limit 0")
    if not tasks and screen:
        cli.output.story("there are no such tasks" if statuses or labels or repo or unmerged else "there are no tasks")
    cli.say_paused(repo)


def _keep_drawing(cli: Cli, found: Callable[[], list[Task]]) -> NoReturn:
    import time

    store = cli.runtime.store
    clear = sys.stdout.isatty() and cli.environment.term != "dumb" and not cli.as_json
    seen = None
    drawn_at = 0.0
    while True:
        version = store.version()
        if version != seen or time.monotonic() - drawn_at > 5.0:
            seen, drawn_at = version, time.monotonic()
            if clear:
                write("\x1b[H\x1b[2J")
            tasks = found()
            cli.list_tasks(tasks)
            write("")
            if clear and not tasks:
                cli.output.story("there are no such tasks")
            if clear:
                cli.say_paused()
        time.sleep(0.2)


def show(cli: Cli, id: Id) -> None:
    """Show a task, looking whether its agent lives."""
    from dispatchctl import lookout
    from dispatchctl.render import views

    store = cli.runtime.store
    task = lookout.look(cli.runtime, store.task(id))
    if cli.as_json:
        cli.output.json({"task": cli.shape(task)})
        return
    from dispatchctl import unmerged  # git's half of the program, which other commands do without

    held = lookout.held(cli.runtime, [task]).get(id)
    try:
        how = unmerged.how_to_merge(id) if unmerged.is_unmerged(cli.runtime, task) else None
    except DispatchctlError as error:
        how = f"whether it is merged cannot be told: {error.message}"
    for line in views.task_page(task, store.runs(id), held, now(), unmerged=how):
        cli.output.line(line)


def history(
    cli: Cli,
    id: OptionalId = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Not older: 2h, 2026-12-24.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens next.")] = False,
    limit: Limit = 200,
) -> None:
    """What happened, to one task or to all: when, by whom, from which status to which, and why."""
    from dispatchctl.render import shapes, views

    store = cli.runtime.store
    if id is not None and not store.events(task=id, limit=1):
        store.task(id)
    events = store.events(task=id, since=_since(since), limit=limit)
    if cli.as_json and not follow:
        cli.output.json({"events": [shapes.event(event) for event in events]})
        return
    if not follow:
        cli.output.table(views.EVENT_HEADS, (views.event_row(event) for event in events))
        return
    last = 0
    while True:
        for event in events:
            last = max(last, event.id)
            if cli.as_json:
                cli.output.json({"events": [shapes.event(event)]})
            else:
                cli.output.row(views.event_row(event))
        events = _next_events(cli, id, last)


def _since(text: str | None) -> int:
    """A time, or how long ago."""
    return 0 if text is None else since_when(text, now())


def _next_events(cli: Cli, id: int | None, last: int) -> list[Event]:
    import time

    store = cli.runtime.store
    seen = store.version()
    while True:
        events = store.events(task=id, after=last)
        if events:
            return events
        while store.version() == seen:
            time.sleep(0.05)
        seen = store.version()


def runs(cli: Cli, id: Id) -> None:
    """Every run of a task: how it ended and where its work is."""
    from dispatchctl.render import shapes, views

    found = cli.runtime.store.runs(id)
    if cli.as_json:
        cli.output.json({"runs": [shapes.run(run) for run in found]})
        return
    cli.output.table(views.RUN_HEADS, (views.run_row(run, now()) for run in found))


def ready(
    cli: Cli,
    id: OptionalId = None,
    explain: Annotated[bool, typer.Option("--explain", help="Why every other task does not run.")] = False,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME", help="With all of these.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            click_type=Whole(0),
            help=f"At most so many; 0 is all. Without --explain: {ON_A_SCREEN}.",
        ),
    ] = None,
) -> None:
    """What would be claimed next, in that order; with --explain, why each task that does not run waits.

    What is paused is left out, unless it is explained.
    """
    store = cli.runtime.store
    if id is not None or explain:
        waiting = [Status.READY, Status.BACKLOG, Status.BLOCKED, Status.IN_REVIEW, Status.FAILED]
        _explain(
            cli,
            [store.task(id)] if id is not None else store.tasks(status=waiting, labels=split(label), limit=limit or 0),
        )
        return
    most = ON_A_SCREEN if limit is None else limit
    tasks = store.claimable(at=now(), limit=most, labels=split(label))
    cli.list_tasks(tasks)
    if not tasks and not store.pauses():
        cli.output.story("nothing is ready", hint="dispatchctl ready --explain")
    cli.say_paused()


def _explain(cli: Cli, tasks: list[Task]) -> None:
    from dispatchctl import lookout, reasons
    from dispatchctl.render import shapes, views
    from dispatchctl.render.text import Cell

    why = reasons.explain(cli.runtime, tasks)
    if cli.as_json:
        held = lookout.held(cli.runtime, tasks)
        cli.output.json({"tasks": [{**shapes.task(task, held.get(task.id)), "why": why[task.id]} for task in tasks]})
        return
    if not tasks:
        cli.output.story("nothing waits", hint="dispatchctl list")
        return
    rows = ((Cell(str(task.id)), Cell(task.title), Cell(why[task.id])) for task in tasks)
    cli.output.table(views.WHY_HEADS, rows)


def logs(
    cli: Cli,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the agent ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="As the agent wrote it, with escape sequences.")] = False,
) -> None:
    """What the agent of the task's newest run wrote."""
    from dispatchctl import lookout
    from dispatchctl.render.plain import Plain

    plain = Plain()
    for piece in lookout.output(cli.runtime, id, follow=follow):
        write(piece if raw else plain.feed(piece))
    if not raw:
        write(plain.end())


def wait(
    cli: Cli,
    ids: Ids,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="At most so long: 90, 20m.")] = None,
    through_blocked: Annotated[bool, typer.Option("--through-blocked", help="Go on while a task is blocked.")] = False,
) -> int:
    """Wait until every task has ended.

    Exit code 0 when all ended done or in review, 1 when one did not or is blocked or held, 124 when time ran out.
    """
    from dispatchctl import lookout
    from dispatchctl.render import shapes

    limit = seconds(timeout)
    for id in ids:
        cli.runtime.store.task(id)
    told: list[int] = []

    def idle(task: Task) -> None:
        if not told:
            told.append(task.id)
            if task.status is Status.BACKLOG:
                cli.output.story(f"task {task.id} is a draft, which nobody starts: dispatchctl release {task.id}")
            elif reason := lookout.held(cli.runtime, [task]).get(task.id):
                then = "" if cli.is_watched() else "; then it has to be started: dispatchctl dispatch"
                cli.output.story(f"task {task.id} is held: {reason}{then}")
            else:
                cli.say_unattended(f"task {task.id}, which is ready,")

    ended = []
    for task in lookout.wait(cli.runtime, ids, timeout=limit, through_blocked=through_blocked, idle=idle):
        ended.append(task)
        why = lookout.held(cli.runtime, [task]).get(task.id)
        cli.output.story(_ending(task, why))
    held = lookout.held(cli.runtime, ended)
    if cli.as_json:
        cli.output.json({"tasks": [shapes.task(task, held.get(task.id)) for task in ended]})
    return ExitCode.OK if all(task.status in OK_STATUSES for task in ended) else ExitCode.FAILED


def _ending(task: Task, held: str | None) -> str:
    if held:
        return f"task {task.id} is held for ever: {held}"
    return f"task {task.id} is {task.status}{f': {task.error}' if task.error else ''}"
