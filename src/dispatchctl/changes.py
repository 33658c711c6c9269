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
    """What the newest run that left a worktree or a branch, or was merged, has changed since its base commit; nothing is
    touched."""
    task = runtime.store.task(number)
    for place in _places(runtime, task):
        _check_repository(runtime, place)
        merged = _merged(runtime, task, place)
        if merged is not None:
            yield place, merged
            return
        found = runtime.git.find(place)
        if place.base_commit and (found.tip or (found.own and found.files)):
            pager = runtime.environment.inherited.get("GIT_PAGER")
            with runtime.git.difference(place, found, pager=pager) as seen:
                yield place, seen
            return
    raise _nothing_left(runtime, task)


def squash_trailer(task: int) -> str:
    """The last line of a commit that holds all of a task's work."""
    return f"Task: dispatchctl {task}"


def _merged(runtime: Runtime, task: Task, place: Run) -> Difference | None:
    """What was merged, if the task's newest run was and its branch has gone; None also if that commit is gone too.

    A merge commit or a squash of ours has brought in what it differs by from the base before it. Otherwise the commits
    themselves are in the base, or, where somebody else has squashed them, with a rescue ref.
    """
    run, git = task.run, runtime.git
    if run is None or run.merged is None or run.token != place.token or git.find(place):
        return None
    if not git.is_commit(run.repo, run.merged):
        return None
    pager = runtime.environment.inherited.get("GIT_PAGER")
    base, commit = place.base_commit, run.merged
    message, parents = git.message(run.repo, commit), git.parents(run.repo, commit)
    squash = len(parents) == 1 and message.rstrip().endswith(f"\n{squash_trailer(task.id)}")
    if squash or (len(parents) == 2 and message.startswith(f"Merge task {task.id}: ")):
        base = parents[0]
    else:
        commit = git.rescued(run) or commit
    if base is None or not git.is_commit(run.repo, base):
        return None
    return git.difference_of(run.repo, base, commit, pager=pager)


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
