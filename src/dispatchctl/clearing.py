"""The one door through which a worktree, branch or run directory of a finished run goes.

It refuses when anything would be lost; with `force` a rescue ref keeps it first, and the way to get it back is said.
"""

import os
from collections.abc import Collection, Sequence

from dispatchctl import processes, rundir
from dispatchctl.errors import Refused
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Phase, Run
from dispatchctl.windows import NoServer


def remove(runtime: Runtime, tasks: Collection[int], *, force: bool) -> list[str]:
    """Delete tasks with everything their runs left. All are checked before anything is touched.

    Returns what was rescued and how to get it back. Raises `Refused` if something would be lost and `force` is not given.
    """
    runs = {task: runtime.store.runs(task) for task in dict.fromkeys(tasks)}
    places = [run for each in runs.values() for run in _places(each)]
    for task, each in runs.items():
        if any(run.phase is not Phase.CLOSED for run in each):
            raise Refused(f"task {task} cannot be removed: it has an open run", f"dispatchctl cancel {task}")
        _refuse_children(runtime, task, tasks)
    for run in places:
        clear_place(runtime, run, force=force, check_only=True)
    notes = [note for run in places for note in clear_place(runtime, run, force=force)]
    for each in runs.values():
        for run in each:
            _clear_pane(runtime, run)
            rundir.remove(run.run_dir)
    runtime.store.remove(tasks, at=now())
    return notes


def _refuse_children(runtime: Runtime, task: int, removed: Collection[int]) -> None:
    """Raise `Refused` if a task that stays is to run after this one."""
    waiting = [child for child in runtime.store.children(task) if child not in removed]
    if waiting:
        raise Refused(
            f"task {task} cannot be removed: task {', '.join(map(str, waiting))} is to run after it",
            f"dispatchctl edit {waiting[0]} --after ''",
        )


def _places(runs: Sequence[Run]) -> list[Run]:
    """One run for each worktree and branch that the runs used."""
    return list({(run.worktree, run.branch): run for run in runs}.values())


def clear_place(runtime: Runtime, run: Run, *, force: bool, check_only: bool = False) -> list[str]:
    """Remove the worktree and branch of a closed run, or say what would be lost."""
    git = runtime.git
    if not os.path.isdir(run.repo):
        return []
    inside = processes.working_in(run.worktree)
    if inside:
        raise Refused(
            f"task {run.task}: process {', '.join(map(str, inside))} works in {run.worktree}",
            f"ps -o pid,args {' '.join(map(str, inside))}",
        )
    losses = git.losses(run)
    if losses and not force:
        raise Refused(
            f"task {run.task} was not removed: {run.worktree} holds what would be lost: {', '.join(losses)}",
            f"dispatchctl rm {run.task} --force",
        )
    if check_only:
        return []
    note = git.rescue(run) if losses else None
    git.remove_place(run)
    return [note] if note else []


def _clear_pane(runtime: Runtime, run: Run) -> None:
    try:
        runtime.windows(run.socket).kill(run.token)
    except NoServer:
        pass  # no server, no pane
