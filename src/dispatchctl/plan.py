"""From what was seen to what is to be done: the table of section 6 of the design as a pure function.

Planning twice from the world that the actions leave gives nothing the second time. Unknown life is reported and nothing is
done about it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from dispatchctl.snapshot import Answer, Holder, SeenRun, Snapshot
from dispatchctl.task import Phase, Run


class Kind(StrEnum):
    """What reconcile can do about a run."""

    CLOSE = "close"
    UNDO = "undo"
    ADOPT = "adopt"
    HANG_UP = "hang up"
    LOSE = "lose"
    END = "end"
    REPORT = "report"


@dataclass(frozen=True)
class Action:
    """One thing to do about one run, and why; `REPORT` is only said."""

    kind: Kind
    task: int
    run: str
    reason: str


def plan(world: Snapshot) -> tuple[Action, ...]:
    """What would make every status true, in the order of the rows."""
    return tuple(action for seen in world.runs for action in _for_run(world, seen))


def _for_run(world: Snapshot, seen: SeenRun) -> Iterator[Action]:
    run = seen.run
    if run.host != world.host:
        yield _action(Kind.REPORT, run, f"it runs on another machine ({run.host}), where only that one can look")
    elif run.phase is Phase.STARTED:
        yield from _for_started(world, seen)
    elif seen.owner is Holder.FREE or (seen.owner is Holder.MISSING and run.boot_id != world.boot_id):
        what = "its dispatcher died while it was being started" if run.phase is Phase.LAUNCHING else "its undo stopped"
        yield _action(Kind.UNDO, run, what)
    elif seen.owner is Holder.MISSING:
        yield _action(
            Kind.REPORT, run, f"its lock file {run.owner_lock} is gone, so whether it is being started is unknown"
        )


def _for_started(world: Snapshot, seen: SeenRun) -> Iterator[Action]:
    run = seen.run
    if run.boot_id != world.boot_id:
        reason = "its agent had ended" if seen.ending else "the machine was restarted under it"
        yield _action(Kind.CLOSE if seen.ending else Kind.LOSE, run, reason)
    elif seen.launcher:
        yield from _for_living(world, run)
    elif seen.launcher is None:
        yield _action(Kind.REPORT, run, "whether its launcher lives cannot be told on this system")
    elif seen.ending is not None:
        yield _action(Kind.CLOSE, run, "its agent had ended and its launcher did not come to say so")
    else:
        yield _for_launcher_gone(world, run)


def _for_living(world: Snapshot, run: Run) -> Iterator[Action]:
    pane = world.server_of(run).pane_of(run.token)
    if run.window_id is None and pane is not None:
        yield _action(Kind.ADOPT, run, f"it runs in pane {pane.pane_id}, and nobody had written that down")
    if run.ask is not None:
        yield _action(Kind.END, run, f"it was asked to end ({run.ask}) and has not yet")


def _for_launcher_gone(world: Snapshot, run: Run) -> Action:
    """The launcher is dead without having said how the agent ended. Its window tells whether a human closed it."""
    server = world.server_of(run)
    if server.answer is Answer.UNKNOWN:
        return _action(
            Kind.REPORT, run, f"its launcher is gone, but tmux on {run.socket} does not say more: {server.said}"
        )
    same = server.answer is Answer.RUNNING and (server.pid, server.start) == (run.server_pid, run.server_start)
    if not same:
        return _action(Kind.LOSE, run, "the tmux server died under it")
    if server.pane_of(run.token) is None:
        return _action(Kind.HANG_UP, run, "its window was closed")
    return _action(Kind.LOSE, run, "its launcher was killed")


def _action(kind: Kind, run: Run, reason: str) -> Action:
    return Action(kind, run.task, run.token, reason)
