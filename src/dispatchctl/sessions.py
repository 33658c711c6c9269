"""What is said to a running agent, and what it says of itself: reports, questions, heartbeats, and asking it to end.

A word is first written to the database, which fences it (a run that is no longer the task's is refused), and then told to
the launcher through the run's control pipe. If nobody can be told, the row still says what was asked.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from dispatchctl import clearing, processes, rundir
from dispatchctl.errors import DispatchctlError, Refused, TimedOut, UsageError
from dispatchctl.intake import LONGEST_MESSAGE, checked_text
from dispatchctl.runtime import Runtime, jitter, now
from dispatchctl.task import Activity, Actor, Ask, Cause, Phase, Report, Run, Status, Task
from dispatchctl.verdict import Cure, Ending, Policy

MARGIN_S = 10.0
"""What closing a run may take beyond the grace its processes have."""


def mine(runtime: Runtime) -> Run:
    """The run in whose session this command was called. Raises `UsageError` outside any, `Refused` for a run that is over."""
    token = runtime.environment.token
    if token is None:
        raise UsageError("no task was named, and this is not a session of one", "dispatchctl list")
    run = runtime.store.run(token)
    if run.phase is not Phase.STARTED:
        raise Refused(
            f"run {token} is over: task {run.task} is no longer this session's", f"dispatchctl show {run.task}"
        )
    return run


def speaker(runtime: Runtime, task: int | None) -> tuple[Run | None, int, Actor]:
    """Who speaks of what: the session's own run, or a human of the named task and its open run."""
    if task is None or (runtime.environment.token is not None and runtime.environment.task == task):
        run = mine(runtime)
        return run, run.task, Actor.AGENT
    return open_run(runtime, task), task, Actor.USER


def open_run(runtime: Runtime, task: int) -> Run | None:
    """The task's run that is not closed. Raises `NoSuchTask`."""
    run = runtime.store.task(task).run
    return run if run is not None and run.phase is not Phase.CLOSED else None


def report(runtime: Runtime, task: int | None, said: Report, message: str | None) -> Task:
    """`done` or `fail`. The agent then has `report_grace` to end by itself; for a human the run is ended at once."""
    checked_message(message)
    run, number, actor = speaker(runtime, task)
    if run is None:
        return runtime.store.resolve(number, said, message, at=now())
    _refuse_undoing(run)
    run = runtime.store.report(run.token, said, message, actor=actor, at=now(), awake=processes.awake())
    if actor is Actor.AGENT:
        rundir.tell(run.run_dir, f"report {runtime.settings.dispatch.report_grace}")
        return runtime.store.task(number)
    _tell(runtime, run, "end report")
    return await_end(runtime, run)


def block(runtime: Runtime, task: int | None, message: str | None) -> Task:
    """The agent asks for a human; its session goes on."""
    checked_message(message)
    run, number, actor = speaker(runtime, task)
    if run is None:
        raise Refused(f"task {number} has no open run that could be blocked", f"dispatchctl show {number}")
    return runtime.store.block(run.token, message, actor=actor, at=now())


def heartbeat(runtime: Runtime, task: int | None) -> Task:
    """The agent says that it is at work."""
    run, number, _ = speaker(runtime, task)
    if run is None:
        raise Refused(f"task {number} has no open run", f"dispatchctl show {number}")
    runtime.store.heartbeat(run.token, Activity.WORKING, at=now())
    return runtime.store.task(number)


@dataclass(frozen=True)
class Cancelled:
    """A cancelled task, and why worktrees of it stay."""

    task: Task
    kept: tuple[DispatchctlError, ...] = ()


def cancel(runtime: Runtime, task: int, *, force: bool = False, tell: Callable[[str], None]) -> Cancelled:
    """Cancel the task; an open run is asked to end, and the answer comes when every process of it is gone.

    Then its worktree and branch go if nothing would be lost, or with `force`, which keeps it by a ref: `tell` hears of that.
    Said again of a task that is cancelled and whose worktree stayed, it goes on.
    """
    run = open_run(runtime, task)
    if run is not None:
        _refuse_undoing(run)
        run = runtime.store.ask(run.token, Ask.CANCEL, actor=Actor.USER, at=now(), awake=processes.awake())
        _tell(runtime, run, "end cancel")
        await_end(runtime, run)
    elif runtime.store.task(task).status is not Status.CANCELLED or not _stands(runtime, task):
        runtime.store.cancel(task, at=now())
    kept: list[DispatchctlError] = []
    for place in clearing.places(runtime.store.runs(task)):
        try:
            clearing.clear_place(runtime, place, force=force, tell=tell)
        except clearing.Kept as error:
            kept.append(Refused(f"task {task}: {error.obstacle.reason}", error.hint or _force_cancel(task)))
        except (DispatchctlError, OSError) as error:
            kept.append(DispatchctlError(f"task {task}: its worktree stays: {error}", _force_cancel(task)))
    return Cancelled(runtime.store.task(task), tuple(kept))


def _force_cancel(task: int) -> str:
    return f"dispatchctl cancel {task} --force"


def _stands(runtime: Runtime, task: int) -> bool:
    """Whether a worktree or branch of the task is still there."""
    return any(clearing.is_there(runtime, place) for place in clearing.places(runtime.store.runs(task)))


def _tell(runtime: Runtime, run: Run, line: str) -> None:
    """Tell the run's launcher; where none listens, find out what became of it."""
    if not rundir.tell(run.run_dir, line):
        from dispatchctl.reconcile import reconcile  # not for `heartbeat`, which an agent calls at every turn

        reconcile(runtime)


def _refuse_undoing(run: Run) -> None:
    if run.phase is Phase.UNDOING:
        raise Refused(
            f"task {run.task} is failed and its undo is not finished: {run.error}", f"dispatchctl show {run.task}"
        )


