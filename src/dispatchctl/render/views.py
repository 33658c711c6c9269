"""What people read of tasks, runs and events."""

from collections.abc import Iterator, Mapping, Sequence

from dispatchctl.durations import format_duration, format_time
from dispatchctl.render.shapes import because
from dispatchctl.render.text import STATUS_STYLE, Cell, Heads, ago
from dispatchctl.task import Event, Run, Task

TASK_HEADS = Heads(
    ("ID", "P", "STATUS", "ACTIVITY", "AGENT", "AGE", "BRANCH", "TITLE"), ("BRANCH", "P", "AGENT", "ACTIVITY", "AGE")
)
RUN_HEADS = Heads(
    ("RUN", "TOKEN", "PHASE", "OUTCOME", "EXIT", "STARTED", "TOOK", "BRANCH"), ("TOKEN", "PHASE", "STARTED", "TOOK")
)
WHY_HEADS = Heads(("ID", "TITLE", "WHY"), wraps=True)
EVENT_HEADS = Heads(
    ("ID", "TIME", "TASK", "RUN", "BY", "KIND", "CHANGE", "DETAIL"), ("RUN", "ID", "BY", "KIND", "TASK")
)


def task_row(task: Task, held: str | None, now: int) -> tuple[Cell, ...]:
    """A task as a row of a listing."""
    status = f"{task.status} (held)" if held else str(task.status)
    since = task.run.started_at if task.run and task.run.started_at and task.run.closed_at is None else task.updated_at
    return (
        Cell(str(task.id)),
        Cell(f"P{task.priority}"),
        Cell(status, STATUS_STYLE[task.status]),
        Cell(str(task.run.activity or "") if task.run else ""),
        Cell(task.agent),
        Cell(ago(since, now)),
        Cell(task.run.branch if task.run else ""),
        Cell(task.title),
    )


def ending(run: Run) -> str:
    """Exit code or signal of a run."""
    if run.signal is not None:
        return f"signal {run.signal}"
    return "" if run.exit_code is None else str(run.exit_code)


def run_row(run: Run, now: int) -> tuple[Cell, ...]:
    """A run as a row."""
    took = ago(run.started_at, run.ended_at or now)
    return tuple(
        map(
            Cell,
            (
                str(run.number),
                run.token,
                str(run.phase),
                str(run.outcome or ""),
                ending(run),
                format_time(run.started_at) if run.started_at else "",
                took,
                run.branch,
            ),
        )
    )


def event_row(event: Event) -> tuple[Cell, ...]:
    """An event as a row."""
    change = ""
    if event.to_status:
        change = f"{event.from_status} → {event.to_status}" if event.from_status else f"→ {event.to_status}"
    return (
        Cell(str(event.id)),
        Cell(format_time(event.at)),
        Cell(str(event.task)),
        Cell(event.run or ""),
        Cell(event.actor),
        Cell(event.kind),
        Cell(change, STATUS_STYLE[event.to_status] if event.to_status else ""),
        Cell(because(event) or _fact(event)),
    )


def _fact(event: Event) -> str:
    """The one thing of the detail that a person wants to see where nobody said why."""
    task: Mapping[str, object] = event.detail.get("task", {})
    run: Mapping[str, object] = event.detail.get("run", {})
    for key in ("merged", "pull_request", "outcome", "report", "ask", "pane_id", "agent_pid", "branch", "title"):
        found = run.get(key) or task.get(key)
        if found:
            return f"{key} {found}"
    return ""


def task_page(
    task: Task, runs: Sequence[Run], held: str | None, now: int, *, unmerged: str | None = None
) -> Iterator[str]:
    """Everything a person asks `show` for; `unmerged` says that its base does not have its work."""
    yield f"task {task.id}: {task.title}"
    yield f"  status      {task.status}{f' (held: {held})' if held else ''}"
    if unmerged:
        yield f"              {unmerged}"
    if task.error:
        yield f"  because     {task.error}"
    if task.result:
        yield f"  result      {task.result}"
    yield f"  agent       {task.agent}, priority {task.priority}{', a human reviews it' if task.review else ''}"
    yield f"  repository  {task.repo}, base {task.base}"
    if task.after:
        yield f"  after       {', '.join(map(str, task.after))}"
    if task.labels:
        yield f"  labels      {', '.join(task.labels)}"
    limit = format_duration(task.timeout_s) if task.timeout_s else "none"
    yield f"  limits      time {limit}, {task.retries_left} retries and {task.recoveries_left} recoveries left"
    if task.not_before and task.not_before > now:
        yield f"  not before  {format_time(task.not_before)}"
    yield f"  created     {format_time(task.created_at)} ({ago(task.created_at, now)} ago)"
    if task.run:
        yield from _run_lines(task.run, len(runs), now)
    yield "  prompt"
    yield from (f"    {line}" for line in task.prompt.splitlines()[:20])
    more = len(task.prompt.splitlines()) - 20
    if more > 0:
        yield f"    … {more} more line{'s' if more > 1 else ''}: dispatchctl show {task.id} --json"


def _run_lines(run: Run, count: int, now: int) -> Iterator[str]:
    how = str(run.outcome) if run.outcome else f"{run.phase}, {run.life or 'not looked at'}"
    code = ending(run)
    tries = f"run {run.number} of {count}" if count > 1 else "run"
    yield f"  {tries:<10}  {run.token}: {how}{f', exit {code}' if code else ''}"
    if run.report:
        said = f": {run.report_message}" if run.report_message else ""
        yield f"  reported    {run.report}{said}"
    if run.started_at:
        took = f"took {ago(run.started_at, run.ended_at)}" if run.ended_at else f"{ago(run.started_at, now)} ago"
        yield f"  started     {format_time(run.started_at)}, {took}"
    yield f"  branch      {run.branch}"
    yield f"  worktree    {run.worktree}"
    if run.merged:
        yield f"  merged      as {run.merged}"
    if run.pull_request:
        yield f"  offered     {run.pull_request}"
    if run.cleared_at is not None:
        yield f"  cleared     {format_time(run.cleared_at)}: its worktree, branch, window and output are gone"
    if run.window_id and run.closed_at is None:
        yield f"  window      {run.session}, {run.window_id} on {run.socket}"
