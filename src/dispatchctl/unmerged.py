"""Finished work that its base does not have yet, as git says now: whoever merged it, and whatever other branch has it too."""

from collections.abc import Collection, Mapping

from dispatchctl.changes import place_of
from dispatchctl.clearing import repository_of
from dispatchctl.errors import LaunchError
from dispatchctl.runtime import Runtime
from dispatchctl.task import Phase, Run, Status, Task

MERGEABLE = (Status.IN_REVIEW, Status.DONE)


def how_to_merge(task: int) -> str:
    """What is said of such a task, with what is to be typed."""
    return f"not merged: dispatchctl merge {task}"


def is_unmerged(runtime: Runtime, task: Task) -> bool:
    """Whether the task is done or in review and the branch of its newest run has commits of its own that its base has not.

    What was squashed by hand counts as not merged until `merge` has looked at it. A base that is gone has nothing.
    """
    run = task.run
    if run is None or run.phase is not Phase.CLOSED or task.status not in MERGEABLE:
        return False
    if repository_of(runtime, run) is None:
        return False
    return has_unmerged(runtime, task, place_of(runtime, task))


def has_unmerged(runtime: Runtime, task: Task, place: Run) -> bool:
    """The same of the place of the newest run, with the commit from which its work began."""
    git = runtime.git
    tip = git.branch_tip(place.repo, place.branch) if place.owns_branch else None
    if tip is None or tip == place.base_commit:
        return False
    try:
        return not git.is_merged(place.repo, place.branch, task.base, merged=task.run.merged if task.run else None)
    except LaunchError:
        return True  # no such base


def all_unmerged(runtime: Runtime, tasks: Collection[Task]) -> list[Task]:
    """Those of the tasks, in their order. git is asked once for each repository and base, and more only of what it names."""
    bases = {(task.repo, task.base): task.run for task in tasks if task.run and task.status in MERGEABLE}
    open_ = {at: _candidates(runtime, run, at[1]) for at, run in bases.items()}
    return [
        task
        for task in tasks
        if task.run and task.run.branch in open_.get((task.repo, task.base), ()) and is_unmerged(runtime, task)
    ]


def _candidates(runtime: Runtime, run: Run, base: str) -> Mapping[str, str]:
    if repository_of(runtime, run) is None:
        return {}
    return runtime.git.unmerged_branches(run.repo, base)