def checked_message(message: str | None) -> None:
    """Raise `UsageError` for a message that could not be kept."""
    if message is not None:
        checked_text(message, "message", LONGEST_MESSAGE)


def await_end(runtime: Runtime, run: Run) -> Task:
    """Wait until the run is closed, as long as its processes may take to end. Raises `TimedOut` if it is not."""
    deadline = time.monotonic() + runtime.settings.dispatch.kill_grace * 2 + MARGIN_S
    while runtime.store.run(run.token).phase is not Phase.CLOSED:
        if time.monotonic() > deadline:
            raise TimedOut(
                f"run {run.token} of task {run.task} was asked to end and has not: nobody there answers",
                f"dispatchctl show {run.task}",
            )
        time.sleep(0.02)
    return runtime.store.task(run.task)


def send(runtime: Runtime, task: int, text: str, *, enter: bool) -> None:
    """Type the text into the agent's pane, as one paste. Raises `Refused` if no session of the task is there."""
    if not checked_text(text, "text", LONGEST_MESSAGE):
        raise UsageError(f"there is nothing to send to task {task}: the text is empty", f"dispatchctl attach {task}")
    run = _started(runtime, task)
    assert run.pane_id is not None
    if not runtime.windows(run.socket).paste(run.pane_id, run.token, text, enter=enter):
        raise Refused(f"the window of task {task} is gone; nothing was sent", f"dispatchctl show {task}")


def attach_command(runtime: Runtime, task: int) -> list[str]:
    """The command that shows the task's window: of its last run, while its pane is still there."""
    run = runtime.store.task(task).run
    if run is None:
        raise Refused(f"task {task} has not run yet, so there is no window", f"dispatchctl dispatch {task}")
    windows = runtime.windows(run.socket)
    pane = windows.pane_of(run.token)
    if pane is None:
        raise Refused(f"the window of task {task} is gone", f"dispatchctl logs {task}")
    inside = (runtime.environment.tmux or "").partition(",")[0] == run.socket
    return windows.attach_command(pane.pane_id, inside=inside)


def _started(runtime: Runtime, task: int) -> Run:
    run = open_run(runtime, task)
    if run is None or run.phase is not Phase.STARTED:
        status = runtime.store.task(task).status
        raise Refused(f"task {task} is {status} and has no session", f"dispatchctl show {task}")
    return run


def unblock(runtime: Runtime, task: int, message: str | None) -> Task:
    """A human has answered: the session goes on, which gets the message, or the task is ready again.

    Raises `Refused`, and changes nothing, if the session has no window that could get the message.
    """
    checked_message(message)
    run = open_run(runtime, task)
    if run is not None and message is not None and runtime.windows(run.socket).pane_of(run.token) is None:
        raise Refused(f"the window of task {task} is gone; nobody would get the answer", f"dispatchctl show {task}")
    after = runtime.store.unblock(task, note=message if run is None else None, at=now())
    if run is not None and message is not None:
        send(runtime, task, message, enter=True)
    return after


def retry(
    runtime: Runtime, task: int, *, message: str | None, fresh: bool, tell: Callable[[str], None] = lambda _: None
) -> Task:
    """→ ready; the next run goes on in the kept worktree unless it is to start afresh.

    Then the old worktree and branch go first, and a ref keeps what would be lost: `tell` hears how to get it back. Raises
    `Refused`, and changes nothing, if no ref could keep it or a process works there.
    """
    checked_message(message)
    if fresh:
        _start_over(runtime, task, tell)
    recoveries = runtime.settings.task.recoveries
    return runtime.store.retry(task, note=message, fresh=fresh, recoveries=recoveries, at=now())


def _start_over(runtime: Runtime, task: int, tell: Callable[[str], None]) -> None:
    """Remove the place of the task's last run, while the task cannot be claimed yet: killed, it is done again and goes on."""
    last = runtime.store.retriable(task).run
    for place in clearing.places(runtime.store.runs(task)):
        if last is not None and (place.worktree, place.branch) == (last.worktree, last.branch):
            try:
                clearing.clear_place(runtime, place, force=True, tell=tell)
            except clearing.Kept as kept:
                raise Refused(f"task {task} was not retried: {kept.obstacle.reason}", kept.hint) from kept


def take_over(runtime: Runtime, task: int) -> Task:
    """Close the open run of another machine as lost, whatever becomes of it there, and make the task ready.

    Its launcher there cannot start an agent any more, and what an agent that lives there says is refused. If it had said
    that its work is done, a human looks at that first: the task is in review.
    """
    run = open_run(runtime, task)
    if run is None:
        raise Refused(f"task {task} has no open run that could be taken over", f"dispatchctl retry {task}")
    if run.host == runtime.host:
        raise Refused(f"run {run.token} of task {task} is this machine's own", f"dispatchctl cancel {task}")
    why, policy = f"taken over from host {run.host}", Policy(retry_wait_s=runtime.settings.dispatch.retry_wait)
    store = runtime.store
    if run.phase is not Phase.STARTED and store.begin_undo(run.token, why, actor=Actor.USER, at=now()):
        after = store.close_undone(
            run.token, why, cure=Cure.AGAIN, policy=policy, actor=Actor.USER, at=now(), jitter=jitter()
        )
    else:
        ending = Ending(Cause.TERMINATED, now(), error=why)
        after = store.close_ended(run.token, ending, None, None, policy, actor=Actor.USER, at=now(), jitter=jitter())
    if after.status is Status.READY:
        return store.edit(task, {"not_before": None}, None, at=now())
    if after.status in (Status.DONE, Status.IN_REVIEW):
        return after
    return retry(runtime, task, message=None, fresh=False)
