"""The one door through which a worktree, branch or run directory of a finished run goes.

It refuses when anything would be lost; with `force` a rescue ref keeps it first, and the way to get it back is said.
"""

import os
import shlex
from collections.abc import Callable, Collection, Sequence

from dispatchctl import processes, rundir
from dispatchctl.errors import Refused
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Phase, Run, Status
from dispatchctl.windows import NoServer


def remove(runtime: Runtime, tasks: Collection[int], *, force: bool, tell: Callable[[str], None]) -> None:
    """Delete tasks with everything their runs left. All are checked before anything is touched.

    `tell` hears at once what was rescued and how to get it back. Raises `Refused` if something would be lost and `force` is
    not given. What stops it midway leaves the rows, and doing it again goes on.
    """
    runs = {task: runtime.store.runs(task) for task in tasks}
    for task, each in runs.items():
        if any(run.phase is not Phase.CLOSED for run in each):
            raise Refused(f"task {task} cannot be removed: it has an open run", f"dispatchctl cancel {task}")
        _refuse_children(runtime, task, tasks)
    places = [run for each in runs.values() for run in _places(each)]
    going = {run.branch for run in places}
    for run in places:
        _check_place(runtime, run, going, force=force)
    for task, each in runs.items():
        _keep_from_starting(runtime, task, each)
    for each in runs.values():
        for run in each:
            _clear_pane(runtime, run)
    for run in places:
        clear_place(runtime, run, going, force=force, tell=tell)
    for each in runs.values():
        for run in each:
            rundir.remove(run.run_dir)
    runtime.store.remove(tasks, at=now())


def _keep_from_starting(runtime: Runtime, task: int, seen: Sequence[Run]) -> None:
    """Have no dispatcher claim the task, whose next run would go on in the worktree that is about to be removed."""
    if runtime.store.task(task).status is Status.READY:
        runtime.store.cancel(task, at=now())
    if [run.token for run in runtime.store.runs(task)] != [run.token for run in seen]:
        raise Refused(f"task {task} was not removed: it was started meanwhile", f"dispatchctl show {task}")


def _refuse_children(runtime: Runtime, task: int, removed: Collection[int]) -> None:
    """Raise `Refused` if a task that stays is to run after this one."""
    waiting = [child for child in runtime.store.children(task) if child not in removed]
    if waiting:
        kept = [parent for parent in runtime.store.task(waiting[0]).after if parent not in removed]
        raise Refused(
            f"task {task} cannot be removed: task {', '.join(map(str, waiting))} is to run after it",
            f"dispatchctl edit {waiting[0]} --after {shlex.quote(','.join(map(str, kept)))}",
        )


def _places(runs: Sequence[Run]) -> list[Run]:
    """One run for each worktree and branch that the runs used."""
    return list({(run.worktree, run.branch): run for run in runs}.values())


def _check_place(runtime: Runtime, run: Run, going: Collection[str], *, force: bool) -> list[str]:
    """What would be lost if the worktree and branch of a closed run went along with the branches `going`.

    Raises `Refused` if they must not go: something would be lost and `force` is not given, or nothing could keep it.
    """
    if not os.path.isdir(run.repo):
        if os.path.lexists(run.worktree):
            raise Refused(
                f"task {run.task} was not removed: its repository {run.repo} is gone, so nobody can say what of"
                f" {run.worktree} would be lost",
                f"rm -r {shlex.quote(run.worktree)}",
            )
        return []
    inside = processes.working_in(run.worktree)
    if inside:
        raise Refused(
            f"task {run.task} was not removed: process {', '.join(map(str, inside))} works in {run.worktree}",
            f"ps -o pid,args {' '.join(map(str, inside))}",
        )
    losses = runtime.git.losses(run, going)
    beyond = runtime.git.beyond_rescue(run) if losses else []
    if beyond and force:
        raise Refused(
            f"task {run.task} was not removed: {run.worktree} holds what no ref could keep: {', '.join(beyond)}",
            f"ls -la {shlex.quote(run.worktree)}",
        )
    if losses and not force:
        raise Refused(
            f"task {run.task} was not removed: {run.worktree} holds what would be lost: {', '.join(losses)}",
            f"dispatchctl rm {run.task} --force",
        )
    return losses


def clear_place(
    runtime: Runtime, run: Run, going: Collection[str], *, force: bool, tell: Callable[[str], None]
) -> None:
    """Remove the worktree and branch of a closed run; what would be lost is kept by a ref first, and `tell` hears of it."""
    losses = _check_place(runtime, run, going, force=force)
    if not os.path.isdir(run.repo):
        return
    if losses:
        tell(runtime.git.rescue(run))
    runtime.git.remove_place(run)


def _clear_pane(runtime: Runtime, run: Run) -> None:
    try:
        runtime.windows(run.socket).kill(run.token)
    except NoServer:
        pass  # no server, no pane
