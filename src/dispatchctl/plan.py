"""From what was seen to what is to be done: the table of section 6 of the design as a pure function.

Planning twice from the world that the actions leave gives nothing the second time. Unknown life is reported and nothing is
done about it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from dispatchctl.snapshot import Answer, Holder, SeenRun, Snapshot, Stray
from dispatchctl.task import Activity, Cause, Phase, Run, Status
from dispatchctl.verdict import Ending

SLACK_S = 5.0
"""Seconds that a launcher may take beyond the grace that it gives, before somebody else does what it should do."""
CLOSING_S = 20.0
"""Seconds that closing a run may take after its agent is gone, before its launcher counts as stuck."""


class Kind(StrEnum):
    """What reconcile can do about a run, or about what is left of one."""

    CLOSE = "close"
    UNDO = "undo"
    REENTER = "enter again"
    ADOPT = "adopt"
    HANG_UP = "hang up"
    LOSE = "lose"
    TIME_OUT = "time out"
    END = "end"
    KILL = "kill"
    STALL = "stall"
    STIR = "stir"
    CLOSE_PANE = "close pane"
    CLEAR = "clear"
    REPORT = "report"


@dataclass(frozen=True)
class Action:
    """One thing to do about one run, and why; `REPORT` is only said. `holds`: until then nobody may start the task."""

    kind: Kind
    task: int | None
    run: str
    reason: str
    holds: bool = False


def plan(world: Snapshot) -> tuple[Action, ...]:
    """What would make every status true: first strays, which may belong to a task that is about to be started, then runs."""
    strays = [action for stray in world.strays for action in _for_stray(world, stray)]
    return (*strays, *(action for seen in world.runs for action in _for_run(world, seen)))


def _for_run(world: Snapshot, seen: SeenRun) -> Iterator[Action]:
    run = seen.run
    if run.host != world.host:
        yield _action(Kind.REPORT, run, f"it runs on another machine ({run.host}), where only that one can look")
    elif run.phase is Phase.STARTED:
        yield from _for_started(world, seen)
    elif seen.owner is Holder.HELD:
        return  # it is being started, or undone
    elif seen.began:
        yield _action(Kind.REENTER, run, "its agent began, and the database is of a moment before that")
    elif seen.owner is Holder.FREE or run.boot_id != world.boot_id or run.phase is Phase.UNDOING:
        # Whoever undoes a run drops its locks after the last write: an older copy of the database may have been put back.
        what = "its dispatcher died while it was being started" if run.phase is Phase.LAUNCHING else "its undo stopped"
        if world.server_of(run).answer is Answer.UNKNOWN:  # an undo that fails would cost the task its next try
            what = f"{what}, but tmux on {run.socket} does not answer: {_said(world, run)}"
            yield _action(Kind.REPORT, run, what)
        else:
            yield _action(Kind.UNDO, run, what)
    else:
        yield _action(
            Kind.REPORT, run, f"its lock file {run.owner_lock} is gone, so whether it is being started is unknown"
        )


def _for_started(world: Snapshot, seen: SeenRun) -> Iterator[Action]:
    run = seen.run
    if run.boot_id != world.boot_id:
        reason = "its agent had ended" if seen.ending else "the machine was restarted under it"
        yield _action(Kind.CLOSE if seen.ending else Kind.LOSE, run, reason)
    elif seen.launcher and seen.ending is not None:
        if world.at - seen.ending.ended_at > (world.limits.kill_grace + CLOSING_S) * 1000:
            yield _action(Kind.CLOSE, run, "its agent had ended, and its launcher does not close it")
    elif seen.launcher:
        yield from _for_living(world, seen)
    elif seen.launcher is None:
        yield _action(Kind.REPORT, run, "whether its launcher lives cannot be told on this system")
    elif seen.ending is None:
        yield _for_launcher_gone(world, run)
    elif _is_open_how(world, run, seen.ending):
        yield _action(Kind.REPORT, run, f"it hung up, and tmux on {run.socket} does not say why: {_said(world, run)}")
    else:
        yield _action(Kind.CLOSE, run, "its agent had ended and its launcher did not come to say so")


def _is_open_how(world: Snapshot, run: Run, ending: Ending) -> bool:
    """Whether only its server could tell a window that was closed from a server that died, and does not answer."""
    hung_up = ending.cause is Cause.HANGUP and ending.server_lives is None
    return hung_up and world.server_of(run).answer is Answer.UNKNOWN


def _said(world: Snapshot, run: Run) -> str:
    return world.server_of(run).said


def _for_living(world: Snapshot, seen: SeenRun) -> Iterator[Action]:
    run = seen.run
    pane = world.server_of(run).pane_of(run.token)
    if run.window_id is None and pane is not None and seen.owner is not Holder.HELD:
        yield _action(Kind.ADOPT, run, f"it runs in pane {pane.pane_id}, and nobody had written that down")
    elif seen.owner is Holder.FREE:
        yield _action(Kind.ADOPT, run, "its dispatcher died when it had just been started")
    if run.ask is not None or run.report is not None:
        yield from _for_asked(world, seen)
    else:
        yield from _for_overdue(world, seen)


def _for_asked(world: Snapshot, seen: SeenRun) -> Iterator[Action]:
    """It was asked to end, or has reported; its launcher is given the time that this takes, then told again, then ended."""
    run, limits = seen.run, world.limits
    patience = SLACK_S if run.ask is not None else limits.report_grace + SLACK_S
    since = "it was asked to end" if run.ask is not None else "it has reported"
    what = f"{since} ({run.ask or run.report}) and has not yet"
    if seen.asked_s is None or seen.asked_s <= patience:
        if seen.asked_s is None:
            yield _action(Kind.END, run, what)
    elif seen.asked_s > patience + 2 * limits.kill_grace + CLOSING_S:
        yield _action(Kind.KILL, run, f"{since} ({run.ask or run.report}), and its launcher does not do it")
    else:
        yield _action(Kind.END, run, what)


def _for_overdue(world: Snapshot, seen: SeenRun) -> Iterator[Action]:
    """A run that nobody asked to end: over its time limit, or quiet for too long."""
    run, limits = seen.run, world.limits
    late = limits.kill_grace + 2 * SLACK_S
    if seen.timeout_s and seen.age_s is not None and seen.age_s > seen.timeout_s + late:
        yield _action(Kind.TIME_OUT, run, f"ran longer than its time limit of {seen.timeout_s} s")
        return
    if seen.quiet_s is None or not limits.stall_after:
        return
    waits = seen.status is Status.BLOCKED or run.activity is Activity.WAITING
    if seen.quiet_s > limits.stall_after and not waits:
        reason = f"no output and no heartbeat for {limits.stall_after} s"
        if limits.stall_ends:
            yield _action(Kind.TIME_OUT, run, reason)
        elif run.activity is not Activity.STALLED:
            yield _action(Kind.STALL, run, reason)
    elif seen.quiet_s <= limits.stall_after and run.activity is Activity.STALLED:
        yield _action(Kind.STIR, run, "it was stalled and goes on")


def _for_launcher_gone(world: Snapshot, run: Run) -> Action:
    """The launcher is dead without having said how the agent ended. Its window tells whether a human closed it."""
    server = world.server_of(run)
    if server.answer is Answer.UNKNOWN:
        return _action(
            Kind.REPORT, run, f"its launcher is gone, but tmux on {run.socket} does not say more: {server.said}"
        )
    if server.pane_of(run.token) is not None or run.server_pid is None:
        return _action(Kind.LOSE, run, "its launcher was killed")
    if server.is_of(run):
        return _action(Kind.HANG_UP, run, "its window was closed")
    return _action(Kind.LOSE, run, "the tmux server died under it")


def _for_stray(world: Snapshot, stray: Stray) -> Iterator[Action]:
    """What is there without an open run. A task's live agent is never taken for nothing, whatever the rows say."""
    if stray.owner is Holder.HELD:
        return  # somebody is claiming it, or has just closed it
    if stray.run is not None:
        yield from _for_closed(world, stray, stray.run)
    elif stray.began and stray.enterable:
        yield _stray(Kind.REENTER, stray, "its agent began, and the database does not know of it")
    elif stray.began or (stray.lives and stray.owner is Holder.MISSING):
        if stray.lives and not stray.ended:
            yield _stray(Kind.REPORT, stray, "an agent lives of which the database knows no run", holds=True)
    else:
        yield _stray(Kind.CLEAR, stray, "its claim was never committed, or the database has lost it")


def _for_closed(world: Snapshot, stray: Stray, run: Run) -> Iterator[Action]:
    dead = stray.pane is not None and stray.pane.dead
    if stray.alive and not stray.ended and run.started_at is not None:
        if stray.enterable and stray.began:
            yield _stray(Kind.REENTER, stray, "its agent lives, and the database says that it has ended")
        else:
            yield _stray(Kind.REPORT, stray, "its run is closed, and a process of it lives", holds=True)
    elif stray.owner is Holder.FREE:
        yield _stray(Kind.CLEAR, stray, "its lock files were left behind")
    elif dead and not stray.alive and world.at - (run.closed_at or 0) > world.limits.keep_windows * 1000:
        yield _stray(Kind.CLOSE_PANE, stray, f"it ended more than {world.limits.keep_windows} s ago")


def _action(kind: Kind, run: Run, reason: str) -> Action:
    return Action(kind, run.task, run.token, reason)


def _stray(kind: Kind, stray: Stray, reason: str, *, holds: bool = False) -> Action:
    return Action(kind, stray.task, stray.token, reason, holds)
