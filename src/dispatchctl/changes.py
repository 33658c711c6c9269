"""What a task's newest run has changed, and where that is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from shlex import quote

from dispatchctl import clearing
from dispatchctl.errors import DispatchctlError, Refused
from dispatchctl.runtime import Runtime
from dispatchctl.task import Run, Task
from dispatchctl.worktrees import Difference


def place_of(runtime: Runtime, task: Task) -> Run:
    """The place of the task's newest run, with the commit from which its work began. Raises `Refused` if it has not run."""
    place = _places(runtime, task)[0]
    _check_repository(runtime, place)
    return place


def _check_repository(runtime: Runtime, place: Run) -> None:
    if clearing.repository_of(runtime, place) is None:
        raise DispatchctlError(
            f"task {place.task}: its repository {place.repo} is gone", f"ls -ld {quote(os.path.dirname(place.repo))}"
        )


def _places(runtime: Runtime, task: Task) -> list[Run]:
    """The places of the task's runs, the newest first."""
    runs = runtime.store.runs(task.id)
    if not runs:
        raise Refused(f"task {task.id} has not run yet, so it has changed nothing", f"dispatchctl dispatch {task.id}")
    return [
        replace(
            place, base_commit=next((run.base_commit for run in runs if _same(run, place) and run.base_commit), None)
        )
        for place in sorted(clearing.places(runs), key=lambda run: run.number, reverse=True)
    ]


def _same(one: Run, other: Run) -> bool:
    return (one.worktree, one.branch) == (other.worktree, other.branch)


@contextmanager
def difference(runtime: Runtime, number: int) -> Iterator[tuple[Run, Difference]]:
    """What the newest run that left a worktree or a branch has changed since its base commit; nothing is touched."""
    task = runtime.store.task(number)
    for place in _places(runtime, task):
        _check_repository(runtime, place)
        found = runtime.git.find(place)
        if place.base_commit and (found.tip or (found.own and found.files)):
            pager = runtime.environment.inherited.get("GIT_PAGER")
            with runtime.git.difference(place, found, pager=pager) as seen:
                yield place, seen
            return
    raise _nothing_left(runtime, task)


def _nothing_left(runtime: Runtime, task: Task) -> Refused:
    """Where to look for work whose worktree and branch are gone."""
    run = task.run
    assert run is not None, "it has run"
    repo = f"git -C {quote(run.repo)}"
    if run.merged:
        what = f"show {run.merged}"
        if run.base_commit and runtime.git.is_commit(run.repo, run.base_commit):
            what = f"diff {run.base_commit} {run.merged}"
        return Refused(
            f"task {task.id} was merged into {task.base} as {run.merged[:10]}, and its branch is gone", f"{repo} {what}"
        )
    why = f"task {task.id} has neither a worktree nor a branch any more"
    return Refused(why, f"{repo} for-each-ref refs/dispatchctl/rescue/{task.id}")
